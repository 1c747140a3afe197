"""The audit log in syslog."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kes_core.audit.syslog import MAX_MESSAGE
from tests.helpers.audit_log import HOSTILE, change
from tests.helpers.observation import families
from tests.helpers.server import Server, send_raw

Run = Callable[..., Server]


class Receiver:
    """A syslog server on a socket."""

    def __init__(self, kind: int, path: Path | None = None) -> None:
        self.messages: list[bytes] = []
        self.changed = threading.Condition()
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET, kind)
        self.socket.bind(str(path) if path else ("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            self.socket.listen()
        self.stream = kind == socket.SOCK_STREAM
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while self.stream:
            try:
                connection, _address = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    self.take(line.removesuffix(b"\n"))
        with contextlib.suppress(OSError):  # it is closed at the end of the test
            while data := self.socket.recv(65536):
                self.take(data)

    def take(self, message: bytes) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[bytes]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, timeout=60), self.messages
            return list(self.messages)


@pytest.fixture(params=["unix", "udp", "tcp"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Receiver, str]]:
    path = tmp_path / "log" if request.param == "unix" else None
    kind = socket.SOCK_STREAM if request.param == "tcp" else socket.SOCK_DGRAM
    receiver = Receiver(kind, path)
    name = receiver.socket.getsockname()
    yield receiver, str(path) if path else f"{request.param}://{name[0]}:{name[1]}"
    receiver.socket.close()


def test_syslog(run_server: Run, receiver: tuple[Receiver, str]) -> None:
    log, address = receiver
    server = run_server({"audit": {"syslog": {"address": address, "facility": "local3"}}})
    with server.client() as client:
        for target in HOSTILE:
            send_raw(client, "PUT", target)
    for message, target in zip(log.wait_for(len(HOSTILE)), HOSTILE, strict=True):
        priority, _, text = message.partition(b"kes: ")
        assert priority == b"<%d>" % (19 * 8 + 6)  # local3, informational
        assert len(message) <= MAX_MESSAGE + 20
        record = json.loads(text)
        assert record["request"]["path"].startswith("/v1/key/create/")
        assert record.get("shortened", False) == (len(target) > 1000)
    assert server.stop() == 0


def test_log_host_that_reads_nothing_delays_no_request(run_server: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        server = run_server({"audit": {"syslog": {"address": f"tcp://127.0.0.1:{port}"}}})
        with server.client() as client:
            for _ in range(300):
                assert client.get("/v1/key/describe/" + "x" * 5000).status_code == 400
        server.kill()


@pytest.mark.parametrize("by", ["stop", "reload"])
def test_records_that_a_log_host_does_not_take_are_counted_and_delay_no_request(run_server: Run, by: str) -> None:
    count, meanwhile = 1500, 0
    with socket.socket() as deaf:
        # The sink has only one connection, with little room for data.
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        server = run_server({"audit": {"syslog": {"address": address}}})
        with server.client() as client:
            for _ in range(count):
                client.get("/v1/key/describe/" + "x" * 1700)
            if by == "stop":
                assert server.stop() == 0
            else:
                change(server, audit={})
                server.signal(signal.SIGHUP)
                reloaded = time.monotonic()
                while not any("did not accept" in line for line in server.errors):
                    assert time.monotonic() < reloaded + 60
                    client.get("/version")
                    meanwhile += 1
                    time.sleep(0.01)  # many more requests would show nothing more
        line = json.loads(server.wait_for_log("did not accept the last audit records"))["message"]
        counted = families(server)["kes_audit_records_lost_total"][1]["syslog"] if by == "reload" else None
    assert by == "stop" or meanwhile > 2  # the old sink waits for its log host for seconds
    lost = re.fullmatch(rf"syslog at '{address[6:]}' did not accept the last audit records: (\d+) are lost", line)
    assert lost is not None
    assert 0 < int(lost[1]) < count
    assert counted in {None, int(lost[1])}

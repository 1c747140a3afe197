"""Listening sockets that systemd passes to the server (sd_listen_fds(3)), and restarts that lose no request."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kes_core.client import Client
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.programs import free_port
from tests.helpers.server import Server, start_server, write_config

LAUNCHER = """
import fcntl, os, sys
descriptors, names = sys.argv[1].split(","), sys.argv[2]
spare = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 100) for number in descriptors]
for target, number in enumerate(spare, 3):
    os.dup2(number, target)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(spare)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "kes_core.cli", *sys.argv[3:]])
"""
"""Does what systemd does between fork and exec. The sockets of the service begin at descriptor 3."""


def launcher(*descriptors: int, names: str) -> tuple[str, ...]:
    return "-c", LAUNCHER, ",".join(map(str, descriptors)), names


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        yield sock


@pytest.fixture
def admin(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path, "admin")


@contextmanager
def traffic(call: Callable[[], object]) -> Iterator[Callable[[int], None]]:
    """Call `call` again and again in a thread. Yield a function that waits for more calls; raise a call's error."""
    done, ended = threading.Semaphore(0), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        while not ended.is_set():
            try:
                call()
            except BaseException as error:
                errors.append(error)
                return
            finally:
                done.release()

    def wait(calls: int) -> None:
        for _ in range(calls):
            assert done.acquire(timeout=60)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield wait
    finally:
        ended.set()
        thread.join()
    assert not errors, errors


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_loses_no_request(listening: socket.socket, admin: Credentials, tmp_path: Path, workers: int) -> None:
    """A client with open connections and new clients go on through two restarts."""
    (tmp_path / "keys").mkdir(mode=0o700)
    overrides = {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "keys": [{"name": "my-key"}], "workers": workers}

    def start() -> Server:
        how = launcher(listening.fileno(), names="kes.socket")
        return start_server(tmp_path, overrides, admin=admin, python=how, pass_fds=[listening.fileno()])

    def client() -> Client:
        return Client(f"127.0.0.1:{listening.getsockname()[1]}", api_key=admin.api_key, insecure=True, timeout=60)

    def call_with_new_client() -> None:
        with client() as kms:
            kms.generate_data_key("my-key")

    server = start()
    assert server.port == listening.getsockname()[1]
    with (
        client() as kms,
        traffic(lambda: kms.generate_data_key("my-key")) as more,
        traffic(call_with_new_client) as more_new,
    ):
        for _restart in range(2):
            more(5)
            more_new(2)
            assert server.stop() == 0
            server = start()
            more(5)
            more_new(2)
    assert server.stop() == 0


def test_sockets_of_api_and_probes_have_names(listening: socket.socket, admin: Credentials, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probes:
        sockets = [probes.fileno(), listening.fileno()]
        overrides = {"probe": {"address": f"127.0.0.1:{free_port()}"}}
        how = launcher(*sockets, names="probe:kes.socket")
        server = start_server(tmp_path, overrides, admin=admin, python=how, pass_fds=sockets)
        try:
            port = probes.getsockname()[1]
            assert server.port == listening.getsockname()[1]
            server.wait_for_log(f"probes are answered on http://127.0.0.1:{port}")
            warning = f"is not used: systemd listens on 127.0.0.1:{port} for the server"
            assert any("probe.address: " in line and warning in line for line in server.errors)
        finally:
            assert server.stop() == 0


def test_sockets_of_another_process_are_left_alone(admin: Credentials, tmp_path: Path) -> None:
    """A shell between systemd and the server passes the variables on, but the sockets are not for the server."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    server = start_server(tmp_path, admin=admin, environment=environment)
    assert server.stop() == 0


@pytest.mark.parametrize("kind", ["file", "datagram", "not listening"])
def test_descriptors_that_do_not_listen(kind: str, admin: Credentials, tmp_path: Path) -> None:
    config = write_config(tmp_path, admin.identity)
    with (
        (tmp_path / "file").open("w") as file,
        socket.socket(type=socket.SOCK_DGRAM) as datagram,
        socket.socket() as silent,
    ):
        silent.bind(("127.0.0.1", 0))
        numbers = {"file": file.fileno(), "datagram": datagram.fileno(), "not listening": silent.fileno()}
        descriptor = numbers[kind]
        done = subprocess.run(
            [sys.executable, *launcher(descriptor, names=""), "server", "--config", str(config)],
            pass_fds=[descriptor],
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "Error: systemd passed a descriptor that is not a listening TCP socket: " in done.stderr
    assert "Traceback" not in done.stderr

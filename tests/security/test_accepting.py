"""Connections are free for a stranger, so they must not cost clients and the key store anything either."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.server import Server, start_server

FLOOD = 3000
KEPT = 500
"""The number of connections that the stranger keeps open at a time."""


@contextlib.contextmanager
def flood(server: Server) -> Iterator[threading.Event]:
    """Connect again and again and send nothing; yield an event that is set after `FLOOD` connections."""
    enough, stop = threading.Event(), threading.Event()
    kept: collections.deque[socket.socket] = collections.deque()

    def run() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex((server.host, server.port))
            kept.append(sock)
            if len(kept) > KEPT:
                kept.popleft().close()
            if number == FLOOD:
                enough.set()
            stop.wait(0.0005)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield enough
    finally:
        stop.set()
        thread.join()
        for sock in kept:
            sock.close()


def assert_log_is_short(server: Server, seconds: float) -> None:
    """Check that the log has no traceback, and at most one line a second on connections that were not accepted."""
    assert [line for line in server.errors if "Traceback" in line or "Too many open files" in line] == []
    lines = [line for line in server.errors if "connections" in line]
    assert len(lines) <= seconds + 2, lines


@pytest.mark.parametrize("workers", [1, 2])
def test_keys_are_created_while_a_stranger_connects(tmp_path: Path, workers: int) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    overrides = {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "workers": workers}
    server = start_server(tmp_path, overrides, limit_files=256)
    began = time.monotonic()
    try:
        with flood(server) as enough, server.client(http2=False) as old:
            old.get("/version").raise_for_status()
            number = 0
            while not enough.is_set() or number < 20:
                old.put(f"/v1/key/create/old-{number}").raise_for_status()
                with server.client() as new:  # there must be room for its handshake
                    new.put(f"/v1/key/create/new-{number}").raise_for_status()
                number += 1
        assert len(list((tmp_path / "keys").iterdir())) >= 2 * number
    finally:
        assert server.stop() == 0
    assert_log_is_short(server, workers * (time.monotonic() - began))
    assert any("connections without a handshake" in line for line in server.errors)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("server"))
    yield server
    assert server.stop() == 0


def test_client_that_says_nothing_is_closed_sooner_than_one_that_has_begun_its_handshake(server: Server) -> None:
    with (
        socket.create_connection((server.host, server.port)) as slow,
        socket.create_connection((server.host, server.port), timeout=60) as silent,
    ):
        slow.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        assert time.monotonic() - began > 4
        assert not select.select([slow], [], [], 1)[0]


def test_server_out_of_descriptors_waits_for_some(tmp_path: Path) -> None:
    """The server does not spin, logs the shortage once a second, and serves again as soon as it can."""
    server = start_server(tmp_path)
    pid = server.process.pid
    try:
        _soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))  # more are open already, so it gets no new one
        with socket.create_connection((server.host, server.port)):
            server.wait_for_log("can't accept connections at the moment: Too many open files")
            before = cpu_seconds(pid)
            server.wait_for_log("can't accept connections at the moment: Too many open files")
            assert cpu_seconds(pid) - before < 0.3
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            with server.client() as client:
                client.get("/version").raise_for_status()
        assert not any("Traceback" in line for line in server.errors)
    finally:
        assert server.stop() == 0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

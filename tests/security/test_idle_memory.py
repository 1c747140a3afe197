"""An idle connection takes little memory: clients keep many open."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.helpers.http2 import Http2Client
from tests.helpers.server import Server, is_native, read_response, start_server

CONNECTIONS = 250
REQUEST = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMITS = {("native", "http/1.1"): 11, ("native", "h2"): 21, ("hypercorn", "http/1.1"): 44, ("hypercorn", "h2"): 52}
"""KiB of resident memory for a connection, somewhat more than it takes now. A request to a key takes some KiB more:
docs/performance.md has the goals, and what is measured. kes-native was built after `python3 scripts/crates.py`."""

pytestmark = pytest.mark.measured


def resident(server: Server) -> int:
    """Return the server's resident memory in KiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def open_connections(server: Server, alpn: str, count: int, stack: contextlib.ExitStack) -> None:
    """Open connections, each with one request."""
    for _ in range(count):
        connection = stack.enter_context(server.connection(alpn=[alpn]))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the request does not wait for an ACK
        if alpn == "h2":
            assert Http2Client(connection).run("GET", "/version", count=1, at_once=1) == 1
        else:
            connection.sendall(REQUEST)
            assert read_response(connection)[0] == 200


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_idle_connections_take_little_memory(tmp_path: Path, alpn: str) -> None:
    server = start_server(tmp_path)
    try:
        with contextlib.ExitStack() as stack:
            open_connections(server, alpn, 20, stack)  # the first ones also take what all of them share
            before = resident(server)
            open_connections(server, alpn, CONNECTIONS, stack)
            size = (resident(server) - before) / CONNECTIONS
    finally:
        assert server.stop() == 0
    assert size < LIMITS["native" if is_native() else "hypercorn", alpn]

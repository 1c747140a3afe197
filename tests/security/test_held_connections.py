"""Clients can't tie up shared resources: unread connections, places for log readers, memory for bodies."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h2.events
import h2.settings
import pytest

from tests.helpers.http2 import Http2Client
from tests.helpers.server import Server, read_response, resident_kib
from tests.helpers.tls import MemoryTls

RunServer = Callable[..., Server]

HURRIED = """
import socket
import kes_core.server.wire.http2 as http2
import kes_core.server.wire.listener as runtime
import kes_core.server.events as streams
import kes_core.server.wire.tls_connection as tls_connection
import kes_core.cli as cli

http2.WINDOW_TIMEOUT = 0.5
runtime.WRITE_TIMEOUT = 0.5
runtime.SWEEP_INTERVAL = 0.05
runtime.IDLE_TIMEOUT = 1.0
streams.MAX_READERS = 3
made = tls_connection.TLSConnection.connection_made

def with_small_buffer(self, transport):
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    made(self, transport)

tls_connection.TLSConnection.connection_made = with_small_buffer
cli.main()
"""
"""Runs the server with short timeouts, few places for readers, and small send buffers in the kernel."""
LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp."""
LISTING = b"GET /v1/api HTTP/1.1\r\nHost: localhost\r\n\r\n"
LOG = b"GET /v1/log/error HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connections_of(server: Server) -> int:
    """Return the number of accepted connections that the server has open.

    In the kernel's table (proc(5), /proc/net/tcp), connections that are not accepted yet or already closed have the
    inode 0. An ordinary user can't list the server's open files, because the process is not dumpable.
    """
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{server.port:04X}") and row[3] != LISTENING and row[9] != "0" for row in rows)


def wait_until(condition: Callable[[], bool], what: str, *, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def slow_reader(server: Server, alpn: str = "http/1.1") -> Iterator[ssl.SSLSocket]:
    """Connect with a very small receive buffer."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(20)
    raw.connect((server.host, server.port))
    context = server.ssl_context(server.admin)
    context.set_alpn_protocols([alpn])
    with context.wrap_socket(raw, server_hostname="localhost") as connection:
        yield connection


@pytest.mark.parametrize("last", [b"", b"GET /v1/api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"])
@pytest.mark.parametrize("requests", [3, 8, 20, 40])
def test_client_that_does_not_read_loses_its_connection(run_server: RunServer, requests: int, last: bytes) -> None:
    """This holds however few answers are left, with or without `Connection: close`."""
    server = run_server(python=("-c", HURRIED))
    with slow_reader(server) as connection:
        connection.sendall(LISTING * requests + last)
        # It has accepted the connection: the handshake is done.
        wait_until(lambda: connections_of(server) == 0, "the server has kept the connection")


def test_http2_stream_whose_window_stays_closed_is_reset(run_server: RunServer) -> None:
    """The server resets streams from which the client takes nothing: a log, an ordinary answer, and one at once."""
    server = run_server({"keys": [{"name": "my-key"}]}, python=("-c", HURRIED))
    with server.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        streams = {client.request("GET", "/v1/log/audit"), client.request("GET", "/v1/api")}
        # In two frames, as from most clients: then the server answers it at once.
        generate = client.request("PUT", "/v1/key/generate/my-key", end=False)
        client.h2.send_data(generate, b"{}", end_stream=True)
        streams.add(generate)
        client.flush()
        given_up: set[int] = set()
        while given_up != streams:
            for event in client.events():
                if isinstance(event, h2.events.StreamReset):
                    given_up.add(event.stream_id)
            with server.client(http2=False) as other:
                other.get("/v1/nope")  # an event of the audit log


def test_log_readers_that_disconnect_free_their_places(run_server: RunServer) -> None:
    """The place is free even if the client has sent more requests after the one for the log."""
    server = run_server(python=("-c", HURRIED))
    for behind in (b"", LISTING, LISTING * 100, LISTING * 2000):
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                connection = stack.enter_context(server.connection())
                connection.sendall(LOG)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
                connection.sendall(behind)
            with server.client(http2=False) as client, client.stream("GET", "/v1/log/error") as response:
                assert response.status_code == (503 if len(behind) < 64 * 1024 else response.status_code)

        def there_is_room() -> bool:
            with server.client(http2=False) as client, client.stream("GET", "/v1/log/error") as response:
                return response.status_code == 200

        wait_until(there_is_room, f"{len(behind)} bytes behind the request keep the reader's place")


def test_connection_in_use_stays_open(run_server: RunServer) -> None:
    """Also one whose requests are all alike, which take a shorter way."""
    server = run_server(python=("-c", HURRIED))
    body = b'{"context":""}'
    head = b"PUT /v1/key/generate/used HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with server.client() as client:
        assert client.put("/v1/key/create/used").status_code == 200
    with server.connection(server.admin) as connection:
        until = time.monotonic() + 2.5  # more than twice the limit for idle connections
        while time.monotonic() < until:
            connection.sendall(head + body)
            assert read_response(connection)[0] == 200
            time.sleep(0.1)


@pytest.mark.parametrize("end", ["close_notify", "close_notify and FIN"])
def test_client_that_ends_its_side_still_gets_its_answers(server: Server, end: str) -> None:
    """The client sends through memory, because `unwrap` on a socket would lose answers that arrive before it."""
    context = server.ssl_context(server.admin)
    with MemoryTls(server, context) as connection:
        connection.tls.write(LISTING + LISTING)
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.tls.unwrap()
        connection.flush()
        if end.endswith("FIN"):
            connection.raw.shutdown(socket.SHUT_WR)
        for _ in range(2):
            status, headers, body = read_response(connection)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert isinstance(json.loads(body), list)


def test_halves_of_many_bodies_do_not_wait_for_each_other(server: Server) -> None:
    """250 requests on one connection first send half of each body, and then the rest."""
    with server.client() as client:
        assert client.put("/v1/key/create/halves").status_code == 200
    body = b'{"plaintext":"' + b"QUFB" * 2000 + b'"}'
    answers = send_in_halves(server, body)
    assert answers == [200] * 250


def test_unfinished_bodies_have_a_limit(run_server: RunServer) -> None:
    """The server refuses requests over the limit at once, and answers every request."""
    server = run_server({"api": {"/v1/key/encrypt/": {"timeout": "1m"}}})
    with server.client() as client:
        assert client.put("/v1/key/create/halves").status_code == 200
    before = resident_kib(server)
    answers = send_in_halves(server, b'{"plaintext":"' + b"QUFB" * 60_000 + b'"}')
    assert set(answers) == {200, 503}
    assert answers.count(200) > 8
    assert resident_kib(server) - before < 48 * 1024
    with server.client() as client:
        assert client.put("/v1/key/encrypt/halves", json={"plaintext": ""}).status_code == 200


def send_in_halves(server: Server, body: bytes) -> list[int]:
    """Send 250 requests at a time on one connection, first half of each body; return the statuses."""
    with server.connection(alpn=["h2"]) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Http2Client(connection)
        streams = [client.request("PUT", "/v1/key/encrypt/halves", end=False) for _ in range(250)]
        client.flush()
        answers: dict[int, int] = {}
        middle = len(body) // 2
        for part, last in ((body[:middle], False), (body[middle:], True)):
            for stream in streams:
                send_part(client, stream, part, answers, last=last)
        while len(answers) < len(streams):
            take(client, answers)
        return list(answers.values())


def send_part(client: Http2Client, stream: int, part: bytes, answers: dict[int, int], *, last: bool) -> None:
    while part and stream not in answers:
        size = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size, len(part))
        if size:
            client.h2.send_data(stream, part[:size], end_stream=last and size == len(part))
            part = part[size:]
            client.flush()
        else:
            take(client, answers)


def take(client: Http2Client, answers: dict[int, int]) -> None:
    for event in client.events():
        if isinstance(event, h2.events.ResponseReceived):
            answers[event.stream_id] = int(dict(event.headers)[b":status"])
    client.flush()

"""Many clients, fast clients, slow clients and hostile clients: the server goes on serving the others."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from tests.helpers.http2 import Http2Client
from tests.helpers.server import Server, read_response, resident_kib, start_server
from tests.helpers.tls import MemoryTls

VERSION_REQUEST = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    overrides = {
        "keys": [{"name": "my-key"}],
        "api": {"/v1/key/encrypt/": {"timeout": "2s"}},
    }
    server = start_server(tmp_path_factory.mktemp("busy"), overrides)
    yield server
    assert server.stop() == 0, "\n".join(server.errors)


@contextmanager
def still_served(server: Server) -> Iterator[None]:
    """Check that the server serves another client all the time while the block runs."""
    done = threading.Event()
    slowest: list[float] = [0.0]
    failures: list[str] = []

    def ask() -> None:
        with server.client() as client:
            while not done.is_set():
                start = time.monotonic()
                response = client.put("/v1/key/generate/my-key")
                slowest[0] = max(slowest[0], time.monotonic() - start)
                if response.status_code != 200:
                    failures.append(response.text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failures
    assert slowest[0] < 30.0  # seconds, on a machine that has much else to do


@pytest.mark.measured
def test_one_connection_carries_50000_requests_while_others_come_and_go(busy: Server) -> None:
    """64 requests run at a time and none fails, while 200 connections open and close."""

    def come_and_go() -> int:
        good = 0
        for _ in range(200):
            with busy.connection() as connection:
                connection.sendall(VERSION_REQUEST)
                good += read_response(connection)[0] == 200
        return good

    with busy.connection(alpn=["h2"]) as connection, ThreadPoolExecutor(1) as pool:
        others = pool.submit(come_and_go)
        client = Http2Client(connection)
        assert client.run("PUT", "/v1/key/generate/my-key", count=50_000, at_once=64) == 50_000
        assert others.result() == 200


def test_64_clients_connect_at_the_same_moment_and_ask_at_once(busy: Server) -> None:
    """Each sends its first request together with the end of its handshake."""
    barrier = threading.Barrier(64)

    def ask(number: int) -> int:
        context = busy.ssl_context(busy.admin)
        context.set_alpn_protocols(["http/1.1"])
        barrier.wait()
        if number % 2:
            with busy.connection(timeout=60) as connection:
                connection.sendall(VERSION_REQUEST)
                return read_response(connection)[0]
        return ask_with_the_handshake(busy, context)

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [200] * 64


def ask_with_the_handshake(server: Server, context: ssl.SSLContext) -> int:
    """Send the last message of the handshake and a request in one piece."""
    with MemoryTls(server, context) as connection:
        connection.tls.write(VERSION_REQUEST)
        connection.flush()
        return read_response(connection)[0]


def test_connection_flood(busy: Server) -> None:
    """The server closes silent connections after a while, and until then they take no other client's place."""
    with still_served(busy):
        idle = [socket.create_connection((busy.host, busy.port)) for _ in range(500)]
        try:
            idle[0].settimeout(60)
            assert idle[0].recv(1) == b""
        finally:
            for connection in idle:
                connection.close()


def test_more_connections_than_the_limit_are_closed(run_server: Callable[..., Server]) -> None:
    """The server has room for 128 connections beyond its reserve of files, and closes all others at once."""
    server = run_server(arguments=(), limit_files=256)
    with ExitStack() as stack:
        for _ in range(128):
            stack.enter_context(server.connection())
        late = [stack.enter_context(socket.create_connection((server.host, server.port))) for _ in range(20)]
        server.wait_for_log("turned away")
        for connection in late:
            connection.settimeout(60)
            assert is_closed(connection)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # the server takes a moment to notice that they are gone
        try:
            with server.connection() as connection:
                connection.sendall(VERSION_REQUEST)
                assert read_response(connection)[0] == 200
                return
        except (ConnectionError, ssl.SSLError):
            continue
    pytest.fail("the server did not serve again")


def is_closed(connection: socket.socket) -> bool:
    """Return whether the other side closes a silent connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_request_before_the_handshake_ends(busy: Server) -> None:
    """Plain HTTP on the TLS port gets an answer that explains the mistake, and the server closes the connection."""
    with still_served(busy), socket.create_connection((busy.host, busy.port)) as raw:
        raw.sendall(VERSION_REQUEST)
        raw.settimeout(60)
        data = b""
        try:
            while chunk := raw.recv(65536):
                data += chunk
        except ConnectionError:
            pass
        assert data == b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


def test_dribbled_headers_are_timed_out(busy: Server) -> None:
    with still_served(busy), busy.connection() as connection:
        start = time.monotonic()
        connection.sendall(b"GET /version HTTP/1.1\r\n")
        connection.settimeout(0.5)
        try:
            while time.monotonic() - start < 60:
                connection.sendall(b"X-A: b\r\n")
                try:
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass
        assert 5 < time.monotonic() - start < 30


def test_dribbled_body_is_timed_out(busy: Server) -> None:
    """The body has to arrive within the time of the route, which covers the whole request."""
    head = b"PUT /v1/key/encrypt/my-key HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with still_served(busy), busy.connection() as connection:
        connection.sendall(head + b'{"plaintext":"')
        start = time.monotonic()
        assert read_response(connection)[0] == 504
        assert 1 < time.monotonic() - start < 15  # the default


@pytest.mark.parametrize("declared", [b"Content-Length: 2000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_body_over_the_limit_is_refused(busy: Server, declared: bytes) -> None:
    head = b"PUT /v1/key/encrypt/my-key HTTP/1.1\r\nHost: localhost\r\n" + declared + b"\r\n"
    body = b'{"plaintext":"' + b"A" * 1_999_984 + b'"}'
    if b"chunked" in declared:
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:999_999], body[999_999:])) + b"0\r\n\r\n"
    with still_served(busy), busy.connection() as connection:
        sender = threading.Thread(target=send_quietly, args=(connection, head + body))
        sender.start()
        status, _, answer = read_response(connection)
        assert (status, answer) == (400, b'{"message":"invalid request body"}')
        connection.close()
        sender.join()


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
def test_client_that_sends_too_much_reads_why(busy: Server, http2: bool) -> None:
    """The server reads on for a while after its answer: if it closed at once, most clients would lose the answer."""
    body = b'{"plaintext":"' + b"A" * 1_150_000 + b'"}'
    with busy.client(http2=http2) as client:
        for _ in range(3):
            response = client.put("/v1/key/encrypt/my-key", content=body)
            assert (response.status_code, response.json()) == (400, {"message": "invalid request body"})


def send_quietly(connection: ssl.SSLSocket, data: bytes) -> None:
    """Send as much as the server takes."""
    try:
        connection.sendall(data)
    except OSError:
        pass


def test_body_that_never_comes_is_timed_out(busy: Server) -> None:
    """A declared length that is too long delays only the client that declared it."""
    request = b"PUT /v1/key/encrypt/my-key HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{}"
    with still_served(busy), busy.connection() as connection:
        connection.sendall(request)
        assert read_response(connection)[0] == 504


def test_unread_bodies_do_not_block_a_connection(busy: Server) -> None:
    """Refused requests whose bodies nobody reads don't use up the connection's flow-control window."""
    with busy.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        for _ in range(40):
            stream = client.request("PUT", "/v1/nope", end=False)
            client.h2.send_data(stream, b"x" * 8000, end_stream=False)
            client.flush()
            while not any(
                isinstance(event, h2.events.StreamEnded | h2.events.StreamReset) and event.stream_id == stream
                for event in client.events()
            ):
                pass
        assert client.run("PUT", "/v1/key/generate/my-key", count=100, at_once=64) == 100


def test_unexpected_body_leaves_the_connection_usable(busy: Server) -> None:
    with busy.connection() as connection:
        for number in range(3):
            body = b"x" * 100_000
            head = b"PUT /v1/key/create/body-%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" % number
            connection.sendall(head + body)
            assert read_response(connection)[0] == 200


def test_expect_100_continue(busy: Server) -> None:
    """The server asks for the body only if it serves the request."""
    head = b"PUT %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with busy.connection() as connection:
        connection.sendall(head % b"/v1/key/encrypt/my-key")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        assert read_response(connection)[0] == 200
    with busy.connection() as connection:
        connection.sendall(head % b"/v1/nope")
        assert read_response(connection)[0] == 404


def test_client_that_only_asks_and_never_reads_is_cut_off(busy: Server) -> None:
    """The server stops reading when unsent answers pile up, so that they can't fill the memory."""
    before = resident_kib(busy)
    with still_served(busy), busy.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        connection.settimeout(2)
        with pytest.raises(TimeoutError):
            ping_without_end(client)
        assert resident_kib(busy) - before < 64 * 1024


def ping_without_end(client: Http2Client) -> None:
    for _ in range(100_000):
        for _ in range(100):
            client.h2.ping(b"12345678")
        client.flush()

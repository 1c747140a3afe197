"""Threads share a client; a client is used where its connections do not work."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kes_core.client import AsyncClient, Client, ClientUnusableError
from tests.helpers.certificates import make_credentials, make_server_certificate
from tests.helpers.server import Server, start_server
from tests.helpers.threads import serving

THREADS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("server"), {"keys": [{"name": "my-key"}]})
    yield server
    assert server.stop() == 0


def client(server: Server) -> Client:
    return Client(server.url, api_key=server.admin.api_key, insecure=True)


def async_client(server: Server) -> AsyncClient:
    return AsyncClient(server.url, api_key=server.admin.api_key, insecure=True)


@pytest.mark.parametrize("calls", [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_threads_share_a_client_and_lose_no_call(server: Server, calls: int) -> None:
    together = threading.Barrier(THREADS)
    with client(server) as kms, ThreadPoolExecutor(THREADS) as pool:

        def work(_thread: int) -> None:
            together.wait()
            for number in range(calls // THREADS):
                context = b"%d" % number
                data_key = kms.generate_data_key("my-key", context)
                if number % 10 == 0:
                    assert kms.decrypt("my-key", data_key.ciphertext, context) == data_key.plaintext

        list(pool.map(work, range(THREADS)))


def test_no_thread_waits_for_the_call_of_another_one(tmp_path: Path) -> None:
    """A server answers only when all threads have sent a request."""
    all_sent = threading.Barrier(THREADS)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            all_sent.wait(60)
            body = b'{"version": "1", "commit": "2"}'
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    key, certificate = make_server_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    slow = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    slow.socket = context.wrap_socket(slow.socket, server_side=True)
    api_key = make_credentials(tmp_path).api_key
    with (
        serving(slow, threading.Event()),
        Client(f"https://127.0.0.1:{slow.server_port}", api_key=api_key, insecure=True) as kms,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        assert {found.version for found in pool.map(lambda _: kms.version(), range(THREADS))} == {"1"}


def test_closed_clients(server: Server) -> None:
    kms = client(server)
    kms.version()
    kms.close()
    with pytest.raises(ClientUnusableError, match="the client is closed: make a new one"):
        kms.version()

    async def run() -> None:
        async with async_client(server) as kms:
            await kms.version()
        with pytest.raises(ClientUnusableError, match="the client is closed: make a new one"):
            await kms.version()

    asyncio.run(run())


def test_client_of_another_event_loop(server: Server) -> None:
    kms = async_client(server)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(kms.version())
        with pytest.raises(ClientUnusableError, match="used in another event loop"):
            second.run(kms.version())
        first.run(kms.aclose())


def in_a_fork(kms: Client) -> str:
    """Return what a call raises in a forked process."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            kms.version()
            os.write(writer, b"nothing")
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        raised = stream.read()
    os.waitpid(process, 0)
    return raised


def test_client_in_a_forked_process(server: Server) -> None:
    """A client with a connection fails: both processes would write to it. Without one it works in both processes."""
    with client(server) as kms:
        assert in_a_fork(kms) == "nothing"
        kms.version()
        assert in_a_fork(kms).startswith("ClientUnusableError('the client was used before this process was forked")
        kms.version()

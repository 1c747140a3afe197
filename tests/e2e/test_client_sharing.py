"""Threads share a client; a client is used where its connections do not work."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kes_core.client import AsyncClient, Client, ClientUnusableError
from tests.helpers.server import Server, start_server

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


def call_from_threads(kms: Client, threads: int, calls: int) -> float:
    """Make `calls` calls from `threads` threads that start together; return the seconds it took."""
    together = threading.Barrier(threads)

    def work() -> float:
        together.wait()
        started = time.perf_counter()
        for number in range(calls // threads):
            context = b"%d" % number
            data_key = kms.generate_data_key("my-key", context)
            if number % 10 == 0:
                assert kms.decrypt("my-key", data_key.ciphertext, context) == data_key.plaintext
        return time.perf_counter() - started

    with ThreadPoolExecutor(threads) as pool:
        return max(future.result() for future in [pool.submit(work) for _ in range(threads)])


@pytest.mark.parametrize("calls", [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_threads_share_a_client_and_lose_no_call(server: Server, calls: int) -> None:
    with client(server) as kms:
        call_from_threads(kms, THREADS, calls)


@pytest.mark.measured
def test_more_threads_are_faster_than_one(server: Server) -> None:
    with client(server) as kms:
        call_from_threads(kms, 4, 40)  # opens the connections
        one, four = (min(call_from_threads(kms, threads, 400) for _ in range(3)) for threads in (1, 4))
    assert four < one, (one, four)


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

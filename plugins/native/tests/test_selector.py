"""The event loop does everything that it has to do while the native part waits for it."""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.certificates import make_credentials, make_server_certificate

pytest.importorskip("kes_native._native", reason="the native part of kes-native is not built")

from OpenSSL import SSL

from kes_core.server.metrics import Metrics
from kes_core.tls import ClientCertificate, ServerTLS, TLSSettings
from kes_native.runtime import NativeRuntime
from kes_native.selector import ServingSelector

Ask = Callable[[], bytes]
"""Sends a request, waits, and returns the server's answer."""


class Application:
    """Answers at once with the body of the request, and calls `also` before that."""

    frequent = ("/frequent",)

    def __init__(self) -> None:
        self.also: Callable[[], object] = lambda: None

    def may_begin(self, scope: Any) -> bool:
        raise NotImplementedError

    def begin(self, scope: Any, body: bytes) -> Any:
        raise NotImplementedError

    def direct(self, client: Any, method: str, raw_path: bytes, body: bytes) -> bytes:
        self.also()
        return body

    def settle(self) -> int:
        return 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError


def connect(address: tuple[str, int], context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(address, timeout=30))


def serve(
    folder: Path,
    scenario: Callable[[Application, Ask], Coroutine[Any, Any, None]],
    selector: selectors.BaseSelector | None = None,
) -> None:
    """Run `scenario` on a loop that serves, with one client."""
    key, cert = make_server_certificate(folder)
    credentials = make_credentials(folder)
    settings = TLSSettings(key, cert, client_certificate=ClientCertificate.REQUIRE)
    tls = NativeRuntime.prepare_tls(settings, ServerTLS(SSL.Context(SSL.TLS_SERVER_METHOD), verifies_clients=False))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(credentials.cert, credentials.key)
    context.set_alpn_protocols(["http/1.1"])

    async def main() -> None:
        application = Application()
        runtime = NativeRuntime(application, lambda: tls, Metrics())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            await runtime.start([listener])
            client = await asyncio.to_thread(connect, listener.getsockname(), context)

            def ask() -> bytes:
                client.sendall(b"PUT /frequent HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
                answer = b""
                while not answer.endswith(b"\r\n\r\nhello"):
                    data = client.recv(1024)
                    assert data
                    answer += data
                return answer

            async with asyncio.timeout(30):
                assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 200 ")
                await scenario(application, ask)
            client.close()
            await runtime.stop(grace=1)

    loop = asyncio.SelectorEventLoop(selector)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def cancelled(tasks: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Cancel `tasks`, but not the one that runs."""
    others = [task for task in tasks if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    return others


def test_callbacks_of_a_request_run_without_another_event(tmp_path: Path) -> None:
    async def scenario(application: Application, ask: Ask) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*cancelled(asyncio.all_tasks(loop)), return_exceptions=True)  # they wake the loop too
        for schedule in (loop.call_soon, partial(loop.call_later, 0.01)):
            called = asyncio.Event()
            application.also = partial(schedule, called.set)
            asking = threading.Thread(target=ask)
            asking.start()
            await called.wait()
            asking.join()

    serve(tmp_path, scenario)


def test_threads_and_signals_wake_the_loop(tmp_path: Path) -> None:
    async def scenario(_application: Application, ask: Ask) -> None:
        loop = asyncio.get_running_loop()
        woken, signalled = asyncio.Event(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, signalled.set)
        timer = threading.Timer(0.05, lambda: loop.call_soon_threadsafe(woken.set))
        timer.start()
        await woken.wait()
        timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        timer.start()
        await signalled.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        assert await asyncio.to_thread(lambda: 5) == 5
        await asyncio.to_thread(ask)

    serve(tmp_path, scenario)


def test_timers_fire_while_requests_keep_coming(tmp_path: Path) -> None:
    async def scenario(_application: Application, ask: Ask) -> None:
        fired, asked = threading.Event(), 0

        def ask_on() -> None:
            nonlocal asked
            while not fired.is_set():
                ask()
                asked += 1

        asking = asyncio.create_task(asyncio.to_thread(ask_on))
        while asked < 20 and not asking.done():  # noqa: ASYNC110 # each turn waits for a timer, which is the subject
            await asyncio.sleep(0.001)
        fired.set()
        await asking

    serve(tmp_path, scenario)


def test_loop_with_another_selector_serves_too(tmp_path: Path) -> None:
    async def scenario(_application: Application, ask: Ask) -> None:
        assert not isinstance(asyncio.get_running_loop()._selector, ServingSelector)  # type: ignore[attr-defined]
        await asyncio.to_thread(ask)

    serve(tmp_path, scenario, selectors.PollSelector())


def test_loop_waits_in_the_native_part_until_it_stops(tmp_path: Path) -> None:
    """This Python has the parts of asyncio that it takes."""
    selector = selectors.EpollSelector()

    async def scenario(_application: Application, _ask: Ask) -> None:
        assert isinstance(asyncio.get_running_loop()._selector, ServingSelector)  # type: ignore[attr-defined]

    async def nothing() -> None:
        pass

    serve(tmp_path, scenario, selector)
    loop = asyncio.SelectorEventLoop()
    original = loop._selector  # type: ignore[attr-defined]

    async def start_and_stop() -> None:
        runtime = NativeRuntime(Application(), nothing, Metrics())  # type: ignore[arg-type]
        await runtime.start([])
        await runtime.stop(grace=0)

    loop.run_until_complete(start_and_stop())
    assert loop._selector is original  # type: ignore[attr-defined]
    loop.close()


def test_server_sleeps_when_no_request_follows(tmp_path: Path) -> None:
    """After quick requests, the native part looks for the next one before it sleeps, but not for long."""

    async def scenario(_application: Application, ask: Ask) -> None:
        def ask_often() -> None:
            for _ in range(200):
                ask()

        await asyncio.to_thread(ask_often)
        begin, used = time.monotonic(), time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - used < (time.monotonic() - begin) / 2

    serve(tmp_path, scenario)

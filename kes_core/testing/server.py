"""A server for the tests of applications: the real server with keys in memory, without network and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import httpx
import yaml

from kes_core.access.sender import ProvenClient
from kes_core.config import parse_config
from kes_core.counters import StoreCounters
from kes_core.plugins import load_plugins
from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.state import connect
from kes_core.server.wire.stream import request_scope
from kes_core.server.workers.peers import LocalPeers

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kes_core.config import Config
    from kes_core.plugins import Plugins
    from kes_core.server.wire.stream import ConnectionLink, Message

__all__ = ["FakeServer"]

T = TypeVar("T")

_ADMIN: Final = "ad" * 32
_ADDRESS: Final = "127.0.0.1"


class FakeServer:
    """A KES server in this process, for `Client(transport=...)` and `AsyncClient(transport=...)`.

        with FakeServer() as server, Client(transport=server.transport()) as client:
            client.create_key("my-key")

    It is the application that `kes server` runs, with the in-memory key store: keys, policies, errors and the audit log
    are real. It opens no socket, and needs neither certificates nor files. Its event loop runs in a thread, which ends
    with the `with` block. Each server has its own keys.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str] = (),
        policies: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        identity: str | None = None,
    ) -> None:
        """Set up a server; the `with` block starts it.

        Args:
            keys: Names of keys that exist from the beginning.
            policies: The section `policy` of a configuration: the lists `allow`, `deny` and `identities` of each
                policy, by name.
            identity: The identity of its clients, 64 hex digits in lower case; by default the admin's.
        """
        self._identity = identity or _ADMIN
        sections = {
            "admin": {"identity": _ADMIN},
            "tls": {"key": "unused", "cert": "unused"},
            "keystore": {"memory": {}},
            "keys": [{"name": name} for name in keys],
            "policy": {
                policy: {name: list(values) for name, values in lists.items()}
                for policy, lists in (policies or {}).items()
            },
        }
        plugins = load_plugins()
        text = yaml.safe_dump(sections)
        config = parse_config(text, filename="FakeServer", plugins=plugins, environ={})
        self._thread = _ServerThread(config, plugins)

    def __enter__(self) -> Self:
        """Start the server."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server. From then on, its clients get connection errors, and logs end."""
        self._thread.stop()

    def transport(self, identity: str | None = None) -> httpx.BaseTransport:
        """Return a transport for `Client`. Its requests come from `identity`, by default the server's."""
        return _Transport(self._thread, identity or self._identity)

    def async_transport(self, identity: str | None = None) -> httpx.AsyncBaseTransport:
        """Return a transport for `AsyncClient`, like `transport`. It works on any asyncio loop."""
        return _AsyncTransport(self._thread, identity or self._identity)


class _ServerThread:
    """The application on an event loop in a thread."""

    def __init__(self, config: Config, plugins: Plugins) -> None:
        self._config = config
        self._plugins = plugins
        self._loop: asyncio.AbstractEventLoop
        self._is_running = False
        self._lock = threading.Lock()
        self._thread: threading.Thread
        self._app: KESApp
        self._cache_task: asyncio.Task[None]

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="FakeServer", daemon=True)
        self._thread.start()
        self._is_running = True
        try:
            self.submit(self._connect()).result()
        except BaseException:
            self._end_loop()
            raise

    def stop(self) -> None:
        with self._lock:  # work submitted before this is done before the loop ends
            self._is_running = False
        try:
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
        finally:
            self._end_loop()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the loop; return its future.

        Raises:
            httpx.ConnectError: The server does not run.
        """
        with self._lock:
            if self._is_running:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise httpx.ConnectError("the fake server is not running")

    async def begin(self, request: httpx.Request, body: bytes, identity: str) -> _FakeExchange:
        """Begin to serve a request; return when the status of its response is known."""
        client = ProvenClient(identity, "", None, verified=False, presented=True, address=_ADDRESS)
        link = cast("ConnectionLink", _Connection(client))
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = request_scope(link, request.method.encode("ascii"), request.url.raw_path, headers, "2")
        exchange = _FakeExchange(body)
        exchange.serve(self._app, scope)
        await exchange.read_status()
        return exchange

    async def _connect(self) -> None:
        metrics = Metrics()
        peers = LocalPeers(metrics)
        state = await connect(self._config, self._plugins, counters=StoreCounters(), on_key_change=peers.forget)
        self._app = KESApp(state, metrics, peers, ExpiryWatch(metrics))
        self._app.use(state)
        self._cache_task = asyncio.create_task(state.cache.run())

    async def _disconnect(self) -> None:
        self._app.close_streams()
        self._cache_task.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await self._app.server_state.close()
        await asyncio.get_running_loop().shutdown_default_executor()

    def _end_loop(self) -> None:
        self._is_running = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Connection:
    """The common state of a client's requests."""

    def __init__(self, client: ProvenClient) -> None:
        self.scope_base: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "https",
            "root_path": "",
            "client": (client.address, 50000),
            "server": (_ADDRESS, 7373),
            "extensions": {"kes.client": client},
        }


class _FakeExchange:
    """One request and its response, on the loop of the server."""

    def __init__(self, body: bytes) -> None:
        self._request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None]
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    def serve(self, app: KESApp, scope: Message) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(app, scope))

    async def _run(self, app: KESApp, scope: Message) -> None:
        try:
            await app(scope, self._receive, self._sent.put)
        finally:
            self._sent.put_nowait(None)

    async def _receive(self) -> Message:
        if self._request:
            return self._request.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def read_status(self) -> None:
        """Wait for the beginning of the response."""
        start = await self._sent.get()
        if start is None:
            raise httpx.RemoteProtocolError("the fake server ended without an answer")
        self.status, self.headers = start["status"], start["headers"]

    async def read_body(self) -> bytes | None:
        """Return the next part of the body; None at its end."""
        message = await self._sent.get()
        return None if message is None else message.get("body", b"")

    async def close(self) -> None:
        """Disconnect, so that the server stops answering."""
        self._gone.set()
        await self._task


class _Transport(httpx.BaseTransport):
    def __init__(self, server: _ServerThread, identity: str) -> None:
        self._server = server
        self._identity = identity

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        begun = self._server.submit(self._server.begin(request, request.read(), self._identity))
        exchange = begun.result()
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_Body(self._server, exchange))


class _Body(httpx.SyncByteStream):
    def __init__(self, server: _ServerThread, exchange: _FakeExchange) -> None:
        self._server = server
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        while (part := self._server.submit(self._exchange.read_body()).result()) is not None:
            yield part

    def close(self) -> None:
        with contextlib.suppress(httpx.ConnectError):  # the server has stopped, and so has the exchange
            self._server.submit(self._exchange.close()).result()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(self, server: _ServerThread, identity: str) -> None:
        self._server = server
        self._identity = identity

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        begun = self._server.submit(self._server.begin(request, await request.aread(), self._identity))
        exchange = await asyncio.wrap_future(begun)
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_AsyncBody(self._server, exchange))


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, server: _ServerThread, exchange: _FakeExchange) -> None:
        self._server = server
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await asyncio.wrap_future(self._server.submit(self._exchange.read_body()))) is not None:
            yield part

    async def aclose(self) -> None:
        with contextlib.suppress(httpx.ConnectError):  # as above
            await asyncio.wrap_future(self._server.submit(self._exchange.close()))

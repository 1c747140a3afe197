"""The server's runtime: serves an ASGI application on listening sockets, over TLS.

The rest of the server uses only the interface `Runtime`, so another HTTP server can replace the one here. This one runs
Hypercorn's protocols (`http1`, `http2`) on our own TLS connections (`tls_connection`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState

from kes_core.access.sender import ProvenClient
from kes_core.faults import in_turns, log_fault
from kes_core.server.wire.accepting import Acceptor, Gate, connection_limit
from kes_core.server.wire.compact import Once
from kes_core.server.wire.http1 import HTTP1Protocol
from kes_core.server.wire.http2 import HTTP2Protocol
from kes_core.server.wire.hypercorn_config import hypercorn_config
from kes_core.server.wire.sockets import BACKLOG
from kes_core.server.wire.spread import Spread
from kes_core.server.wire.stream import App, Message
from kes_core.server.wire.tls_connection import TLSConnection
from kes_core.tls import ServerTLS, TLSError, TLSSettings

if TYPE_CHECKING:
    from hypercorn.typing import TaskGroup

    from kes_core.audit.lines import MakeAppender
    from kes_core.server.metrics import Metrics

__all__ = ["HypercornRuntime", "Runtime"]

logger = logging.getLogger("kes.server")

HANDSHAKE_TIMEOUT: Final = 10.0
"""The time limit of a TLS handshake, in seconds."""
HEADER_TIMEOUT: Final = 10.0
"""Seconds from the first byte of a request's header to its last (HTTP/1.1)."""
IDLE_TIMEOUT: Final = 90.0
"""Seconds until a connection without a request is closed."""
WRITE_TIMEOUT: Final = 30.0
"""Seconds that a client may stop reading a response."""
SWEEP_INTERVAL: Final = 0.5
"""Seconds between two checks of these limits."""
CHECKED_AT_ONCE: Final = 32
"""Connections that are checked in one turn of the event loop."""
MAX_STREAMS: Final = 250
"""The limit of requests at once on a connection (HTTP/2)."""
MAX_LOGGED_FAILURES: Final = 5
"""The number of failed handshakes between two such checks that get a log line each."""


class Runtime(Protocol):
    """Serves an ASGI application over HTTPS on HTTP/1.1 and HTTP/2.

    The application finds the connection's client in `scope["extensions"]["kes.client"]`: a `ProvenClient`, made from
    the certificates of the handshake.
    """

    make_appender: MakeAppender | None
    """Makes what appends audit records to files in native code, if the runtime has that."""

    spread: Spread | None
    """The connections of all processes that serve on the same sockets; set before `start` if there are others."""

    def __init__(self, app: App, tls: Callable[[], ServerTLS], metrics: Metrics) -> None:
        """Set up.

        Args:
            app: Answers the requests.
            tls: Returns what a new connection uses. Connections that are open keep what they began with.
            metrics: Counts handshakes.
        """

    @staticmethod
    def prepare_tls(settings: TLSSettings, tls: ServerTLS) -> ServerTLS:
        """Return what new connections use with `settings`, made from `tls`, which has OpenSSL's form of it.

        Raises:
            TLSError: This runtime can't use the certificate or its key.
        """

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on `sockets`, which are bound, until `stop`. Other processes may serve on them too."""

    async def stop(self, *, grace: float) -> None:
        """Accept no more connections, give running requests `grace` seconds to finish, and close."""


class HypercornRuntime:
    """The `Runtime` on Hypercorn, on the running event loop."""

    make_appender: MakeAppender | None = None
    spread: Spread | None = None

    def __init__(self, app: App, tls: Callable[[], ServerTLS], metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics
        self.context = WorkerContext(None)
        self.config = hypercorn_config(MAX_STREAMS)
        self._tls = tls
        self._acceptors: list[Acceptor] = []
        self._connections: dict[TLSConnection, _ClientConnection] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._gate = Gate(connection_limit())
        self._logged_failures = 0
        self._unlogged_failures = 0
        self._answered: list[_ClientConnection] = []

    @staticmethod
    def prepare_tls(settings: TLSSettings, tls: ServerTLS) -> ServerTLS:  # noqa: ARG004 # other runtimes use them
        return tls

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        self._gate.spread = self.spread
        for sock in sockets:
            sock.listen(BACKLOG)
            self._acceptors.append(Acceptor(sock, self._new_connection, self._gate.accept_failed, self.spread))
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self, *, grace: float) -> None:
        for acceptor in self._acceptors:
            await acceptor.close()
        await self.context.terminated.set()
        for connection in list(self._connections.values()):
            if connection.idle:
                connection.close()
        deadline = asyncio.get_running_loop().time() + grace
        while self._connections and asyncio.get_running_loop().time() < deadline:
            waiting = [connection.gone.wait() for connection in self._connections.values()]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await asyncio.gather(*waiting)
        for tls in list(self._connections):
            tls.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task of the runtime. Log its exception, if any: the server continues."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_fault(logger, "internal error", error=error)

    def send_soon(self, connection: _ClientConnection) -> None:
        """Send the answers of `connection` at the end of this turn of the event loop, after all their audit records."""
        if not self._answered:
            asyncio.get_running_loop().call_soon(self._send_answers)
        self._answered.append(connection)

    def _send_answers(self) -> None:
        answered, self._answered = self._answered, []
        self.app.settle()
        for connection in answered:
            connection.flush()

    # Connections

    def _new_connection(self) -> TLSConnection:
        context, verifies_clients, _native = self._tls()
        return TLSConnection(
            context,
            verifies_clients=verifies_clients,
            on_connect=self._admit,
            on_established=self._serve,
            on_failed=self._handshake_failed,
            on_closed=self._remove,
        )

    def _admit(self, tls: TLSConnection) -> bool:
        if not self._gate.admit(tls, asyncio.get_running_loop().time()):
            return False
        self._connections[tls] = _ClientConnection(self, tls)
        return True

    def _serve(self, tls: TLSConnection) -> None:
        self._gate.established(tls)
        try:
            chain = tls.client_certificates()
            address = tls.client[0] if tls.client else ""
            client = ProvenClient.from_chain(chain, verified=tls.verifies_clients, address=address)
        except TLSError as error:  # a client can present any certificate, also a malformed one
            self._handshake_failed(tls, str(error))
            tls.abort()
            return
        self._metrics.handshakes += 1
        self.spawn(self._connections[tls].run(client))

    def _handshake_failed(self, tls: TLSConnection, reason: str) -> None:
        """Count and log a failed handshake. Any client can cause failures, so there is a limit of log lines."""
        self._metrics.failed_handshakes += 1
        if self._logged_failures >= MAX_LOGGED_FAILURES:
            self._unlogged_failures += 1
            return
        self._logged_failures += 1
        address = tls.client[0] if tls.client else "an unknown address"
        logger.info("refused a connection from %s: tls: %s", address, reason)

    def _remove(self, tls: TLSConnection) -> None:
        connection = self._connections.pop(tls, None)
        if connection is not None:
            self._gate.closed(tls)
            connection.gone.set()

    async def _sweep(self) -> None:
        """Close connections that exceed a time limit. One task for all connections costs less than timers for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = loop.time()
            async for tls, connection in in_turns(self._connections.items(), CHECKED_AT_ONCE):
                if tls in self._connections:
                    connection.check(now)
                    await connection.start_waiting()
            self._gate.check(now)
            if self._unlogged_failures:
                logger.info("refused %d more connections: tls: the handshake failed", self._unlogged_failures)
            self._logged_failures = self._unlogged_failures = 0


class _ClientConnection:
    """A client's connection: feeds its protocol and enforces its time limits."""

    def __init__(self, runtime: HypercornRuntime, tls: TLSConnection) -> None:
        self.app = runtime.app
        self.spawn = runtime.spawn
        self._unsent = b""
        self.scope_base: Message = {}
        self.gone = Once()
        self._runtime = runtime
        self._tls = tls
        self._protocol: HTTP1Protocol | HTTP2Protocol | None = None
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = self._loop.time() + HANDSHAKE_TIMEOUT
        self._waiting_for_request = False
        self._closing = False
        self._write_deadline: float | None = None

    @property
    def idle(self) -> bool:
        return self._protocol is None or self._protocol.idle

    async def run(self, client: ProvenClient) -> None:
        self._protocol = protocol = self._start_protocol(client)
        try:
            await protocol.initiate()
            self._tls.serve_at_once = partial(self._serve_at_once, protocol)
            while data := await self._tls.read():
                await protocol.handle(RawData(data))
                self._update_deadline(protocol)
                # Stop reading from a client that does not read our answers, ping acks included.
                await self._tls.drain()
            if isinstance(protocol, HTTP1Protocol):
                # A client may close its side of the connection after its request and wait for the answer.
                await protocol.end_input()
                await self.gone.wait()
        finally:
            await protocol.handle(Closed())
            self._close()

    def _serve_at_once(self, protocol: HTTP1Protocol | HTTP2Protocol, data: bytes) -> bytes:
        try:
            rest = protocol.serve_at_once(data)
        except Exception as error:
            log_fault(logger, "internal error", error=error)
            self._tls.abort()
            return b""
        self._update_deadline(protocol)
        return rest

    def write_soon(self, data: bytes) -> None:
        if not self._unsent:
            self._runtime.send_soon(self)
        self._unsent += data
        if not self._closing:
            self._deadline = self._loop.time() + IDLE_TIMEOUT

    def write(self, data: bytes) -> None:
        self.app.settle()  # no answer leaves before its audit record is written
        self.flush()
        self._tls.write(data)

    def flush(self) -> None:
        """Send the waiting answers now."""
        data, self._unsent = self._unsent, b""
        if data:
            self._tls.write(data)

    def close(self) -> None:
        """Close the connection while no request is running."""
        if isinstance(self._protocol, HTTP2Protocol):
            self._protocol.connection.close_connection()
            self._tls.write(self._protocol.connection.data_to_send())
        self._close()

    def _close(self) -> None:
        """Close after the client has read everything written, or after `WRITE_TIMEOUT`."""
        self.write(b"")
        self._tls.close()
        if not self._closing:
            self._closing = True
            self._deadline = self._loop.time() + WRITE_TIMEOUT

    async def start_waiting(self) -> None:
        """Pass requests on that wait for the rest of their body: their own time limit counts from here."""
        if self._protocol is not None and not self._protocol.idle:
            await self._protocol.start_waiting()

    def check(self, now: float) -> None:
        """Close the connection if a time limit has passed."""
        if self._deadline is not None and now > self._deadline:
            if self._tls.established and not self._waiting_for_request and not self._closing:
                self.close()
            else:
                self._tls.abort()
        if not self._tls.writing_paused:
            self._write_deadline = None
        elif self._write_deadline is None:
            self._write_deadline = now + WRITE_TIMEOUT
        elif now > self._write_deadline:
            self._tls.abort()

    def _start_protocol(self, client: ProvenClient) -> HTTP1Protocol | HTTP2Protocol:
        tls = self._tls
        self.scope_base = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "https",
            "root_path": "",
            "client": tls.client,
            "server": tls.server,
            "extensions": {"kes.client": client},
        }
        self._deadline = self._loop.time() + IDLE_TIMEOUT
        protocol = HTTP2Protocol if tls.alpn == "h2" else HTTP1Protocol
        group = cast("TaskGroup", _Spawner(self._runtime))
        state = ConnectionState({})
        runtime = self._runtime
        return protocol(self, runtime.config, runtime.context, group, state, True, tls.client, tls.server, self._send)

    async def _send(self, event: Event) -> None:
        """Handle an event of the protocol."""
        if isinstance(event, RawData):
            self.write(event.data)
            await self._tls.drain()
        elif isinstance(event, Closed):
            self._close()
        elif isinstance(event, Updated) and self._protocol is not None and not self._closing:
            if not event.idle:
                self._update_deadline(self._protocol)
                return
            partial = self._protocol.has_partial_request
            self._waiting_for_request = partial
            self._deadline = self._loop.time() + (HEADER_TIMEOUT if partial else IDLE_TIMEOUT)
            if self._runtime.context.terminated.is_set():
                self._close()

    def _update_deadline(self, protocol: HTTP1Protocol | HTTP2Protocol) -> None:
        if self._closing:
            return
        if not protocol.idle:
            self._deadline = None
            self._waiting_for_request = False
        elif protocol.has_partial_request and not self._waiting_for_request:
            self._waiting_for_request = True
            self._deadline = self._loop.time() + HEADER_TIMEOUT
        elif self._deadline is None:
            self._deadline = self._loop.time() + IDLE_TIMEOUT


class _Spawner:
    """The part of Hypercorn's task group that its protocols use."""

    def __init__(self, runtime: HypercornRuntime) -> None:
        self._runtime = runtime

    def spawn(self, function: Any, *args: Any) -> None:
        self._runtime.spawn(function(*args))

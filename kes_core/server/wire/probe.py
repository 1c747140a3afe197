"""The listener for probes: plain HTTP for clients without a certificate. It serves nothing that needs one.

`/live` reports whether the process answers, `/ready` whether the key store does, and `/metrics` returns the metrics.
The listener is off unless the configuration sets `probe.address`. It uses Hypercorn's protocols. Any client can connect
to it. So it allows few connections, each for one request and a short time, and leaves resources to the API.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.typing import LifespanState

from kes_core.access.errors import error_body
from kes_core.faults import log_fault
from kes_core.server.wire.sockets import BACKLOG

__all__ = ["Answer", "serve_probes"]

logger = logging.getLogger("kes.server")

MAX_CONNECTIONS: Final = 32
"""The limit of open connections in each process. They use file descriptors of `accepting.RESERVED_FILES`."""
_HEADER_TIMEOUT: Final = 10
"""Seconds from the connection to the end of the request's header."""
_TIMEOUT: Final = 10.0
"""The time limit of an answer, in seconds."""
_LIFETIME: Final = 30.0
"""The time limit of a connection, in seconds, also for a client that does not read its answer."""
_GRACE: Final = 1.0
"""Seconds that running requests get to finish when the server stops."""
_WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings about rejected connections."""
_JSON: Final = b"application/json"
Answer = tuple[int, bytes, bytes]
"""Status, content type and body."""
_Answerer = Callable[[str, str], Awaitable[Answer]]


async def serve_probes(
    answer: _Answerer, sockets: Sequence[socket.socket], stopped: Callable[[], Awaitable[None]]
) -> None:
    """Serve probes until `stopped` returns.

    Args:
        answer: Answers a request; takes its method and path.
        sockets: The bound sockets to listen on. Other processes may serve them too.
        stopped: Returns when the server stops.
    """
    connections = _Connections(answer)
    servers: list[asyncio.Server] = []
    try:
        for sock in sockets:
            # asyncio accepts up to `backlog` connections at once, before `add` can reject any.
            servers.append(await asyncio.start_server(connections.add, sock=sock, backlog=1))
            sock.listen(BACKLOG)
        await stopped()
        for server in servers:
            server.close()
        await connections.finish()
    finally:
        for server in servers:
            server.close()
        await connections.abort()


class _Connections:
    """The open connections for probes."""

    def __init__(self, answer: _Answerer) -> None:
        self._app = ASGIWrapper(_Probe(answer))
        self._config = _hypercorn_config()
        self._context = WorkerContext(None)
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._warned_at = -_WARNING_INTERVAL

    def add(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection, or reject it if there are too many."""
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            self._warn_of_limit()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._remove)

    async def finish(self) -> None:
        """Close idle connections, and wait up to `_GRACE` seconds for the others."""
        await self._context.terminated.set()
        if self._open:
            await asyncio.wait(self._open, timeout=_GRACE)

    async def abort(self) -> None:
        """Close all connections at once."""
        tasks = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        end = loop.call_later(_LIFETIME, writer.transport.abort)
        try:
            await _ProbeConnection(self._app, loop, self._config, self._context, LifespanState({}), reader, writer)
        finally:
            end.cancel()
            writer.transport.abort()

    def _remove(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_fault(logger, "internal error", error=error)

    def _warn_of_limit(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= _WARNING_INTERVAL:
            self._warned_at = now
            logger.warning(
                "turned away a probe: %d connections for probes are open, which is the limit", len(self._open)
            )


class _ProbeConnection(TCPServer):
    """Closes a connection when its client does. Hypercorn's class keeps it until the idle timeout."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


def _hypercorn_config() -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = config.read_timeout = _HEADER_TIMEOUT
    config.keep_alive_max_requests = 1
    config.h11_max_incomplete_size = 8 * 1024
    return config


class _Probe:
    """The ASGI application of the listener."""

    def __init__(self, answer: _Answerer) -> None:
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            async with asyncio.timeout(_TIMEOUT):
                status, kind, body = await self._answer(scope["method"], scope["path"])
        except TimeoutError:
            status, kind, body = 504, _JSON, error_body("request timed out")
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

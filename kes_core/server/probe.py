"""The listener for probes: plain HTTP, for what has no client certificate, with nothing behind it that needs one.

`/live` tells whether the process answers, `/ready` whether the key store does, and `/metrics` has the metrics. It is
off unless the configuration has an address for it (`probe.address`). Hypercorn serves it as it is: none of what the
API's own listener needs beyond it is needed here.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from hypercorn.asyncio import serve
from hypercorn.config import Config as HypercornConfig

from kes_core.server.errors import error_body
from kes_core.server.metrics import CONTENT_TYPE, exposition
from kes_core.server.readiness import readiness

if TYPE_CHECKING:
    from kes_core.server.app import KESApp

__all__ = ["serve_probes"]

_TIMEOUT: Final = 10.0
"""Seconds for an answer."""
_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"
Answer = tuple[int, bytes, bytes]


async def serve_probes(app: KESApp, sockets: Sequence[socket.socket], stopped: Callable[[], Awaitable[None]]) -> None:
    """Serve on `sockets`, which are bound already, until `stopped` returns."""
    config = HypercornConfig()
    config.bind = [f"fd://{sock.detach()}" for sock in sockets]
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = config.read_timeout = 10
    config.graceful_timeout = 1
    config.h11_max_incomplete_size = 8 * 1024
    await serve(_Probe(app), config, shutdown_trigger=stopped)


class _Probe:
    def __init__(self, app: KESApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
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

    async def _answer(self, method: str, path: str) -> Answer:
        if path not in {"/live", "/ready", "/metrics"}:
            return 404, _TEXT, b"this listener has /live, /ready and /metrics\n"
        if method not in {"GET", "HEAD"}:
            return 405, _TEXT, b"this listener takes GET and HEAD\n"
        if path == "/metrics":
            numbers = await self._app.peers.snapshot()
            return 200, CONTENT_TYPE, exposition(numbers, self._app.metrics)
        if path == "/ready":
            problem = await readiness(self._app.server_state.cache)
            if problem is not None:
                return problem.status, _JSON, error_body(problem.message, problem.reason)
        return 200, _JSON, json.dumps({"status": path[1:]}).encode("ascii")

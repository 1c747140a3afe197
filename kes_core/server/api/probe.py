"""The answers of the probe listener: whether the process lives, whether the server is ready, and the metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from kes_core.access.errors import error_body
from kes_core.server.api.readiness import readiness
from kes_core.server.exposition import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from kes_core.server.api.dispatch import KESApp
    from kes_core.server.wire.probe import Answer

__all__ = ["answer_probe"]

_JSON: Final = b"application/json"
_TEXT: Final = b"text/plain; charset=utf-8"


async def answer_probe(app: KESApp, method: str, path: str) -> Answer:
    """Return status, content type and body of the answer to a probe."""
    if path not in {"/live", "/ready", "/metrics"}:
        return 404, _TEXT, b"this listener has /live, /ready and /metrics\n"
    if method not in {"GET", "HEAD"}:
        return 405, _TEXT, b"this listener takes GET and HEAD\n"
    if path == "/metrics":
        numbers = await app.peers.snapshot()
        return 200, CONTENT_TYPE, exposition(numbers, app.metrics)
    if path == "/ready":
        problem = await readiness(app.server_state, app.peers)
        if problem is not None:
            return problem.status, _JSON, error_body(problem.message, problem.reason)
    return 200, _JSON, json.dumps({"status": path[1:]}).encode("ascii")

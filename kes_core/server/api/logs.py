"""`/v1/metrics` and `/v1/log/*`: the server's activity."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from kes_core.access.errors import RequestError
from kes_core.server.api.call import Call
from kes_core.server.events import Hub
from kes_core.server.exposition import CONTENT_TYPE, exposition
from kes_core.server.metrics import Metrics

if TYPE_CHECKING:
    from kes_core.server.workers.peers import Peers

__all__ = ["Text", "handlers"]


class Text:
    """An answer in plain text, not JSON."""

    def __init__(self, content_type: bytes, body: bytes) -> None:
        self.content_type = content_type
        self.body = body


def handlers(metrics: Metrics, peers: Peers, errors: Hub, audit: Hub) -> Mapping[str, Callable[[Call], Awaitable[Any]]]:
    """Return the handlers for the metrics and the logs, by path."""

    async def read_metrics(call: Call) -> Text:
        # All clients except the official Go SDK send this header.
        labelled = "accept" in call.headers
        # With `skip_auth` anyone may ask, and names of keys are not for everyone.
        state, sender = call.server_state, call.sender
        is_open = call.kes_route.path in state.access.open_routes
        is_known = not is_open or sender.is_admin or sender.identity in state.policy_of
        return Text(CONTENT_TYPE, exposition(await peers.snapshot(), metrics, labelled=labelled, names=is_known))

    async def read_errors(_call: Call) -> AsyncIterator[bytes]:
        return _read(errors)

    async def read_audit(_call: Call) -> AsyncIterator[bytes]:
        return _read(audit)

    return {"/v1/metrics": read_metrics, "/v1/log/error": read_errors, "/v1/log/audit": read_audit}


def _read(hub: Hub) -> AsyncIterator[bytes]:
    if hub.is_full:
        raise RequestError(503, "too many clients read this log")
    return hub.read()

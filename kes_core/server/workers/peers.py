"""What the processes of one server have to tell one another, as the one that serves a request sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kes_core.server.metrics import Metrics

__all__ = ["LocalPeers", "Peers"]


class Peers(Protocol):
    """All processes of the server, this one included."""

    async def snapshot(self) -> dict[str, Any]:
        """Return the numbers of all: the sum of `Metrics.snapshot`."""

    async def forget(self, name: str) -> None:
        """Return when no other process has the key `name`, or its absence, in memory."""


class LocalPeers:
    """A server of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def snapshot(self) -> dict[str, Any]:
        return self._metrics.snapshot()

    async def forget(self, name: str) -> None:
        return

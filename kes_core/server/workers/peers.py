"""The communication between the processes of a server, as the serving process uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kes_core.server.metrics import Metrics

__all__ = ["LocalPeers", "Peers"]


class Peers(Protocol):
    """All processes of the server, this one included."""

    async def snapshot(self) -> dict[str, Any]:
        """Return the numbers of all processes: the sum of their `Metrics.snapshot`."""

    async def forget(self, name: str) -> None:
        """Make all other processes drop the key `name`, or its absence, from memory; return when they have."""


class LocalPeers:
    """A server with a single process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def snapshot(self) -> dict[str, Any]:
        return self._metrics.snapshot()

    async def forget(self, name: str) -> None:
        return

"""What the processes of the server have in common: the one that serves alone, and the supervisor of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from kes_core.config import LoadedConfig
    from kes_core.server.wire.sockets import Sockets

__all__ = ["GRACE", "ConfigRejectedError", "Process", "WorkerError"]

GRACE: Final = 20.0
"""Seconds that requests in progress get when the server stops; only one route has a default timeout above 15."""


class ConfigRejectedError(Exception):
    """A configuration can't be used. The message says why, in one line, and what to do."""


class WorkerError(Exception):
    """A worker can't start. The message says why."""


class Process(Protocol):
    """The only serving process, or the supervisor of several."""

    async def start(self, sockets: Sockets) -> None:
        """Serve on `sockets`."""

    async def reload(self, loaded: LoadedConfig) -> None:
        """Serve with `loaded` from now on.

        Raises:
            ConfigRejectedError: It can't be used. Nothing has changed.
        """

    async def stop(self) -> None:
        """Finish the requests in progress and close everything."""

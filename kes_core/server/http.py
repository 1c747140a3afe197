"""The HTTP API as a front end: the server starts and stops it by the interface of the front ends of plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kes_core.frontends import Frontend
from kes_core.server.process import GRACE

if TYPE_CHECKING:
    import socket

    from kes_core.server.api.dispatch import KESApp
    from kes_core.server.wire.listener import Runtime

__all__ = ["HTTPFrontend"]


class HTTPFrontend(Frontend):
    """The first front end, which every process runs.

    A plugin's front end differs in three things. It listens on an address of its own; this one gets sockets that are
    open before the process serves, and that other processes share. It has 5 seconds to stop; clients of the API have
    `GRACE`. And it asks for keys through a door: the API has more routes than a door has methods, so that its handlers
    take the steps behind the door themselves (`kes_core.server.api`).
    """

    def __init__(self, app: KESApp, runtime: Runtime) -> None:
        """Set up.

        Args:
            app: Answers the requests.
            runtime: Serves the application over TLS and HTTP.
        """
        self._app = app
        self._runtime = runtime
        self.sockets: Sequence[socket.socket] = ()
        """What it listens on. Set before `start`."""

    async def start(self) -> None:
        await self._runtime.start(self.sockets)

    async def stop(self) -> None:
        self._app.close_streams()
        await self._runtime.stop(grace=GRACE)

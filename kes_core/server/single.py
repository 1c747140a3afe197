"""The server in one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kes_core.server import log
from kes_core.server.events import ErrorLogHandler
from kes_core.server.metrics import Metrics
from kes_core.server.server import ServerProcess
from kes_core.server.workers.peers import LocalPeers

if TYPE_CHECKING:
    from kes_core.config import LoadedConfig
    from kes_core.server.wire.sockets import Sockets

__all__ = ["SingleProcess"]


class SingleProcess:
    """Serves alone."""

    def __init__(self, loaded: LoadedConfig) -> None:
        metrics = Metrics()
        self._config = loaded.config
        self.server = ServerProcess(loaded.plugins, metrics, LocalPeers(metrics))

    async def start(self, sockets: Sockets) -> None:
        await self.server.connect(self._config)
        log.publish(ErrorLogHandler(self.server.app.error_log, asyncio.get_running_loop()))
        await self.server.start(sockets.api, sockets.probes)

    async def reload(self, loaded: LoadedConfig) -> None:
        state = await self.server.prepare(loaded.config)
        try:
            await self.server.use_frontends(loaded.config)
        except BaseException:
            await self.server.discard(state)
            raise
        self.server.apply(state)

    async def stop(self) -> None:
        await self.server.stop()

"""Running the server: start, reload on SIGHUP, stop on SIGTERM and SIGINT.

One process serves on its own (`_Single`). Several are looked after by one that serves nothing itself (`supervisor`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kes_core.boundary import notify
from kes_core.config import Config, ConfigError, ConfigSource
from kes_core.faults import log_fault
from kes_core.hookspecs import ServerInfo
from kes_core.server import log, systemd
from kes_core.server.api.system import version
from kes_core.server.events import ErrorLogHandler
from kes_core.server.hardening import MemoryLockError, harden
from kes_core.server.loop import run_loop
from kes_core.server.metrics import Metrics
from kes_core.server.server import ConfigRejectedError, Serving
from kes_core.server.wire.sockets import ListenError, Sockets, address_of
from kes_core.server.workers.peers import LocalPeers
from kes_core.server.workers.supervisor import Supervisor, WorkerError

if TYPE_CHECKING:
    from kes_core.plugins import Plugins

__all__ = ["ServerError", "run"]

logger = logging.getLogger("kes.server")


class ServerError(Exception):
    """The server can't start. The message says why, in one line, and what to do."""


def run(
    config: Config,
    *,
    plugins: Plugins,
    source: ConfigSource | None = None,
    mlock: bool = False,
    on_started: Callable[[ServerInfo], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        config: What to serve.
        plugins: From where the configuration's back ends come.
        source: Where to read the configuration again, for SIGHUP; without it SIGHUP only reads the certificate again.
            Several workers need it.
        mlock: Keep all memory out of the swap.
        on_started: Called once, when the server answers.

    Raises:
        ServerError: The server can't start, or can't lock its memory.
    """
    try:
        harden(mlock=mlock)
        log.set_up(config.log.error)
        run_loop(_serve(config, plugins, source, mlock, on_started))
    except (ListenError, MemoryLockError, ConfigRejectedError, WorkerError) as error:
        raise ServerError(str(error)) from error


class _Process(Protocol):
    """What runs between start and stop: the process that serves, or the one that looks after those that do."""

    async def start(self, sockets: Sockets) -> None:
        """Serve on `sockets`."""

    async def reload(self, config: Config, text: str) -> None:
        """Serve by `config`, read from `text`, from now on.

        Raises:
            ConfigRejectedError: It can't be used, and everything is as it was.
        """

    async def stop(self) -> None:
        """Finish what is under way and let go of everything."""


async def _serve(
    config: Config,
    plugins: Plugins,
    source: ConfigSource | None,
    mlock: bool,
    on_started: Callable[[ServerInfo], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    process: _Process
    if config.workers > 1 and source is not None:
        process = Supervisor(config, source, mlock=mlock)
    else:
        process = _Single(config, plugins)
    sockets = Sockets(config)
    with contextlib.closing(sockets):
        info = ServerInfo(version(), sockets.addresses)
        if not await _started(process, sockets, stop):
            return
        if on_started is not None:
            on_started(info)
        logger.info("listening on %s", ", ".join(f"https://{address}" for address in info.addresses))
        for sock in sockets.probes:
            logger.info("probes are answered on http://%s", address_of(sock))
        systemd.notify_ready("serving")
        await notify(plugins, "kes_server_started", info)
        reloading = asyncio.create_task(_reload_on(reload, process, config, plugins, source))
        try:
            await stop.wait()
        finally:
            systemd.notify_stopping()
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await notify(plugins, "kes_server_stopping", info)
            await process.stop()


async def _started(process: _Process, sockets: Sockets, stop: asyncio.Event) -> bool:
    """Start, or give up if the server is told to stop while it still waits for its key store."""
    starting, stopping = asyncio.ensure_future(process.start(sockets)), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            logger.info("told to stop before it has started")
            return False
        await starting
        return True
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _reload_on(
    wanted: asyncio.Event, process: _Process, config: Config, plugins: Plugins, source: ConfigSource | None
) -> None:
    """Take over the configuration file as it is, or leave everything as it was and say why, whenever it is wanted."""
    while True:
        await wanted.wait()
        wanted.clear()
        systemd.notify_reloading()
        try:
            new, text = config, ""
            if source is not None:
                # Beside the loop, which goes on serving: a large file takes a second or more.
                text = await asyncio.to_thread(source.read)
                new = await asyncio.to_thread(source.parse, text, plugins)
            await process.reload(new, text)
        except (ConfigError, ConfigRejectedError) as error:
            logger.error("the configuration is not reloaded, the old one stays in force: %s", error)
            systemd.notify_ready("serving; the last configuration could not be used, see the log")
            continue
        except Exception as error:  # or nothing would ever be reloaded again
            message = "internal error: the configuration is not reloaded, the old one stays in force"
            log_fault(logger, message, error=error)
            systemd.notify_ready("serving; the last configuration could not be used, see the log")
            continue
        for field in ("address", "probe", "workers", "blocked_plugins"):
            if getattr(new, field) != getattr(config, field):
                name = {"blocked_plugins": "plugins.block"}.get(field, field)
                logger.warning("%s changes only with a restart", name)
        log.set_level(new.log.error)
        logger.info("the configuration is reloaded")
        systemd.notify_ready("serving")


class _Single:
    """The server in one process."""

    def __init__(self, config: Config, plugins: Plugins) -> None:
        metrics = Metrics()
        self._config = config
        self._serving = Serving(plugins, metrics, LocalPeers(metrics))

    async def start(self, sockets: Sockets) -> None:
        await self._serving.connect(self._config)
        log.publish(ErrorLogHandler(self._serving.app.error_log, asyncio.get_running_loop()))
        await self._serving.start(sockets.api, sockets.probes)
        # What is loaded by now stays: the garbage collector need not look at it again and again.
        gc.collect()
        gc.freeze()

    async def reload(self, config: Config, _text: str) -> None:
        self._serving.apply(await self._serving.prepare(config))

    async def stop(self) -> None:
        await self._serving.stop()

"""Running the server: start, reload on SIGHUP, stop on SIGTERM and SIGINT.

A single process serves alone (`single`). Several processes have a supervisor, which serves no requests itself
(`supervisor`). Only one of the two modules is imported, and only when the server listens: connections wait meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from kes_core.audit.stdout import reserve
from kes_core.boundary import notify
from kes_core.config import Config, ConfigError, LoadedConfig
from kes_core.config.files import certificate_warnings
from kes_core.faults import log_fault
from kes_core.hookspecs import ServerInfo
from kes_core.server import log, startup, systemd
from kes_core.server.build import version
from kes_core.server.hardening import MemoryLockError, harden
from kes_core.server.loop import run_loop
from kes_core.server.process import ConfigRejectedError, WorkerError
from kes_core.server.wire.sockets import ListenError, Sockets, address_of
from kes_core.tls import TLSError

if TYPE_CHECKING:
    from kes_core.server.process import Process

__all__ = ["ServerError", "reload_when_wanted", "run"]

logger = logging.getLogger("kes.server")


class ServerError(Exception):
    """The server can't start. The message says why, in one line, and what to do."""


def run(
    loaded: LoadedConfig,
    *,
    reload: Callable[[], LoadedConfig] | None = None,
    mlock: bool = False,
    on_started: Callable[[ServerInfo], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; finish the requests in progress first.

    Args:
        loaded: The configuration, with its plugins.
        reload: Loads the configuration again, with the same plugins, for SIGHUP. Without it, SIGHUP only reads the
            certificate again.
        mlock: Keep all memory out of swap space.
        on_started: Called once, when the server answers.

    Raises:
        ServerError: The server can't start, or can't lock its memory.
    """
    try:
        harden(mlock=mlock)
        log.set_up(loaded.config.log.error)
        reserve()
        run_loop(_serve(loaded, reload or (lambda: loaded), mlock, on_started))
    except (ListenError, MemoryLockError, ConfigRejectedError, WorkerError) as error:
        raise ServerError(str(error)) from error


async def _serve(
    loaded: LoadedConfig,
    reload: Callable[[], LoadedConfig],
    mlock: bool,
    on_started: Callable[[ServerInfo], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop, reload_wanted = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload_wanted.set)
    plugins = loaded.plugins
    sockets = Sockets(loaded.config, systemd.passed_descriptors())
    with contextlib.closing(sockets):
        info = ServerInfo(version(), sockets.addresses)
        _log_warnings(loaded)
        process = _new_process(loaded, mlock=mlock)
        if not await _started(process, sockets, stop):
            return
        startup.end()
        if on_started is not None:
            on_started(info)
        addresses = ", ".join(f"https://{address}" for address in info.addresses)
        logger.info("the %s runtime is listening on %s", loaded.config.runtime, addresses)
        for sock in sockets.probes:
            logger.info("probes are answered on http://%s", address_of(sock))
        systemd.notify_ready("serving")
        await notify(plugins, "kes_server_started", info)
        reloading = asyncio.create_task(reload_when_wanted(reload_wanted, process, loaded.config, reload))
        try:
            await stop.wait()
        finally:
            systemd.notify_stopping()
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await notify(plugins, "kes_server_stopping", info)
            await process.stop()


def _new_process(loaded: LoadedConfig, *, mlock: bool) -> Process:
    if loaded.config.workers > 1:
        from kes_core.server.workers.supervisor import Supervisor

        return Supervisor(loaded, mlock=mlock)
    from kes_core.server.single import SingleProcess

    return SingleProcess(loaded)


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    logger.info("stopping: received %s", number.name)
    stop.set()


async def _started(process: Process, sockets: Sockets, stop: asyncio.Event) -> bool:
    """Start; return false if a signal ends the server while it still waits for its key store."""
    starting, stopping = asyncio.ensure_future(process.start(sockets)), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            logger.info("stopped before it had started")
            return False
        await starting
        return True
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def reload_when_wanted(
    wanted: asyncio.Event, process: Process, config: Config, load: Callable[[], LoadedConfig]
) -> None:
    """Whenever `wanted` is set, use the configuration from `load`, or log why it can't be used. Runs until cancelled.

    Args:
        wanted: Set to request a reload; this function clears it.
        process: Reloads.
        config: The configuration at the start: some of its fields change only with a restart.
        load: Loads the configuration.
    """
    while True:
        await wanted.wait()
        wanted.clear()
        systemd.notify_reloading()
        try:
            await _reload(process, config, load)
        except (ConfigError, ConfigRejectedError) as error:
            logger.error("the configuration is not reloaded, the old one stays in use: %s", error)
        except Exception as error:  # otherwise there would never be another reload
            message = "internal error: the configuration is not reloaded, the old one stays in use"
            log_fault(logger, message, error=error)
        else:
            systemd.notify_ready("serving")
            continue
        systemd.notify_ready("serving; the last configuration could not be used, see the log")


async def _reload(process: Process, config: Config, load: Callable[[], LoadedConfig]) -> None:
    # Off the event loop, which goes on serving: a large file takes a second or more.
    with startup.reloading():
        loaded = await asyncio.to_thread(load)
        await process.reload(loaded)
    _log_warnings(loaded)
    for field in ("address", "probe", "workers", "runtime", "plugins.block"):
        section, _, name = field.partition(".")
        new, old = getattr(loaded.config, section), getattr(config, section)
        if (getattr(new, name) != getattr(old, name)) if name else (new != old):
            logger.warning("%s changes only with a restart", field)
    log.set_level(loaded.config.log.error)
    logger.info("the configuration is reloaded")


def _log_warnings(loaded: LoadedConfig) -> None:
    """Log the warnings of `kes config check`."""
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    with contextlib.suppress(TLSError):  # the process reports it
        for text in certificate_warnings(loaded.config):
            logger.warning("%s", text)

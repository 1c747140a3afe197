"""One of several serving processes (`workers`). The supervisor starts it, sends it commands, and replaces it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kes_core.audit.stdout import reserve
from kes_core.config import ConfigError
from kes_core.config.load import load_values
from kes_core.server import log, startup, watchdog
from kes_core.server.events import ErrorLogHandler, Hub
from kes_core.server.hardening import MemoryLockError, harden
from kes_core.server.loop import run_loop
from kes_core.server.metrics import Metrics
from kes_core.server.process import ConfigRejectedError
from kes_core.server.server import ServerProcess
from kes_core.server.wire.spread import Spread
from kes_core.server.workers import signs
from kes_core.server.workers.channel import Channel, ChannelClosedError, PeerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kes_core.config import LoadedConfig
    from kes_core.server.state import State

__all__ = ["main"]

logger = logging.getLogger("kes.server")

_PEERS_TIMEOUT: Final = 8.0
"""Seconds that the other processes have to answer. The supervisor kills them before this time is up."""


class RemotePeers:
    """The other processes, through the supervisor. If it does not answer, their numbers are missing."""

    def __init__(self, channel: Channel, metrics: Metrics) -> None:
        self._channel = channel
        self._metrics = metrics

    async def snapshot(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_PEERS_TIMEOUT):
                numbers: dict[str, Any] = await self._channel.ask("snapshot")
        except (ChannelClosedError, PeerError, TimeoutError):
            return self._metrics.snapshot()
        return numbers

    async def forget(self, name: str) -> None:
        try:
            async with asyncio.timeout(_PEERS_TIMEOUT):
                await self._channel.ask("forget", name=name)
        except (ChannelClosedError, PeerError, TimeoutError):
            logger.warning("the other workers did not confirm that the key %r has changed", name)


class _Worker:
    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._metrics = Metrics()
        self._prepared: State | None = None
        self._server: ServerProcess
        self._load: Callable[[str], LoadedConfig]
        self._sockets: tuple[list[int], list[int]]
        self._channel = Channel(
            asked={
                "start": self._start,
                "serve": self._serve,
                "prepare": self._prepare,
                "apply": self._apply,
                "discard": self._discard,
                "frontends": self._frontends,
                "snapshot": self._snapshot,
                "forget": self._forget,
            },
            handlers={"wanted": self._wanted, "event": self._event, "cut": self._cut},
        )

    async def run(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        for number in (signal.SIGINT, signal.SIGHUP):  # sent by a terminal too, for the supervisor
            loop.add_signal_handler(number, lambda: None)
        await self._channel.open(control)
        receiving = asyncio.create_task(self._channel.run())
        receiving.add_done_callback(lambda _task: self._stop.set())  # the supervisor has ended
        await self._stop.wait()
        if hasattr(self, "_server"):
            await self._server.stop()
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)

    # Commands of the supervisor

    async def _start(
        self,
        *,
        number: int,
        filename: str,
        values: str,
        mlock: bool,
        sockets: list[int],
        probes: list[int],
        lock: int,
        connections: int,
    ) -> None:
        try:
            harden(mlock=mlock)
            reserve()
            loaded = load_values(values, filename=filename)
            log.set_up(loaded.config.log.error, worker=number)
            self._metrics.worker = number
            watchdog.signs.append(partial(signs.give, lock, number))
            peers = RemotePeers(self._channel, self._metrics)
            spread = Spread(connections, number)
            server = ServerProcess(loaded.plugins, self._metrics, peers, output_lock=lock, spread=spread)
            await server.connect(loaded.config)
        except (ConfigError, MemoryLockError, ConfigRejectedError) as error:
            raise PeerError(str(error)) from error
        self._server = server
        self._load = partial(load_values, filename=filename, plugins=loaded.plugins)
        for name, hub in self._hubs().items():
            hub.on_readers = lambda there_are, name=name: self._on_readers(name, there_are)  # type: ignore[misc] # mypy knows no default of a lambda
        log.publish(ErrorLogHandler(server.app.error_log, asyncio.get_running_loop()))
        self._sockets = sockets, probes

    async def _serve(self, *, replaces: bool) -> None:
        api, listeners = ([socket.socket(fileno=fileno) for fileno in found] for found in self._sockets)
        try:
            await self._server.start(api, listeners, may_lack_frontends=replaces)
        except ConfigRejectedError as error:
            raise PeerError(str(error)) from error
        startup.end()

    async def _prepare(self, *, values: str) -> None:
        try:
            with startup.reloading():
                loaded = await asyncio.to_thread(self._load, values)
                self._prepared = await self._server.prepare(loaded.config)
        except (ConfigError, ConfigRejectedError) as error:
            raise PeerError(str(error)) from error

    async def _apply(self) -> None:
        state, self._prepared = self._prepared, None
        if state is not None:
            self._server.apply(state)
            log.set_level(state.config.log.error)

    async def _frontends(self, *, back: bool) -> None:
        """Run the front ends of the prepared configuration, or those of the current one."""
        if back or self._prepared is None:
            await self._server.restore_frontends()
            return
        try:
            await self._server.use_frontends(self._prepared.config)
        except ConfigRejectedError as error:
            raise PeerError(str(error)) from error

    async def _discard(self) -> None:
        state, self._prepared = self._prepared, None
        if state is not None:
            await self._server.discard(state)

    async def _snapshot(self) -> dict[str, Any]:
        return self._metrics.snapshot()

    async def _forget(self, *, name: str) -> None:
        self._server.forget(name)

    # Events for the readers of the logs, in this process and in the others

    def _hubs(self) -> dict[str, Hub]:
        return {"error": self._server.app.error_log, "audit": self._server.app.audit_log}

    def _on_readers(self, log_name: str, there_are: bool) -> None:
        self._channel.tell("readers", log=log_name, there_are=there_are)

    def _wanted(self, *, log: str, elsewhere: bool) -> None:
        self._hubs()[log].elsewhere = (lambda line: self._send_event(log, line)) if elsewhere else None

    def _send_event(self, log_name: str, line: str) -> None:
        if not self._channel.tell("event", urgent=False, log=log_name, line=line):
            # An ended stream is better than one with gaps.
            self._channel.tell("cut", log=log_name)

    def _event(self, *, log: str, line: str) -> None:
        self._hubs()[log].deliver(line)

    def _cut(self, *, log: str) -> None:
        self._hubs()[log].close()


def main() -> None:
    """Serve; the argument is the file descriptor of the connection to the supervisor."""
    run_loop(_Worker().run(socket.socket(fileno=int(sys.argv[1]))))

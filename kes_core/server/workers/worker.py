"""A process that serves, one of several (`workers`): `supervisor` starts it, tells it what to do, looks after it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

from kes_core.config import ConfigError, ConfigSource
from kes_core.plugins import load_plugins
from kes_core.server import log
from kes_core.server.events import ErrorLogHandler, Hub
from kes_core.server.hardening import MemoryLockError, harden
from kes_core.server.loop import run_loop
from kes_core.server.metrics import Metrics
from kes_core.server.server import ConfigRejectedError, PreparedConfig, Serving
from kes_core.server.workers.channel import Channel, ChannelClosedError, PeerError

__all__ = ["main"]

logger = logging.getLogger("kes.server")

_PEERS_TIMEOUT: Final = 8.0
"""Seconds that the other processes get to answer: more than the supervisor gives them before it kills them."""


class RemotePeers:
    """The other processes, by way of the supervisor. What they can't be asked for is left out."""

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
            logger.warning("the other workers could not be told that the key %r has changed", name)


class _Worker:
    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._metrics = Metrics()
        self._change: PreparedConfig | None = None
        self._serving: Serving
        self._source: ConfigSource
        self._plugins: Any
        self._sockets: tuple[list[int], list[int]]
        self._channel = Channel(
            asked={
                "start": self._start,
                "serve": self._serve,
                "prepare": self._prepare,
                "apply": self._apply,
                "discard": self._discard,
                "snapshot": self._snapshot,
                "forget": self._forget,
            },
            told={"wanted": self._wanted, "event": self._event, "cut": self._cut},
        )

    async def run(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        for number in (signal.SIGINT, signal.SIGHUP):  # from a terminal: the supervisor gets them too
            loop.add_signal_handler(number, lambda: None)
        await self._channel.open(control)
        receiving = asyncio.create_task(self._channel.run())
        receiving.add_done_callback(lambda _task: self._stop.set())  # the supervisor is gone
        await self._stop.wait()
        if hasattr(self, "_serving"):
            await self._serving.stop()
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)

    # What the supervisor asks for

    async def _start(
        self,
        *,
        number: int,
        path: str,
        overrides: dict[str, str],
        text: str,
        mlock: bool,
        sockets: list[int],
        probes: list[int],
        lock: int,
    ) -> None:
        self._source = ConfigSource(Path(path), overrides)
        try:
            harden(mlock=mlock)
            self._plugins = load_plugins(block=self._source.blocked(text))
            config = self._source.parse(text, self._plugins)
            log.set_up(config.log.error, worker=number)
            serving = Serving(self._plugins, self._metrics, RemotePeers(self._channel, self._metrics), output_lock=lock)
            await serving.connect(config)
        except (ConfigError, MemoryLockError, ConfigRejectedError) as error:
            raise PeerError(str(error)) from error
        self._serving = serving
        for name, hub in self._hubs().items():
            hub.on_readers = lambda there_are, name=name: self._on_readers(name, there_are)  # type: ignore[misc] # mypy knows no default of a lambda
        log.publish(ErrorLogHandler(serving.app.error_log, asyncio.get_running_loop()))
        self._sockets = sockets, probes

    async def _serve(self) -> None:
        api, listeners = ([socket.socket(fileno=fileno) for fileno in found] for found in self._sockets)
        await self._serving.start(api, listeners)
        gc.collect()
        gc.freeze()

    async def _prepare(self, *, text: str) -> None:
        try:
            config = await asyncio.to_thread(self._source.parse, text, self._plugins)
            self._change = await self._serving.prepare(config)
        except (ConfigError, ConfigRejectedError) as error:
            raise PeerError(str(error)) from error

    async def _apply(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            self._serving.apply(change)
            log.set_level(change.config.log.error)

    async def _discard(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            await self._serving.discard(change)

    async def _snapshot(self) -> dict[str, Any]:
        return self._metrics.snapshot()

    async def _forget(self, *, name: str) -> None:
        self._serving.forget(name)

    # Events for the readers of the logs, in this process and in the others

    def _hubs(self) -> dict[str, Hub]:
        return {"error": self._serving.app.error_log, "audit": self._serving.app.audit_log}

    def _on_readers(self, log_name: str, there_are: bool) -> None:
        self._channel.tell("readers", log=log_name, there_are=there_are)

    def _wanted(self, *, log: str, elsewhere: bool) -> None:
        self._hubs()[log].elsewhere = (lambda line: self._send_event(log, line)) if elsewhere else None

    def _send_event(self, log_name: str, line: str) -> None:
        if not self._channel.tell("event", urgent=False, log=log_name, line=line):
            # Rather no stream than one with gaps.
            self._channel.tell("cut", log=log_name)

    def _event(self, *, log: str, line: str) -> None:
        self._hubs()[log].deliver(line)

    def _cut(self, *, log: str) -> None:
        self._hubs()[log].close()


def main() -> None:
    """Serve; the argument is the file descriptor of the connection to the supervisor."""
    run_loop(_Worker().run(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()

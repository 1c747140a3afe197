"""What one process of the server serves with: the application on its sockets, its state, and their replacement."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kes_core.audit.log import AuditError, AuditLog, open_sinks
from kes_core.audit.stdout import OwnSink
from kes_core.boundary import open_plugin_sinks
from kes_core.config.files import tls_settings
from kes_core.errors import BackendError
from kes_core.faults import log_fault
from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.state import State, connect
from kes_core.server.wire.listener import HypercornRuntime, Runtime
from kes_core.tls import TLSError

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins
    from kes_core.server.metrics import Metrics
    from kes_core.server.workers.peers import Peers

__all__ = ["GRACE", "ConfigRejectedError", "PreparedConfig", "Serving"]

logger = logging.getLogger("kes.server")

GRACE: Final = 20.0
"""Seconds that requests under way get when the server stops; the longest default timeout is 15."""
CERTIFICATE_INTERVAL: Final = 15 * 60.0
"""Seconds after which the certificate is read again (protocol section 8)."""


class ConfigRejectedError(Exception):
    """A configuration can't be put into force. The message says why, in one line, and what to do."""


@dataclass(frozen=True, slots=True)
class PreparedConfig:
    """A configuration that is ready to come into force: it can no longer fail."""

    config: Config
    state: State
    sinks: list[OwnSink]
    use_tls: Callable[[], None]


class Serving:
    """Serves from `start` to `stop`. Belongs to one event loop."""

    def __init__(self, plugins: Plugins, metrics: Metrics, peers: Peers, *, output_lock: int | None = None) -> None:
        """Set up; nothing is connected yet.

        Args:
            plugins: From where back ends come.
            metrics: Where to count.
            peers: The other processes of the server.
            output_lock: The file descriptor whose lock keeps them from writing to standard output at the same time.
        """
        self._plugins = plugins
        self._metrics = metrics
        self._peers = peers
        self._output_lock = output_lock
        self._plugin_sinks = open_plugin_sinks(plugins)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._config: Config
        self._cache_task: asyncio.Task[None]
        self._runtime: Runtime
        self.app: KESApp

    async def connect(self, config: Config) -> None:
        """Connect to what `config` names.

        Raises:
            ConfigRejectedError: It can't be used.
        """
        state, sinks = await self._open(config)
        try:
            self.app = KESApp(state, self._metrics, self._peers, ExpiryWatch(self._metrics))
            self._runtime = HypercornRuntime(self.app, tls_settings(config), self._metrics)
            self.app.expiry.look(config)
        except TLSError as error:
            await _close(state, sinks)
            raise ConfigRejectedError(str(error)) from error
        self._config = config
        self.app.audit = AuditLog(sinks, self._plugin_sinks, self.app.audit_log)

    async def start(self, sockets: Sequence[socket.socket], probes: Sequence[socket.socket]) -> None:
        """Serve on `sockets`, and probes on `probes`; other processes may do the same."""
        # A worker that takes another's place was told of nothing until now.
        self.app.server_state.cache.forget_all()
        self._cache_task = self._spawn(self.app.server_state.cache.run())
        await self._runtime.start(sockets)
        if probes:
            from kes_core.server.api.probe import answer_probe
            from kes_core.server.wire.probe import serve_probes

            self._spawn(serve_probes(partial(answer_probe, self.app), probes, self._until_stopping))
        self._spawn(self._look_at_certificate())

    async def prepare(self, config: Config) -> PreparedConfig:
        """Get ready to serve by another configuration.

        Raises:
            ConfigRejectedError: It can't be used. Nothing has changed.
        """
        try:
            # Beside the loop: deriving the key of an encrypted private key takes long on purpose.
            use_tls = await asyncio.to_thread(self._runtime.prepare, tls_settings(config))
        except TLSError as error:
            raise ConfigRejectedError(str(error)) from error
        state, sinks = await self._open(config)
        return PreparedConfig(config, state, sinks, use_tls)

    def apply(self, change: PreparedConfig) -> None:
        """Serve by `change` from now on; requests under way go on with what they began with."""
        old, old_audit, old_cache_task = self.app.server_state, self.app.audit, self._cache_task
        self._config = change.config
        change.use_tls()
        self.app.audit = AuditLog(change.sinks, self._plugin_sinks, self.app.audit_log)
        self.app.audit.replace(old_audit)
        # It was told of no key that was created or deleted while it was prepared.
        change.state.cache.forget_all()
        self.app.server_state = change.state
        self._cache_task = self._spawn(change.state.cache.run())
        old_cache_task.cancel()
        self._spawn(_close_later(old))
        self._look(change.config)

    async def discard(self, change: PreparedConfig) -> None:
        """Let go of a change that is not to come into force."""
        await _close(change.state, change.sinks)

    def forget(self, name: str) -> None:
        """Drop what is known of a key that another process has created or deleted."""
        self.app.server_state.cache.forget(name)

    async def stop(self) -> None:
        """Take no more connections, finish the requests under way, and let go of everything."""
        self._stopping.set()
        self.app.close_streams()
        await self._runtime.stop(grace=GRACE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.app.audit.close()
        await self.app.server_state.close()

    async def _open(self, config: Config) -> tuple[State, list[OwnSink]]:
        try:
            # A log host that does not answer holds up nobody.
            sinks = await asyncio.to_thread(open_sinks, config, lock=self._output_lock)
        except AuditError as error:
            raise ConfigRejectedError(str(error)) from error
        try:
            state = await connect(config, self._plugins, counters=self._metrics.store, on_key_change=self._key_changed)
        except BaseException as error:
            for sink in sinks:
                sink.close()
            if isinstance(error, BackendError | TLSError):
                raise ConfigRejectedError(str(error)) from error
            raise
        return state, sinks

    async def _key_changed(self, name: str) -> None:
        """Let nobody go by what was known of a key: no other process, nor the state that is in force by now."""
        if hasattr(self, "app"):
            self.forget(name)
        await self._peers.forget(name)

    async def _until_stopping(self) -> None:
        await self._stopping.wait()

    async def _look_at_certificate(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_INTERVAL)
            try:
                use_tls = await asyncio.to_thread(self._runtime.prepare, tls_settings(self._config))
                use_tls()
            except TLSError as error:
                logger.error("the certificate is not reloaded, the old one stays in use: %s", error)
            except Exception as error:  # or it would never be looked at again
                message = "internal error: the certificate is not reloaded, the old one stays in use"
                log_fault(logger, message, error=error)
            else:
                self._look(self._config)

    def _look(self, config: Config) -> None:
        try:
            self.app.expiry.look(config)
        except TLSError as error:  # replaced at this very moment
            logger.error("the certificate can't be looked at: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _close(state: State, sinks: Sequence[OwnSink]) -> None:
    for sink in sinks:
        sink.close()
    await state.close()


async def _close_later(state: State) -> None:
    """Let requests that still work with `state` finish, then close it."""
    await asyncio.sleep(GRACE)
    await state.close()

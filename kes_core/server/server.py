"""One process that serves: the application on its sockets, its state, and how a reload replaces the state. Internal."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kes_core.audit.log import AuditError, open_audit_log
from kes_core.boundary import Surroundings
from kes_core.config.files import make_server_tls
from kes_core.config.runtimes import DEFAULT_RUNTIME, RuntimeLoadError, load_runtime
from kes_core.errors import BackendError
from kes_core.faults import end_tasks, log_fault
from kes_core.server.api.dispatch import KESApp
from kes_core.server.deletion import DeletionWatch
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.frontends import Frontends
from kes_core.server.http import HTTPFrontend
from kes_core.server.process import GRACE, ConfigRejectedError
from kes_core.server.state import State, connect
from kes_core.server.wire.listener import HypercornRuntime
from kes_core.tls import ServerTLS, TLSError

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins
    from kes_core.server.metrics import Metrics
    from kes_core.server.wire.listener import Runtime
    from kes_core.server.wire.spread import Spread
    from kes_core.server.workers.peers import Peers

__all__ = ["ServerProcess"]

logger = logging.getLogger("kes.server")

CERTIFICATE_INTERVAL: Final = 15 * 60.0
"""Seconds until the certificate is read again (protocol section 8)."""


class ServerProcess:
    """Serves from `start` to `stop`. Belongs to one event loop."""

    def __init__(
        self,
        plugins: Plugins,
        metrics: Metrics,
        peers: Peers,
        *,
        output_lock: int | None = None,
        spread: Spread | None = None,
    ) -> None:
        """Set up, without any connections yet.

        Args:
            plugins: The plugins of key stores and policy engines.
            metrics: The counters.
            peers: The other processes of the server.
            output_lock: The file descriptor whose lock keeps them from writing to standard output at the same time.
            spread: Their numbers of connections, to spread new ones evenly.
        """
        self._plugins = plugins
        self._metrics = metrics
        self._peers = peers
        self._output_lock = output_lock
        self._spread = spread
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._cache_task: asyncio.Task[None]
        self._runtime_kind: type[Runtime] = HypercornRuntime
        self._http: HTTPFrontend
        self._frontends: Frontends
        self.app: KESApp

    async def connect(self, config: Config) -> None:
        """Connect to the key store and the policy engines of `config`.

        Raises:
            ConfigRejectedError: It can't be used.
        """
        if config.runtime != DEFAULT_RUNTIME:
            try:
                self._runtime_kind = load_runtime(config.runtime)
            except RuntimeLoadError as error:
                raise ConfigRejectedError(str(error)) from error
        self._metrics.runtime = config.runtime
        state = await self.prepare(config)
        self.app = KESApp(state, self._metrics, self._peers, ExpiryWatch(self._metrics))
        self.app.use(state)
        self._frontends = Frontends(self.app)
        runtime = self._runtime_kind(self.app, self._current_tls, self._metrics)
        runtime.spread = self._spread
        self._http = HTTPFrontend(self.app, runtime)
        self._check_expiry()

    def _make_tls(self, config: Config) -> ServerTLS:
        return make_server_tls(config, self._runtime_kind.prepare_tls)

    def _current_tls(self) -> ServerTLS:
        tls = self.app.server_state.tls
        assert tls is not None, "a server with a network has TLS"
        return tls

    async def start(
        self, sockets: Sequence[socket.socket], probes: Sequence[socket.socket], *, may_lack_frontends: bool = False
    ) -> None:
        """Serve the API on `sockets`, probes on `probes`, and with the front ends. Other processes may use these too.

        With `may_lack_frontends` do not wait for the front ends: those that can't start are tried again and again.

        Raises:
            ConfigRejectedError: A front end can't start.
        """
        config = self.app.server_state.config
        if may_lack_frontends:
            self._spawn(self._frontends.try_to_use(config))
        else:
            await self._frontends.use(config)
        # A worker that replaces another one does not know which keys were created and deleted until now.
        self.app.server_state.cache.forget_all()
        self._cache_task = self._spawn(self.app.server_state.cache.run())
        self._http.sockets = sockets
        await self._http.start()
        if probes:
            from kes_core.server.api.probe import answer_probe
            from kes_core.server.wire.probe import serve_probes

            self._spawn(serve_probes(partial(answer_probe, self.app), probes, self._until_stopping))
        self._spawn(self._reload_certificate_regularly())
        if self._metrics.worker <= 1:  # one process is enough
            self._spawn(DeletionWatch(self._metrics).run(lambda: self.app.server_state))

    async def prepare(self, config: Config) -> State:
        """Connect to the key store and the policy engines of a new configuration; return the state for `apply`.

        Raises:
            ConfigRejectedError: It can't be used. Nothing has changed.
        """
        surroundings = Surroundings(self._metrics.worker, self._metrics.plugins)
        try:
            audit = await open_audit_log(
                config,
                self._plugins,
                surroundings,
                lock=self._output_lock,
                make_appender=self._runtime_kind.make_appender,
            )
        except AuditError as error:
            raise ConfigRejectedError(str(error)) from error
        try:
            # Off the event loop: decrypting a private key is slow on purpose.
            tls = await asyncio.to_thread(self._make_tls, config)
            return await connect(
                config,
                self._plugins,
                counters=self._metrics.store,
                on_key_change=self._invalidate_key,
                surroundings=surroundings,
                tls=tls,
                audit=audit,
            )
        except BaseException as error:
            await audit.close()
            if isinstance(error, BackendError | TLSError):
                raise ConfigRejectedError(str(error)) from error
            raise

    def apply(self, state: State) -> None:
        """Serve with `state` from now on. Requests in progress keep the state with which they began. This can't fail.

        One assignment replaces everything: TLS, policies, key store, cache and audit log.
        """
        old, old_cache_task = self.app.server_state, self._cache_task
        # The new cache does not know which keys were created and deleted since it was prepared.
        state.cache.forget_all()
        self.app.use(state)
        self._cache_task = self._spawn(state.cache.run())
        old_cache_task.cancel()
        state.audit.replace(old.audit)
        self._spawn(old.audit.close())
        self._spawn(_retire([old]))
        self._check_expiry()

    async def use_frontends(self, config: Config) -> None:
        """Run the front ends of `config`, between `prepare` and `apply`. What is unchanged goes on.

        Raises:
            ConfigRejectedError: One of them can't start. Those that ran before run again.
        """
        await self._frontends.use(config)

    async def restore_frontends(self) -> None:
        """Run the front ends of the current configuration again, after another process could not `use_frontends`."""
        await self._frontends.try_to_use(self.app.server_state.config)

    async def discard(self, state: State) -> None:
        """Close a prepared state that is not used."""
        await state.audit.close()
        await state.close()

    def forget(self, name: str) -> None:
        """Remove a key from memory, because another process has created, changed or deleted it."""
        self.app.server_state.cache.forget(name)

    async def stop(self) -> None:
        """Accept no more connections, finish the requests in progress, and close everything."""
        self._stopping.set()
        await asyncio.gather(self._http.stop(), self._frontends.stop())
        await end_tasks(self._tasks)
        await self.app.server_state.audit.close()
        await self.app.server_state.close()

    async def _invalidate_key(self, name: str) -> None:
        """Remove a key from the memory of all processes, here from the current state, not that of the request."""
        if hasattr(self, "app"):
            self.forget(name)
        await self._peers.forget(name)

    async def _until_stopping(self) -> None:
        await self._stopping.wait()

    async def _reload_certificate_regularly(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_INTERVAL)
            config = self.app.server_state.config
            try:
                tls = await asyncio.to_thread(self._make_tls, config)
            except TLSError as error:
                logger.error("the certificate is not reloaded, the old one stays in use: %s", error)
            except Exception as error:  # otherwise the certificate would never be read again
                message = "internal error: the certificate is not reloaded, the old one stays in use"
                log_fault(logger, message, error=error)
            else:
                if self.app.server_state.config is config:  # otherwise a reload was faster and has read it
                    self.app.use(dataclasses.replace(self.app.server_state, tls=tls))
                    self._check_expiry()

    def _check_expiry(self) -> None:
        try:
            self.app.expiry.check_server(self.app.server_state.config)
        except TLSError as error:  # someone is replacing the file
            logger.error("the certificate can't be checked for its expiry: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _retire(states: list[State]) -> None:
    """Let the requests finish that still use the only state in `states`, then close and free it.

    The caller must not keep a reference. The state is freed off the event loop, because freeing thousands of policies
    takes some milliseconds.
    """
    await asyncio.sleep(GRACE)
    await states[0].close()
    await asyncio.to_thread(states.clear)

"""Running the server: start, reload on SIGHUP, stop on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kes_core.config import Config, ConfigError
from kes_core.hookspecs import ServerInfo
from kes_core.keystore import KeyStoreError
from kes_core.server import log
from kes_core.server.app import KESApp
from kes_core.server.audit import AuditLog, StreamSink
from kes_core.server.routes.system import version
from kes_core.server.runtime import HypercornRuntime, Runtime
from kes_core.server.state import State, connect
from kes_core.server.streams import ErrorLogHandler
from kes_core.server.tls import ClientCertificate, TLSError, TLSSettings, load_certificates, make_context

if TYPE_CHECKING:
    from kes_core.hookspecs import AuditSink
    from kes_core.plugins import Plugins

__all__ = ["ServerError", "check_files", "run"]

logger = logging.getLogger("kes.server")

GRACE: Final = 20.0
"""Seconds that requests under way get when the server stops; the longest default timeout is 15."""
CERTIFICATE_INTERVAL: Final = 15 * 60.0
"""Seconds after which the certificate is read again (protocol section 8)."""
_AUDIT_LEVEL: Final = 0
_LISTEN_HINTS: Final = {
    errno.EADDRINUSE: "; is another server running there?",
    errno.EACCES: "; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "; the machine has no such address",
}
_MCL_CURRENT, _MCL_FUTURE = 1, 2


class ServerError(Exception):
    """The server can't start. The message says why, in one line, and what to do."""


def run(
    config: Config,
    *,
    plugins: Plugins,
    reload: Callable[[], Config] | None = None,
    mlock: bool = False,
    on_started: Callable[[ServerInfo], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        config: What to serve.
        plugins: From where the configuration's back ends come.
        reload: Reads the configuration again, for SIGHUP; without it SIGHUP only reads the certificate again.
        mlock: Keep all memory out of the swap.
        on_started: Called once, when the server answers.

    Raises:
        ServerError: The server can't start, or can't lock its memory.
    """
    # A core dump of a key server holds keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if mlock:
        _lock_memory()
    log.set_up(config.log.error)
    try:
        asyncio.run(_Server(config, plugins, reload).serve(on_started))
    except (KeyStoreError, TLSError) as error:
        raise ServerError(str(error)) from error


class _Server:
    """The running server: what SIGHUP replaces and SIGTERM ends."""

    def __init__(self, config: Config, plugins: Plugins, reload: Callable[[], Config] | None) -> None:
        self._config = config
        self._plugins = plugins
        self._reload = reload
        self._tasks: set[asyncio.Task[None]] = set()
        self._cache_task: asyncio.Task[None]
        self._app: KESApp
        self._runtime: Runtime
        self._reloading = asyncio.Lock()

    async def serve(self, on_started: Callable[[ServerInfo], None] | None) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        sockets = _listen(self._config)
        try:
            runtime_tls = _tls_settings(self._config)
            state = await connect(self._config, self._plugins)
            self._app = KESApp(state)
            self._app.audit = self._audit_log(self._config)
            self._runtime = HypercornRuntime(self._app, runtime_tls)
            self._warn_of_expiry(self._config)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        log.publish(ErrorLogHandler(self._app.error_log, loop))
        self._cache_task = self._spawn(state.cache.run())
        await self._runtime.start(sockets)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._read_again()))
        self._spawn(self._renew_certificate())
        info = ServerInfo(version=version(), addresses=tuple(_address(sock) for sock in sockets))
        # What is loaded by now stays: the garbage collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        logger.info("listening on %s", ", ".join(f"https://{address}" for address in info.addresses))
        if on_started is not None:
            on_started(info)
        self._notify("kes_server_started", info)
        try:
            await stop.wait()
        finally:
            self._app.close_streams()
            await self._runtime.stop(grace=GRACE)
            self._notify("kes_server_stopping", info)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._app.server_state.close()

    async def _read_again(self) -> None:
        """Take over the configuration file as it is now, or leave everything as it was and say why."""
        async with self._reloading:
            if self._reload is None:
                self._renew_tls(self._config)
                return
            try:
                config = self._reload()
                state = await connect(config, self._plugins)
            except (ConfigError, KeyStoreError, TLSError) as error:
                logger.error("the configuration is not reloaded, the old one stays in force: %s", error)
                return
            if not self._renew_tls(config):
                await state.close()
                return
            if config.address != self._config.address:
                logger.warning("the address changes only with a restart")
            if set(config.blocked_plugins) != set(self._config.blocked_plugins):
                logger.warning("plugins.block changes only with a restart")
            old, old_cache_task = self._app.server_state, self._cache_task
            self._config = config
            log.set_level(config.log.error)
            self._app.audit = self._audit_log(config)
            self._app.server_state = state
            self._cache_task = self._spawn(state.cache.run())
            old_cache_task.cancel()
            self._spawn(_close_later(old))
            logger.info("the configuration is reloaded")

    async def _renew_certificate(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_INTERVAL)
            self._renew_tls(self._config)

    def _renew_tls(self, config: Config) -> bool:
        try:
            self._runtime.reload(_tls_settings(config))
        except TLSError as error:
            logger.error("the certificate is not reloaded, the old one stays in use: %s", error)
            return False
        self._warn_of_expiry(config)
        return True

    def _warn_of_expiry(self, config: Config) -> None:
        problem = _expiry_problem(config)
        if problem:
            logger.warning("%s; until then clients refuse this server", problem)

    def _audit_log(self, config: Config) -> AuditLog:
        sinks: list[AuditSink] = [sink for sinks in self._plugins.hook.kes_audit_sinks() for sink in sinks]
        if config.log.audit <= _AUDIT_LEVEL:
            sinks.append(StreamSink())
        return AuditLog(sinks, self._app.audit_log)

    def _notify(self, hook: str, info: ServerInfo) -> None:
        try:
            getattr(self._plugins.hook, hook)(server=info)
        except Exception:
            logger.exception("a plugin's %s failed", hook)

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _close_later(state: State) -> None:
    """Let requests that still work with `state` finish, then close it."""
    await asyncio.sleep(GRACE)
    await state.close()


def check_files(config: Config) -> None:
    """See to it that the certificates that `config` names can be used.

    Raises:
        TLSError: They can't.
    """
    make_context(_tls_settings(config))
    problem = _expiry_problem(config)
    if problem:
        raise TLSError(problem)


def _expiry_problem(config: Config) -> str:
    """Return what to say of a server certificate that clients refuse because of the date; nothing if it is good."""
    (leaf, *_chain), now = load_certificates(Path(config.tls.cert)), datetime.now(UTC)
    if leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        return ""
    verb, date = "has expired", leaf.not_valid_after_utc
    if now < leaf.not_valid_before_utc:
        verb, date = "is not valid yet", leaf.not_valid_before_utc
    return f"the certificate {config.tls.cert!r} {verb} ({date:%Y-%m-%d %H:%M} UTC): put one that is valid in its place"


def _tls_settings(config: Config) -> TLSSettings:
    skips = any(api.skip_auth for api in config.api.values())
    if config.tls.auth:
        wanted = ClientCertificate.VERIFY_IF_GIVEN if skips else ClientCertificate.REQUIRE_AND_VERIFY
    else:
        wanted = ClientCertificate.REQUEST if skips else ClientCertificate.REQUIRE
    password = config.tls.password
    return TLSSettings(
        key=Path(config.tls.key),
        cert=Path(config.tls.cert),
        password=password.get if password is not None else None,
        client_certificate=wanted,
        ca=Path(config.tls.ca) if config.tls.ca else None,
    )


def _listen(config: Config) -> list[socket.socket]:
    """Bind the configured address: every address that a host name stands for, or all where there is no host."""
    host, port = config.host, config.port
    sockets: list[socket.socket] = []
    try:
        if not host and socket.has_dualstack_ipv6():
            return [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)]
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104 # what the operator configured
        for family, _type, _protocol, _name, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address[:2], family=family))
            port = port or sockets[0].getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        is_gai = isinstance(error, socket.gaierror)
        reason = error.strerror if is_gai or not error.errno else os.strerror(error.errno)
        hint = _LISTEN_HINTS.get(error.errno or 0, "") if not is_gai else ""
        raise ServerError(f"can't listen on {config.address}: {reason}{hint}") from error
    return sockets


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _lock_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise ServerError(
            f"can't lock memory: {reason}; grant the capability CAP_IPC_LOCK or raise the limit of locked memory "
            "(ulimit -l), or start without --mlock"
        )

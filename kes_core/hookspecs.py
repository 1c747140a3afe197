"""All extension points of the server. This is the one file that the author of a plugin has to read.

A plugin is a module (or another object) that an entry point of the group `kes` names:

    [project.entry-points.kes]
    my-store = "my_package"

The plugin states the version of this file that it was written for, and implements any of the hooks below:

    from kes_core import KeyStoreBackend, hookimpl

    kes_hookspec_version = 1

    @hookimpl
    def kes_keystore_backends():
        return [KeyStoreBackend(name="my-store", config=MyConfig, connect=connect)]

`connect` is an `async def connect(config, context)`. A plugin that supports several versions sets
`kes_hookspec_version` to a set or a `range` of them.

The server calls a plugin only through one boundary, which limits the time of each call and checks each result. A plugin
reports a failure with `BackendError` (a key store: `KeyStoreError`), and the server logs its message. Any other
exception is a fault of the plugin: the server logs its type and the plugin's name, and never its text, which may
contain a key. With `log.error: debug` it also logs the files, lines and functions of the traceback.

The server calls hooks when it starts and stops, never while it serves a request: hooks return objects, and the objects
do the work. Import heavy dependencies where they are used (in `connect`), not at the top of the plugin: every server
imports every installed plugin, even one that it does not use.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pluggy

from kes_core.counters import LOST_RECORDS, PluginMetrics
from kes_core.errors import BackendError
from kes_core.faults import kind_of, one_line

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.findings import Finding
    from kes_core.frontends import FrontendBackend
    from kes_core.keystore import KeyStore
    from kes_core.policy import PolicyEngine

__all__ = [
    "HOOKSPEC_VERSION",
    "AuditSink",
    "AuditSinkType",
    "KeyStoreBackend",
    "PluginContext",
    "PolicyEngineType",
    "QueuedAuditSink",
    "ServerInfo",
    "hookimpl",
]

PROJECT: Final = "kes"
"""The name of the pluggy project and of the entry-point group."""

HOOKSPEC_VERSION: Final = 1
"""The major version of these specifications. A plugin with a different `kes_hookspec_version` is not loaded."""

logger = logging.getLogger("kes.plugins")

_FLUSH_TIME: Final = 4.0
"""Seconds that a closed sink has to deliver its waiting records."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
"""The shortest and the longest pause in seconds before a sink gets the same records again."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginContext:
    """Where a plugin runs. `connect` and `diagnose` get it. The defaults are for tests."""

    directory: Path = Path()
    """The directory of the configuration file: the base of relative paths in the plugin's section."""
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("kes.plugins"))
    """Writes to the server's log, under the name of the plugin. Do not log values or credentials."""
    worker: int = 0
    """The number of the worker process, from 1; 0 in a server with one process, and in commands."""
    metrics: PluginMetrics = field(default_factory=PluginMetrics)
    """The plugin's own metrics, which the server shows with its metrics."""

    def path(self, text: str) -> Path:
        """Return a path of the plugin's section; a relative one starts at `directory`."""
        return self.directory / text


@dataclass(frozen=True, slots=True)
class KeyStoreBackend:
    """A kind of key store that the configuration file can select."""

    name: str
    """The section under `keystore:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section. Scalars arrive as the text in the file (environment references resolved), so
    the type of each field decides how its text is parsed. `kes_core.config` has the types of the configuration file:
    durations, switches, secrets. Forbid unknown fields (`kes_core.config.Section` does)."""
    connect: Callable[[Any, PluginContext], Awaitable[KeyStore]]
    """An `async def` function. The server calls it with an instance of `config` and a context when it starts or
    reloads. It returns a connected store within 60 seconds, or raises `KeyStoreError` with a message that tells the
    operator what to do."""
    persistent: bool = True
    """Whether keys outlive the process. A store that is not persistent is for development and tests."""
    diagnose: Callable[..., Awaitable[Sequence[Finding]]] | None = None
    """`kes doctor` calls it with an instance of `config` and a context. It returns all findings about the store: what
    works, what fails, and how to fix that. It changes nothing in the store and does not raise. Without it, the doctor
    connects, asks for the status, and reports the first error. If the function has a parameter `login`, it is true if
    it may use up credentials that work a limited number of times (`kes doctor --login`)."""
    access_policy: Callable[[Any], str] | None = None
    """`kes doctor store-policy` calls it with an instance of `config`. It returns the least privileges that the store
    must grant to the server, in the store's own policy language."""
    origin: str = field(default="", kw_only=True, compare=False)
    """The plugin that it comes from, for messages. Set when the plugin is loaded."""


@dataclass(frozen=True, slots=True)
class PolicyEngineType:
    """A kind of policy engine that the configuration file can select."""

    name: str
    """The section under `policy_engines:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section, as for key stores."""
    connect: Callable[[Any, PluginContext], Awaitable[PolicyEngine]]
    """An `async def` function. The server calls it with an instance of `config` and a context when it starts or
    reloads. It returns an engine within 60 seconds, or raises `BackendError` with a message that tells the operator
    what to do."""
    diagnose: Callable[..., Awaitable[Sequence[Finding]]] | None = None
    """As for key stores. Without it, the doctor connects, and reports the error."""
    origin: str = field(default="", kw_only=True, compare=False)
    """The plugin that it comes from, for messages. Set when the plugin is loaded."""


class AuditSink(ABC):
    """Receives one record for each request and its response, including refused requests.

    A sink that sends records over a network is easier to write as a `QueuedAuditSink`.
    """

    @abstractmethod
    def audit(self, event: Mapping[str, Any]) -> None:
        """Take one record in the documented audit format, and do not change it.

        The server calls it on the event loop, before it sends the response. The method must return at once: pass the
        record to a queue or a thread. An exception is logged, at most once a minute, and has no other effect.

        Raises:
            BackendError: The record is lost. The message tells the operator why. Of any other exception the log shows
                only the type.
        """

    async def close(self) -> None:
        """Deliver the waiting records and release all resources, within 5 seconds. May be called twice."""
        return


class QueuedAuditSink(AuditSink):
    """A sink that delivers records in batches. It keeps records while its target can't be reached.

    Up to `max_waiting` records wait; after that, the oldest are lost, and the log says how many.
    """

    max_waiting: ClassVar[int] = 10_000
    """The largest number of records that wait."""
    max_batch: ClassVar[int] = 500
    """The largest number of records that `write` gets at once."""
    write_timeout: ClassVar[float] = 10.0
    """Seconds that one call of `write` may take."""

    @abstractmethod
    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Deliver records, in their order. Calls follow one another, and never overlap.

        If this raises, the same records come again, after a pause of up to 10 seconds: a record may arrive twice.

        Raises:
            BackendError: The records are not delivered. The message tells the operator why. Of any other exception the
                log shows only the type.
        """

    async def disconnect(self) -> None:
        """Release all resources. Called once, after the last call of `write`."""
        return

    def audit(self, event: Mapping[str, Any]) -> None:
        self._queue.put(event)

    async def close(self) -> None:
        if await self._queue.close():
            await self.disconnect()

    @functools.cached_property
    def _queue(self) -> _RecordQueue:
        """The queue. Made at its first use, so that a subclass needs no call of `super().__init__()`."""
        return _RecordQueue(self)


class _RecordQueue:
    """The records of a sink that wait for their delivery, and the task that delivers them."""

    def __init__(self, sink: QueuedAuditSink) -> None:
        self._sink = sink
        self.what = f"the audit sink {kind_of(sink)}"
        """The name of the sink in messages. The server replaces it by the name in the configuration."""
        self.context: contextvars.Context | None = None
        """The context of the task that delivers; that of its creation unless the server sets another."""
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._problem = ""
        self._lost = 0

    def put(self, event: Mapping[str, Any]) -> None:
        if self._is_closed:
            LOST_RECORDS.add("plugin")
            return
        if len(self._waiting) >= self._sink.max_waiting:
            self._waiting.popleft()
            self._lost += 1
            LOST_RECORDS.add("plugin")
            if self._lost == 1:
                logger.error("%s is too slow: the oldest audit records are lost", self.what)
        self._waiting.append(event)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._deliver(), context=self.context)

    async def close(self) -> bool:
        """Wait for the delivery of all records, for a limited time; return whether this is the first call."""
        first, self._is_closed = not self._is_closed, True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_FLUSH_TIME)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_FLUSH_TIME / 10)
        self.give_up()
        return first

    def give_up(self) -> None:
        """Drop the records that wait, and log their number."""
        lost = len(self._waiting) + self._lost
        LOST_RECORDS.add("plugin", len(self._waiting))
        self._waiting.clear()
        self._lost = 0
        if lost:
            logger.error("%s is closed; %d audit records are lost", self.what, lost)

    async def _deliver(self) -> None:
        pause = _FIRST_PAUSE
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._sink.max_batch))]
            delivered = False
            try:
                delivered = await self._write(batch)
            finally:
                if not delivered:
                    self._waiting.extendleft(reversed(batch))
            if delivered:
                pause = _FIRST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _write(self, batch: Sequence[Mapping[str, Any]]) -> bool:
        """Deliver records; return whether that succeeded. Log a failure if it differs from the last one."""
        # In a task of its own, which may ignore its cancellation.
        task = asyncio.get_running_loop().create_task(_attempt(self._sink, batch))
        try:
            in_time, _waiting = await asyncio.wait({task}, timeout=self._sink.write_timeout)
            if not in_time:
                task.cancel()
                await asyncio.wait({task}, timeout=_FLUSH_TIME / 20)
                if not task.done():
                    self._fail(f"no answer within {self._sink.write_timeout:g} s")
                    await asyncio.wait({task})  # because calls never overlap
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_FLUSH_TIME / 20)
        error = asyncio.CancelledError() if task.cancelled() else task.result()
        if isinstance(error, BackendError):
            self._fail(one_line(str(error)))
        elif isinstance(error, asyncio.CancelledError | TimeoutError) and not in_time:
            self._fail(f"no answer within {self._sink.write_timeout:g} s")
        elif error is not None:
            self._fail(f"{kind_of(error)}, which is a fault of its plugin")
        elif self._problem or self._lost:
            logger.warning("%s delivers audit records again; %d are lost", self.what, self._lost)
            self._problem, self._lost = "", 0
        return error is None

    def _fail(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("%s can't deliver audit records, which wait in memory: %s", self.what, problem)
        self._problem = problem


async def _attempt(sink: QueuedAuditSink, batch: Sequence[Mapping[str, Any]]) -> BaseException | None:
    """Deliver records; return the error, if any. If the task raised SystemExit, the event loop would end."""
    try:
        await sink.write(batch)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        return error
    return None


@dataclass(frozen=True, slots=True)
class AuditSinkType:
    """A kind of audit sink that the configuration file can select."""

    name: str
    """The section under `audit_sinks:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section, as for key stores."""
    connect: Callable[[Any, PluginContext], Awaitable[AuditSink]]
    """An `async def` function. The server calls it with an instance of `config` and a context when it starts or
    reloads, in each worker. It returns a sink within 60 seconds, or raises `BackendError` with a message that tells the
    operator what to do."""
    diagnose: Callable[..., Awaitable[Sequence[Finding]]] | None = None
    """As for key stores. Without it, the doctor connects, and reports the error."""
    origin: str = field(default="", kw_only=True, compare=False)
    """The plugin that it comes from, for messages. Set when the plugin is loaded."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The facts that a plugin gets about its server."""

    version: str
    addresses: tuple[str, ...]
    """The addresses on which the server listens, as `host:port`."""


@hookspec
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:  # type: ignore[empty-body]
    """Return the plugin's kinds of key store. Called once, when plugins are loaded."""


@hookspec
def kes_policy_engines() -> Sequence[PolicyEngineType]:  # type: ignore[empty-body]
    """Return the plugin's kinds of policy engine. Called once, when plugins are loaded."""


@hookspec
def kes_audit_sinks() -> Sequence[AuditSinkType]:  # type: ignore[empty-body]
    """Return the plugin's kinds of audit sink. Called once, when plugins are loaded."""


@hookspec
def kes_frontends() -> Sequence[FrontendBackend]:  # type: ignore[empty-body]
    """Return the plugin's kinds of front end (`kes_core.FrontendBackend`). Called once, when plugins are loaded."""


@hookspec
def kes_server_started(server: ServerInfo) -> None:
    """Note that the server listens and is ready. Called once, on its own thread, with 5 seconds to return."""


@hookspec
def kes_server_stopping(server: ServerInfo) -> None:
    """Note that the server is about to stop. Called once, on its own thread, with 5 seconds to return."""

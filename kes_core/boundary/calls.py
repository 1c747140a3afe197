"""Time limits, names and errors of all calls of plugins. Private."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kes_core.boundary.blocking import PLUGIN, BlockedError, calls_plugin
from kes_core.counters import PluginCounters
from kes_core.errors import BackendError
from kes_core.faults import PLACES, kind_of, log_fault, one_line, places
from kes_core.frontends import FrontendBackend, FrontendError
from kes_core.hookspecs import AuditSink, AuditSinkType, KeyStoreBackend, PluginContext, PolicyEngineType
from kes_core.keystore import (
    EntryExistsError,
    EntryNotFoundError,
    EntryRefusedError,
    KeyStore,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from kes_core.policy import PolicyEngine


__all__ = [
    "AWAITABLE",
    "BLOCKING",
    "CANCEL_TIMEOUT",
    "CLOSE_TIMEOUT",
    "CONNECT_TIMEOUT",
    "TELL_AGAIN",
    "BlockingWatch",
    "Contributed",
    "Origin",
    "PluginError",
    "Surroundings",
    "TooSlowError",
    "abandon",
    "attribute_of",
    "close_plugin",
    "connect_plugin",
    "is_ours",
    "origin_of",
    "origin_of_engine",
    "origin_of_frontend",
    "origin_of_sink",
    "origin_of_store",
    "text_of",
    "translated",
    "within",
]

T = TypeVar("T")
C = TypeVar("C", bound=PluginContext)
Contributed = KeyStoreBackend | PolicyEngineType | AuditSinkType | FrontendBackend
"""What a plugin contributes."""

logger = logging.getLogger("kes.plugins")

CONNECT_TIMEOUT: Final = 60.0
"""Seconds that a plugin has to connect, or to diagnose a key store."""
CONNECT_NOTICE: Final = 2.0
"""Seconds after which the log says what the server waits for."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a plugin has to close a key store or policy engine."""
CANCEL_TIMEOUT: Final = 1.0
"""Seconds that a plugin has to end a call after its cancellation."""
BLOCKING: Final = 0.1
"""Seconds for which a plugin may block the event loop before the log says so."""
AWAITABLE: Final = "an awaitable: define it with 'async def'"
"""What a method that is not asynchronous has to return."""
_LONGEST_WAIT: Final = 1e9
"""More seconds than anything waits for a key store that has too many requests. A plugin may state any number."""
TELL_AGAIN: Final = 60.0
"""Seconds between two log lines about the same fault of a plugin."""


class PluginError(Exception):
    """A plugin failed or broke the rules of its interface. The message says how, in text that is safe to log."""


class TooSlowError(Exception):
    """A plugin exceeded its time limit."""


async def within(call: Awaitable[T], seconds: float | None, what: str, *, connects: bool = False) -> T:
    """Await `call`, which a plugin made, for a limited time. Abandon a call that ignores its cancellation.

    Args:
        call: The awaitable to wait for.
        seconds: The time limit; None for none.
        what: What the call belongs to, as in messages (`Origin.what`).
        connects: Whether the call connects to something: a slow connection is logged.

    Raises:
        TooSlowError: The call took longer.
        BaseException: The call raised it.
    """
    task = asyncio.ensure_future(_contained(call, what))
    has_ended = False
    try:
        if connects and seconds is not None:
            first = min(CONNECT_NOTICE, seconds)
            await asyncio.wait({task}, timeout=first)
            seconds -= first
            if not task.done():
                logger.warning("connecting to %s ...", what)
        if not task.done():
            await asyncio.wait({task}, timeout=seconds)
        has_ended = task.done()
    finally:
        if not has_ended:
            task.cancel()
            _done, pending = await asyncio.wait({task}, timeout=CANCEL_TIMEOUT)
            abandon(pending)
    if not has_ended:
        raise TooSlowError
    result, error = task.result()
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # without an error, the task has a result


_abandoned: Final[set[asyncio.Task[Any]]] = set()


def abandon(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Keep tasks that ignore their cancellation until they end. Python would log that it destroys a pending task."""
    for task in tasks:
        _abandoned.add(task)
        task.add_done_callback(_abandoned.discard)


@calls_plugin
async def _contained(call: Awaitable[T], what: str) -> tuple[T | None, BaseException | None]:
    """Await `call`; return its result or its error. If the task raised SystemExit, the event loop would end."""
    PLUGIN.set(what)
    try:
        return await call, None
    except BaseException as error:
        if is_ours(error):
            raise
        return None, error


def is_ours(error: BaseException) -> bool:
    """Return whether an exception ended a plugin's call because the server or its user cancelled it."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)


class Surroundings(NamedTuple):
    """What plugins get to know of the process that calls them."""

    worker: int = 0
    """The number of the worker process; 0 if there is only one process."""
    counters: PluginCounters | None = None
    """Where plugins count; None if nothing reads the numbers."""

    def context(self, kind: str, item: Contributed, directory: Path) -> PluginContext:
        """Return the context for a plugin's `connect`.

        Args:
            kind: The section of the configuration: `keystore`, `policy_engines`, `audit_sinks` or `frontends`.
            item: The kind of the key store, policy engine, audit sink or front end.
            directory: The directory of the configuration file.
        """
        distribution = item.origin.rpartition(" of ")[2].partition(" ")[0]
        counters = self.counters if self.counters is not None else PluginCounters()
        return PluginContext(
            directory=directory,
            logger=logging.getLogger(f"kes.plugins.{item.name}"),
            worker=self.worker,
            metrics=counters.of(kind, item.name, distribution),
        )


class Origin(NamedTuple):
    """The key store, policy engine, audit sink or front end that a call belongs to."""

    what: str
    """Its name in messages: "the key store 'fs' (plugin 'fs' of kes-fs 1.0)"."""
    error: type[BackendError]
    """The error that the server expects from it."""
    unreachable: type[BackendError]
    """The error that the server expects from it if it does not answer."""

    def fault(self, operation: str, error: BaseException) -> str:
        """Return a description of an exception of the plugin; log its places if `log.error` is `debug`."""
        if isinstance(error, BlockedError):
            return (
                f"{self.what} blocked the server in {operation} for more than {error.seconds:g} s; its call was ended"
            )
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s failed in %s: %s", self.what, operation, kind_of(error), extra={PLACES: places(error)})
        return (
            f"{self.what} failed in {operation}: {kind_of(error)}, which is a fault of its plugin; "
            "log.error: debug shows where"
        )

    def returned(self, operation: str, value: object, wanted: str) -> str:
        """Return a description of a result of the wrong type."""
        if inspect.iscoroutine(value):
            value.close()  # otherwise Python would warn that nobody awaits it
        return f"{self.what} returned {kind_of(value)} from {operation}, which has to return {wanted}"


class BlockingWatch:
    """Logs that a plugin kept all requests waiting, at most once a minute."""

    def __init__(self, origin: Origin) -> None:
        self._what = origin.what
        self._told = -math.inf

    def __call__(self, seconds: float) -> None:
        """Take the seconds for which the plugin blocked the event loop."""
        if seconds > BLOCKING and (now := time.monotonic()) - self._told >= TELL_AGAIN:
            self._told = now
            logger.warning("%s kept all requests waiting for %.1f s", self._what, seconds)


def origin_of_store(backend: KeyStoreBackend) -> Origin:
    """Return the origin of the calls of a key store."""
    return Origin(_name("key store", backend), KeyStoreError, KeyStoreUnreachableError)


def origin_of_engine(kind: PolicyEngineType) -> Origin:
    """Return the origin of the calls of a policy engine."""
    return Origin(_name("policy engine", kind), BackendError, BackendError)


def origin_of_sink(kind: AuditSinkType) -> Origin:
    """Return the origin of the calls of an audit sink."""
    return Origin(_name("audit sink", kind), BackendError, BackendError)


def origin_of_frontend(kind: FrontendBackend) -> Origin:
    """Return the origin of the calls of a front end."""
    return Origin(_name("front end", kind), FrontendError, FrontendError)


def origin_of(item: Contributed) -> Origin:
    """Return the origin of the calls of what a plugin contributes."""
    if isinstance(item, PolicyEngineType):
        return origin_of_engine(item)
    if isinstance(item, FrontendBackend):
        return origin_of_frontend(item)
    return origin_of_sink(item) if isinstance(item, AuditSinkType) else origin_of_store(item)


def _name(kind: str, item: Contributed) -> str:
    return f"the {kind} {item.name!r}" + (f" ({item.origin})" if item.origin else "")


@calls_plugin
def attribute_of(item: object, name: str) -> Any:
    """Return an attribute of a plugin's object; None if it has none, or if it is a property that fails."""
    try:
        return getattr(item, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException:  # code of the plugin
        return None


@calls_plugin
def text_of(error: BaseException) -> str | None:
    """Return the text of a `BackendError` as one line, or None: the text of another exception may contain a key."""
    try:
        return one_line(str(error)) if isinstance(error, BackendError) else None
    except KeyboardInterrupt:
        raise
    except BaseException:  # the plugin's own class of exceptions may have a faulty `__str__`
        return None


def translated(origin: Origin, operation: str, error: BaseException) -> BackendError:
    """Return the error that replaces an exception of a plugin: `origin.error`, or one derived from it."""
    text = text_of(error)
    if text is None:
        return origin.error(origin.fault(operation, error))
    if not (isinstance(error, KeyStoreError) and issubclass(origin.error, KeyStoreError)):
        return origin.error(text)
    try:
        reason = error.reason if isinstance(error.reason, KeyStoreReason) else None
        given: Any = error.retry_after if isinstance(error, KeyStoreThrottledError) else None
        is_time = isinstance(given, int | float) and given >= 0
        retry_after = float(min(given, _LONGEST_WAIT)) if is_time else None
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # the plugin's own class of exceptions may have a faulty property
        return origin.error(origin.fault(operation, fault))
    if isinstance(error, KeyStoreThrottledError):
        return KeyStoreThrottledError(text, reason=reason, retry_after=retry_after)
    kinds: tuple[type[KeyStoreError], ...] = (
        EntryExistsError,
        EntryNotFoundError,
        EntryRefusedError,
        KeyStoreUnreachableError,
    )
    kind = next((kind for kind in kinds if isinstance(error, kind)), KeyStoreError)
    return kind(text, reason=reason)


@calls_plugin
async def connect_plugin(
    origin: Origin,
    connect: Callable[[Any, C], Any],
    config: BaseModel,
    context: C,
    wanted: type[T],
) -> T:
    """Call a plugin's `connect` with its section of the configuration; return its key store, policy engine, ...

    Raises:
        BackendError: The connection failed, or the result is not a `wanted`. Its type is one of `origin`'s.
    """
    try:
        call = connect(config, context)
        if not inspect.isawaitable(call):
            failure = origin.error(origin.returned("connect", call, AWAITABLE))
        else:
            found = await within(call, CONNECT_TIMEOUT, origin.what, connects=True)
            if isinstance(found, wanted):
                return found
            failure = origin.error(origin.returned("connect", found, wanted.__name__))
    except TooSlowError:
        failure = origin.unreachable(f"{origin.what}: no answer within {CONNECT_TIMEOUT:g} s")
    except BaseException as error:
        if is_ours(error):
            raise
        failure = translated(origin, "connect", error)
    # Outside the handlers: otherwise our exception would keep the plugin's exception, and the values in its frames.
    raise failure


@calls_plugin
async def close_plugin(origin: Origin, item: KeyStore | PolicyEngine | AuditSink) -> None:
    """Close a key store, policy engine or audit sink of a plugin. Log a failure, and go on."""
    try:
        call: Any = item.close()
        if inspect.isawaitable(call):
            await within(call, CLOSE_TIMEOUT, origin.what)
        else:
            logger.error("%s", origin.returned("close", call, AWAITABLE))
    except TooSlowError:
        logger.error("%s did not close within %g s and is left as it is", origin.what, CLOSE_TIMEOUT)
    except BaseException as error:
        if is_ours(error):
            raise
        log_fault(logger, "%s could not be closed", origin.what, error=error, foreign=True)

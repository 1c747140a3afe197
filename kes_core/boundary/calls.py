"""What all calls of plugins have in common: time, names and errors. Private."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kes_core.faults import PLACES, kind_of, log_fault, one_line, places
from kes_core.keystore import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreUnreachableError,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.hookspecs import KeyStoreBackend, PolicyEngineType

__all__ = [
    "BLOCKING",
    "CONNECT_TIMEOUT",
    "TELL_AGAIN",
    "Origin",
    "PluginError",
    "TooSlowError",
    "close_plugin",
    "connect_plugin",
    "is_ours",
    "origin_of",
    "translated",
    "within",
]

T = TypeVar("T")

logger = logging.getLogger("kes.plugins")

CONNECT_TIMEOUT: Final = 60.0
"""Seconds that a plugin gets to connect, and a plugin's doctor to look at a key store."""
CONNECT_NOTICE: Final = 2.0
"""Seconds after which the log says what the server waits for."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a plugin gets to close a key store or policy engine."""
BLOCKING: Final = 0.1
"""Seconds for which a plugin may keep the event loop from everything else before the log says so."""
TELL_AGAIN: Final = 60.0
"""Seconds between two log lines about the same fault of a plugin."""


class PluginError(Exception):
    """A plugin failed or broke the rules of its interface. The message says how and holds no text of the plugin."""


class TooSlowError(Exception):
    """A plugin has used up its time."""


async def within(call: Awaitable[T], seconds: float, *, connecting_to: str = "") -> T:
    """Await `call`, which a plugin made, for a limited time. It is left behind if it does not end when cancelled.

    Args:
        call: What to wait for.
        seconds: How long.
        connecting_to: What a connection is made to, if so: the log says it when that takes long.

    Raises:
        TooSlowError: It took longer.
        BaseException: Whatever it raised.
    """
    task = asyncio.ensure_future(_contained(call))
    first = min(CONNECT_NOTICE, seconds) if connecting_to else seconds
    try:
        await asyncio.wait({task}, timeout=first)
        if connecting_to and not task.done():
            logger.warning("connecting to %s ...", connecting_to)
            await asyncio.wait({task}, timeout=seconds - first)
    finally:
        task.cancel()  # which does nothing to one that is done
    if not task.done():
        raise TooSlowError
    result, error = task.result()
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # there is no error, so there is a result


async def _contained(call: Awaitable[T]) -> tuple[T | None, BaseException | None]:
    """Await `call`; return its result or its error. A task that raises SystemExit would end the event loop."""
    try:
        return await call, None
    except BaseException as error:
        if is_ours(error):
            raise
        return None, error


def is_ours(error: BaseException) -> bool:
    """Tell whether an exception ends a plugin's call because the server, or its user, wants it to end."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)


class Origin(NamedTuple):
    """Whose a call is."""

    what: str
    """In messages: "the key store 'fs' (plugin 'fs' of kes-fs 1.0)"."""

    def fault(self, operation: str, error: BaseException) -> str:
        """Return what to say of an exception of the plugin; log where it came from, if the log wants that."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s failed in %s: %s", self.what, operation, kind_of(error), extra={PLACES: places(error)})
        return (
            f"{self.what} failed in {operation}: {kind_of(error)}, which is a fault of its plugin; "
            "log.error: debug shows where"
        )

    def returned(self, operation: str, value: object, wanted: str) -> str:
        """Return what to say of a result that is of the wrong kind."""
        return f"{self.what} returned {kind_of(value)} from {operation}, which has to return {wanted}"


def origin_of(kind: str, item: KeyStoreBackend | PolicyEngineType) -> Origin:
    """Return the name of a key store or policy engine and of its plugin. `kind` is "key store" or "policy engine"."""
    return Origin(f"the {kind} {item.name!r}" + (f" ({item.origin})" if item.origin else ""))


def translated(origin: Origin, operation: str, error: BaseException) -> KeyStoreError:
    """Return what the server goes on with instead of an exception of a key store, or of a `connect`."""
    if not isinstance(error, KeyStoreError):
        return KeyStoreError(origin.fault(operation, error))
    try:
        text, reason = one_line(str(error)), error.reason
    except Exception as fault:  # the plugin's own class of exceptions, with methods of its own
        return KeyStoreError(origin.fault(operation, fault))
    kinds: tuple[type[KeyStoreError], ...] = (EntryExistsError, EntryNotFoundError, KeyStoreUnreachableError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), KeyStoreError)
    return kind(text, reason=reason if isinstance(reason, KeyStoreReason) else None)


async def connect_plugin(origin: Origin, connect: Callable[[Any], Any], settings: BaseModel, wanted: type[T]) -> T:
    """Call a plugin's `connect`; return the key store or policy engine (`wanted`) that it gives.

    Raises:
        KeyStoreError: It can't be used.
    """
    try:
        call = connect(settings)
        if not inspect.isawaitable(call):
            failure = KeyStoreError(origin.returned("connect", call, "an awaitable: define it with 'async def'"))
        else:
            found = await within(call, CONNECT_TIMEOUT, connecting_to=origin.what)
            if isinstance(found, wanted):
                return found
            failure = KeyStoreError(origin.returned("connect", found, wanted.__name__))
    except TooSlowError:
        failure = KeyStoreUnreachableError(f"{origin.what}: no answer within {CONNECT_TIMEOUT:g} s")
    except BaseException as error:
        if is_ours(error):
            raise
        failure = translated(origin, "connect", error)
    # Outside of the handlers: the plugin's exception, whose frames hold values, is not kept alive behind ours.
    raise failure


async def close_plugin(origin: Origin, close: Callable[[], Awaitable[None]]) -> None:
    """Close what belongs to a plugin. What goes wrong is logged, and ends nothing."""
    try:
        await within(close(), CLOSE_TIMEOUT)
    except TooSlowError:
        logger.error("%s did not close within %g s and is left as it is", origin.what, CLOSE_TIMEOUT)
    except BaseException as error:
        if is_ours(error):
            raise
        log_fault(logger, "%s could not be closed", origin.what, error=error, foreign=True)

"""Runs a clause and describes why it is broken."""

from __future__ import annotations

import asyncio
import contextlib
import sysconfig
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

__all__ = [
    "BrokenError",
    "ExcludedError",
    "HookError",
    "HungError",
    "LateError",
    "check",
    "described",
    "fail_hook",
    "heartbeat",
    "refused",
    "run",
    "same_bytes",
    "settled",
    "shown",
]

E = TypeVar("E", bound=Exception)

SHOWN: Final = 120
"""The largest number of characters of an unexpected value in a message."""
BEAT: Final = 0.005

_HERE: Final = str(Path(__file__).parent)
_LIBRARY: Final = sysconfig.get_path("stdlib")


GRACE: Final = 5.0
"""Additional seconds for cancelling a call on a busy machine."""


class BrokenError(Exception):
    """A clause is broken; the message says what the kit found."""


class HungError(BrokenError):
    """A call did not return, not even after it was cancelled."""


class LateError(BrokenError):
    """The clause did not end in time."""


class ExcludedError(Exception):
    """A capability of the store excludes the clause. The text is the capability's name."""


class HookError(Exception):
    """A method of the author's test class failed with `__cause__`, so the clause can't be checked."""


def run(main: Callable[[], Coroutine[Any, Any, None]], limit: float) -> None:
    """Run a coroutine in a new thread with its own event loop, so that the caller always continues.

    Raises:
        LateError: The coroutine took longer than `limit` seconds.
        HungError: The coroutine ignored its cancellation for another `limit` + `GRACE` seconds; it is abandoned.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(_limited(main, limit))
        except BaseException as error:  # any exception belongs to the caller
            raised.append(error)

    thread = threading.Thread(target=work, name="kes-contract", daemon=True)
    thread.start()
    thread.join(2 * limit + GRACE)
    if thread.is_alive():
        raise HungError(f"a call did not end within {limit:g} s, nor when it was cancelled")
    if raised:
        raise raised[0]


async def _limited(main: Callable[[], Coroutine[Any, Any, None]], limit: float) -> None:
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            await main()
    except TimeoutError as error:
        if not scope.expired():
            raise
        # Before Python 3.11.3 the cancellation is the context of the error and not its cause.
        place = _place(error.__context__ or error)
        raise LateError(f"no end within {limit:g} s{place}") from None


def check(kept: bool, otherwise: str) -> None:
    """Raise `BrokenError` with the text `otherwise` unless the clause is kept."""
    if not kept:
        raise BrokenError(otherwise)


async def refused(kind: type[E], call: Awaitable[object], what: str) -> E:
    """Return the error of a call that has to raise `kind`.

    Raises:
        BrokenError: The call returned, or raised another exception.
    """
    try:
        result = await call
    except kind as error:
        return error
    except Exception as error:
        raise BrokenError(f"{what} raised {described(error)} instead of {kind.__name__}") from None
    raise BrokenError(f"{what} returned {shown(result)} instead of raising {kind.__name__}")


async def settled(call: Awaitable[object]) -> object:
    """Return the result of a call, or the exception that it raised."""
    return (await asyncio.gather(call, return_exceptions=True))[0]


def same_bytes(found: bytes, stored: bytes, what: str) -> None:
    """Check that a value is the stored one.

    Raises:
        BrokenError: It differs; the message says where.
    """
    if found == stored:
        return
    if not isinstance(found, bytes | bytearray | memoryview):
        raise BrokenError(f"{what} returned {shown(found)}, which is not bytes")
    if len(stored) <= SHOWN // 4:
        raise BrokenError(f"{what} returned {shown(bytes(found))}, {shown(stored)} was stored")
    same = [one == other for one, other in zip(found, stored, strict=False)]
    place = [*same, False].index(False)
    raise BrokenError(
        f"{what} returned {len(found)} bytes, {len(stored)} were stored; they differ from byte {place} on"
    )


def shown(value: object) -> str:
    """Return a value as one line of limited length."""
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def described(error: BaseException) -> str:
    """Return the type, the text and the place of an exception as one line."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{text[:SHOWN]}...{_place(error)}" if len(text) > SHOWN else f"{text}{_place(error)}"


def _place(error: BaseException) -> str:
    """Return the innermost place of an exception in the tested plugin: not in the kit or the standard library."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        own = frame.filename.startswith(_HERE)
        library = frame.filename.startswith((_LIBRARY, "<")) and "site-packages" not in frame.filename
        if not own and not library:
            return f" ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"
    return ""


def fail_hook(what: str) -> NoReturn:
    """Report that a method of the test class returned a value of the wrong type."""
    raise HookError(what) from TypeError(what)


def _own_time() -> float:
    """Return a time in seconds that stands still while this thread is ready to run, but the machine runs others.

    It is the kernel's delay of the thread (proc_pid_schedstat(5)). Without these numbers it never stands still.
    """
    try:
        delay = int(Path("/proc/thread-self/schedstat").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        delay = 0
    return time.monotonic() - delay / 1e9


class _Pulse:
    def __init__(self) -> None:
        self._last = _own_time()
        self._longest = 0.0

    async def beat(self) -> None:
        while True:
            self.take()
            await asyncio.sleep(BEAT)

    def take(self) -> float:
        """Return the longest gap so far, and start the next one."""
        now = _own_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        return self._longest

    async def longest(self, call: Awaitable[object]) -> float:
        """Return the longest time in seconds that a call blocked the event loop. A busy machine does not count."""
        self._last, self._longest = _own_time(), 0.0
        await asyncio.gather(call, return_exceptions=True)
        return self.take()


@contextlib.asynccontextmanager
async def heartbeat() -> AsyncIterator[Callable[[Awaitable[object]], Awaitable[float]]]:
    """Run a task that notices a blocked event loop; yield a function that measures one call."""
    pulse = _Pulse()
    task = asyncio.create_task(pulse.beat())
    await asyncio.sleep(0)
    try:
        yield pulse.longest
    finally:
        task.cancel()

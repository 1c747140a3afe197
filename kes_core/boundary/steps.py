"""Coroutines that usually do not wait: their first step runs at once, and what follows runs with a time limit.

Setting up a timeout takes longer than most decisions of a policy engine, and a task of its own takes longer still.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

from kes_core.boundary.blocking import calls_plugin

__all__ = ["enter_task", "finish", "finish_rest", "go_on", "watched"]

T = TypeVar("T")

_CLOSE_TRIES: Final = 3
"""How often an abandoned coroutine is closed if it goes on."""


@calls_plugin
@types.coroutine
def go_on(
    call: Coroutine[Any, Any, T],
    waits_for: Any,
    watch: Callable[[float], None] | None = None,
    *,
    patience: float | None = None,
) -> Generator[Any, Any, T]:
    """Await the rest of a coroutine that has made its first step and waits for `waits_for`.

    Args:
        call: The coroutine.
        waits_for: What its first step has yielded.
        watch: Gets the seconds of each further step, for which the coroutine kept the event loop from other work.
        patience: Seconds that the coroutine has to end after it was cancelled, before it is abandoned; None for no
            limit.
    """
    while True:
        try:
            sent = yield waits_for
        except GeneratorExit:
            _close(call)
            raise
        except BaseException as error:  # pass it to the coroutine
            if patience is not None and isinstance(error, asyncio.CancelledError):
                return (yield from _end(call, error, patience, watch).__await__())
            step: Any = call.throw
            argument: Any = error
        else:
            step, argument = call.send, sent
        has_ended, came = _make(step, argument, watch)
        if has_ended:
            result: T = came
            return result
        waits_for = came


@calls_plugin
def _make(step: Callable[[Any], Any], argument: Any, watch: Callable[[float], None] | None) -> tuple[bool, Any]:
    """Make a step of a coroutine. Return whether it has ended, and its result or what it waits for."""
    started = time.perf_counter()
    try:
        return False, step(argument)
    except StopIteration as done:
        return True, done.value
    finally:
        if watch is not None:
            watch(time.perf_counter() - started)


@calls_plugin
async def _end(
    call: Coroutine[Any, Any, T],
    error: asyncio.CancelledError,
    patience: float,
    watch: Callable[[float], None] | None,
) -> T:
    """Pass a cancellation to a coroutine, and await its end. Abandon it if it takes longer than `patience`.

    The coroutine stays in its task, because timeouts in it belong to that task. It is abandoned by closing it.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience
    step: Any = call.throw
    argument: Any = error
    while True:
        has_ended, came = _make(step, argument, watch)
        if has_ended:
            result: T = came
            return result
        try:
            has_come = await _comes(came, ends - loop.time())
        except asyncio.CancelledError as again:  # of the request, or by a timeout of the coroutine itself
            step, argument = call.throw, again
            continue
        if not has_come:
            _abandon(call)
            raise error
        step, argument = call.send, None


def _close(call: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine. Not marked with `calls_plugin`: the caller may be anything."""
    call.close()


async def _comes(waits_for: Any, seconds: float) -> bool:
    """Wait for what a coroutine has yielded, as a task would; return whether it came in time."""
    if seconds <= 0:
        return False
    if waits_for is None:
        await asyncio.sleep(0)
        return True
    if not getattr(waits_for, "_asyncio_future_blocking", False):
        return False  # nothing that a task could wait for
    waits_for._asyncio_future_blocking = False  # noqa: SLF001 # what a task does before it waits
    done, _waiting = await asyncio.wait({waits_for}, timeout=seconds)
    return bool(done)


@calls_plugin
def _abandon(call: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine, which may ignore that too."""
    for _ in range(_CLOSE_TRIES):
        try:
            call.close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: S112 # code of a plugin; "coroutine ignored GeneratorExit" among others
            continue
        return


@calls_plugin
async def watched(call: Coroutine[Any, Any, T], watch: Callable[[float], None]) -> T:
    """Await a coroutine; pass the seconds of each of its steps to `watch`."""
    has_ended, came = _make(call.send, None, watch)
    if has_ended:
        result: T = came
        return result
    return await go_on(call, came, watch)


async def finish(call: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """Await `call`. Only if it waits for something, limit its time.

    Raises:
        TimeoutError: It took longer than `seconds` after its first step.
        BaseException: The coroutine raised it.
    """
    try:
        waits_for = call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return await finish_rest(call, waits_for, seconds)


async def finish_rest(call: Coroutine[Any, Any, T], waits_for: Any, seconds: float | None) -> T:
    """Await the rest of a coroutine that has made its first step and waits for `waits_for`, for a limited time.

    Raises:
        TimeoutError: It took longer than `seconds` after its first step.
        BaseException: The coroutine raised it.
    """
    try:
        await enter_task()
        async with asyncio.timeout(seconds):
            return await go_on(call, waits_for)
    finally:
        call.close()  # has no effect on a coroutine that has ended


async def enter_task() -> None:
    """Make sure that the caller runs in a task, which timeouts need.

    The first step of a request may run outside of one: see `kes_core.server.api.dispatch`.
    """
    if asyncio.current_task() is None:
        await asyncio.sleep(0)

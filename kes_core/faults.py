"""Logs unexpected errors without their text, ends tasks that may be faulty, and divides work that takes long.

In a key server the text of an exception may contain a key: `KeyError(value)`, `ValueError(f"bad value {value!r}")`. The
log therefore shows the type of an unexpected error and the places of its traceback: file, line and function. It never
shows the text, the attributes or the source lines of the traceback.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Collection, Iterable
from types import TracebackType
from typing import Any, Final, TextIO, TypeVar

__all__ = ["PLACES", "end_tasks", "in_turns", "kind_of", "log_fault", "one_line", "places", "watch", "watch_loop"]

T = TypeVar("T")

logger = logging.getLogger("kes.server")

PLACES: Final = "kes_places"
"""The attribute of a log record for the result of `places`."""
END_TIMEOUT: Final = 5.0
"""Seconds that tasks get to end after they were cancelled."""
MAX_TEXT: Final = 512
"""The largest number of characters that are shown of a plugin's text."""
_MAX_NAME: Final = 64
_MAX_CHAIN: Final = 8
"""The largest number of exceptions in a chain whose places are shown."""
_MAX_FRAMES: Final = 30
"""The largest number of places that are shown of one exception: the innermost ones."""


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text` as one line of at most `limit` characters, without control characters."""
    if len(text) <= limit and text.isprintable():
        return text
    clean = "".join(char if char.isprintable() else " " for char in text[: 2 * limit])
    clean = " ".join(clean.split())
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def kind_of(value: object) -> str:
    """Return the name of the type of `value`, which is usually an exception. It is safe to log."""
    return one_line(type(value).__name__, _MAX_NAME)


def places(error: BaseException) -> str:
    """Return the types, files, lines and functions of an exception and its causes, without their texts."""
    lines: list[str] = []
    waiting, seen = [(error, "")], set[int]()
    while waiting and len(seen) < _MAX_CHAIN:
        each, relation = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        lines.append(f"{relation}{kind_of(each)}")
        # Only the frames: StackSummary would read source lines, and would show the text of the error.
        frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(each.__traceback__)]
        lines += [f"  {code.co_filename}:{line} in {code.co_qualname}" for code, line in frames[-_MAX_FRAMES:]]
        if isinstance(each, BaseExceptionGroup):
            waiting += [(inner, "containing ") for inner in each.exceptions]
        behind = each.__cause__ if each.__cause__ is not None else each.__context__
        if behind is not None:
            waiting.append((behind, "after "))
    return "\n".join(lines)


def log_fault(log: logging.Logger, message: str, *args: object, error: BaseException, foreign: bool = False) -> None:
    """Log an unexpected error: its type and its places, without its text.

    Args:
        log: The logger. The level is ERROR.
        message: What failed, as a format for `args`. The type of the error is appended.
        args: The arguments of the format.
        error: The error.
        foreign: Whether a plugin raised it. Its places are then logged only with `log.error: debug`.
    """
    show_places = not foreign or log.isEnabledFor(logging.DEBUG)
    extra = {PLACES: places(error)} if show_places else None
    log.error(message + ": %s", *args, kind_of(error), extra=extra)  # noqa: G003 # the format is the caller's


def watch(stream: TextIO) -> None:
    """Log uncaught errors from now on: in a thread, the main program or a destructor; and log warnings.

    Args:
        stream: Receives the error that ends the process, which can't be logged any more.
    """

    def in_program(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, KeyboardInterrupt(), None)
            return
        print(f"internal error: {kind_of(error)}\n{places(error.with_traceback(trace))}", file=stream)

    def in_thread(event: threading.ExceptHookArgs) -> None:
        if event.exc_value is not None and not isinstance(event.exc_value, SystemExit):
            log_fault(logger, "a thread ended with an error", error=event.exc_value)

    def nowhere(event: sys.UnraisableHookArgs) -> None:
        if event.exc_value is not None:
            log_fault(logger, "an error could not be raised", error=event.exc_value)

    def show_warning(
        message: Warning | str,  # noqa: ARG001 # callers may use these names
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG001 # as above
        line: str | None = None,  # noqa: ARG001 # as above
    ) -> None:
        logger.warning("a library warned: %s at %s:%d", category.__name__, filename, lineno)

    sys.excepthook = in_program
    threading.excepthook = in_thread
    sys.unraisablehook = nowhere
    warnings.showwarning = show_warning
    logging.raiseExceptions = False  # otherwise logging prints a faulty record with all its arguments


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end. Abandon those that do not end in time: a plugin may ignore cancellation."""
    tasks = [task for task in tasks if not task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        _done, pending = await asyncio.wait(tasks, timeout=END_TIMEOUT)
        if pending:
            logger.error("%d tasks did not end within %g s and are abandoned", len(pending), END_TIMEOUT)


async def in_turns(items: Iterable[T], size: int) -> AsyncIterator[T]:
    """Yield the items that there are now, and let requests have their turn after each `size` of them.

    With thousands of items, requests would wait for milliseconds otherwise. Items may go meanwhile: look whether one is
    still there.
    """
    for number, item in enumerate(list(items), 1):
        yield item
        if number % size == 0:
            await asyncio.sleep(0)


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Log the uncaught errors of tasks and callbacks of `loop` from now on."""

    def failed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The message and the other members show objects with repr(), including arguments.
        error = context.get("exception")
        if isinstance(error, BaseException):
            log_fault(logger, "a task or a callback failed", error=error)
        else:
            logger.error("the event loop reported an error without an exception")

    loop.set_exception_handler(failed)

"""Telling of errors that nobody expected, without telling what they say.

In a key server the text of an exception may hold a key: `KeyError(value)`, `ValueError(f"bad value {value!r}")`. So an
error that is not one of ours is told by its type and by the places that it came through: file, line and function. Its
text, its attributes and the source lines of a traceback are never shown.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any, Final, TextIO

__all__ = ["PLACES", "kind_of", "log_fault", "one_line", "places", "watch", "watch_loop"]

logger = logging.getLogger("kes.server")

PLACES: Final = "kes_places"
"""The attribute of a log record that holds what `places` returned."""
MAX_TEXT: Final = 512
"""Characters of a plugin's text that are shown."""
_MAX_NAME: Final = 64
_MAX_CHAIN: Final = 8
"""Exceptions behind an exception of which the places are told."""
_MAX_FRAMES: Final = 30
"""Places of one exception that are told: the innermost ones."""


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text` as one line of at most `limit` characters, without what could control a terminal."""
    if len(text) <= limit and text.isprintable():
        return text
    clean = "".join(char if char.isprintable() else " " for char in text[: 2 * limit])
    clean = " ".join(clean.split())
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def kind_of(value: object) -> str:
    """Return the name of the type of `value`, most often an exception: all that is told of it."""
    return one_line(type(value).__name__, _MAX_NAME)


def places(error: BaseException) -> str:
    """Return where an exception, and those behind it, came from: types, files, lines and functions, and no texts."""
    lines: list[str] = []
    waiting, seen = [(error, "")], set[int]()
    while waiting and len(seen) < _MAX_CHAIN:
        each, relation = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        lines.append(f"{relation}{kind_of(each)}")
        # The frames alone: StackSummary would look up source lines, and the error's own text is left out.
        frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(each.__traceback__)]
        lines += [f"  {code.co_filename}:{line} in {code.co_qualname}" for code, line in frames[-_MAX_FRAMES:]]
        if isinstance(each, BaseExceptionGroup):
            waiting += [(inner, "containing ") for inner in each.exceptions]
        behind = each.__cause__ if each.__cause__ is not None else each.__context__
        if behind is not None:
            waiting.append((behind, "after "))
    return "\n".join(lines)


def log_fault(log: logging.Logger, message: str, *args: object, error: BaseException, foreign: bool = False) -> None:
    """Log that something failed with an error that nobody expected.

    Args:
        log: Where to log, as an error.
        message: What failed; a format with `args`. The type of the error is put after it.
        args: For the format.
        error: Of which only the type and the places are told.
        foreign: Whether a plugin raised it. The places are then logged with `log.error: debug` only.
    """
    show_places = not foreign or log.isEnabledFor(logging.DEBUG)
    extra = {PLACES: places(error)} if show_places else None
    log.error(message + ": %s", *args, kind_of(error), extra=extra)  # noqa: G003 # the format is the caller's


def watch(stream: TextIO) -> None:
    """From now on, log what nobody catches: in a thread, in the main program, in a destructor, and warnings.

    Args:
        stream: Where to write when an error ends the process before anything could be logged.
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
        message: Warning | str,  # noqa: ARG001 # the names are those that callers may use
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
    logging.raiseExceptions = False  # a record that can't be formatted would be printed, with all its arguments


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, log what fails in a task or callback of `loop` that nobody waits for."""

    def failed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The message and the other members have the representation of objects, arguments included.
        error = context.get("exception")
        if isinstance(error, BaseException):
            log_fault(logger, "a task or a callback failed", error=error)
        else:
            logger.error("the event loop reported an error without an exception")

    loop.set_exception_handler(failed)

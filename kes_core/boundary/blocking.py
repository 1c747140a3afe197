"""Finds the plugin that blocks the event loop, from the frames of the main thread. Private.

The server's watchdog (`kes_core.server.watchdog`) may interrupt a plugin, and only a plugin: an exception in the
server's own code could lose an audit record or leave a lock behind. So an interruption is allowed only beneath the
functions that `calls_plugin` marks: each of them makes all its calls of foreign code where it handles every exception.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, TypeVar

__all__ = [
    "PLUGIN",
    "BlockedError",
    "Moment",
    "calls_of",
    "calls_plugin",
    "find_moment",
    "is_callback",
    "is_running",
    "name_of",
]

F = TypeVar("F", bound=Callable[..., Any])

PLUGIN: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("kes_plugin")
"""What the current task runs for, as in messages: a store, an engine, ... Tasks of a plugin inherit it."""

_OWN: Final = frozenset({"access", "audit", "cli", "doctor", "keys", "server"})
"""The packages of the server's own code. Plugins may call the others."""
_WHOLE: Final = frozenset({"asyncio", "importlib"})
"""Packages whose data must stay whole. What they call may be interrupted."""
_CALLS: Final[set[CodeType]] = set()
_RUN: Final = asyncio.Handle._run.__code__  # noqa: SLF001 # the frame of each callback and of each step of a task


class BlockedError(BaseException):
    """The server has ended a call of a plugin that blocked it. Plugins that catch `Exception` do not catch it."""

    def __init__(self, seconds: float) -> None:
        """Take for how long the plugin has blocked the server, at least."""
        super().__init__(f"blocked the server for more than {seconds:g} s")
        self.seconds = seconds


def calls_plugin(function: F) -> F:
    """Mark a function that calls code of plugins, always where it handles every exception of that code.

    An exception that leaves it has to reach another such function, or the end of a task.
    """
    _CALLS.add(function.__code__)
    return function


class Moment(NamedTuple):
    """What the thread of the event loop does at one moment."""

    frame: FrameType
    """The innermost call of foreign code, or the innermost frame of the server's own code."""
    is_foreign: bool
    """Whether it is code of a plugin, or of a library that the event loop calls; otherwise it is the server's own."""
    may_interrupt: bool = False
    """Whether an exception, at this moment, ends only `frame`, a call of a plugin."""
    logs: FrameType | None = None
    """The call of `logging` that it is in. It may wait for the reader of the log."""


def find_moment(frame: FrameType) -> Moment:
    """Return what the thread does whose innermost frame is `frame`."""
    root = _name(frame).partition(".")[0]
    may_interrupt = root not in _WHOLE
    beneath: FrameType | None = None
    logs: FrameType | None = None
    each: FrameType | None = frame
    while each is not None:
        if each.f_code is _RUN:
            is_known = beneath is not None and _plugin_of(each) != ""
            return Moment(each, True, may_interrupt and is_known and logs is None, logs)
        package, _, rest = _name(each).partition(".")
        if package == "kes_core":
            part = rest.partition(".")[0]
            if part in _OWN:
                return Moment(each, False, logs=logs)
            if part == "boundary" or each.f_code in _CALLS:
                return _at_boundary(each, beneath, logs, may_interrupt=may_interrupt)
            may_interrupt = False  # a part of the core that plugins use
        elif package == "logging":
            logs = each
        each, beneath = each.f_back, each
    return Moment(frame, False, logs=logs)  # the event loop does not run


def _at_boundary(frame: FrameType, beneath: FrameType | None, logs: FrameType | None, *, may_interrupt: bool) -> Moment:
    """Return what a frame of the boundary waits for: the frame `beneath` it, or code in C if there is none."""
    is_call = frame.f_code in _CALLS
    if beneath is None:
        return Moment(frame, is_call)
    if beneath is logs:
        return Moment(frame, False, logs=logs)  # the boundary itself logs
    return Moment(beneath, True, may_interrupt and is_call and logs is None, logs)


def calls_of(frame: FrameType) -> list[FrameType]:
    """Return the calls of foreign code that go on in the thread whose innermost frame is `frame`, innermost first.

    The last one is what the event loop has called. A front end may have called the server, which has called a store.
    """
    found: list[FrameType] = []
    beneath: FrameType | None = None
    each: FrameType | None = frame
    while each is not None:
        if each.f_code is _RUN:
            return [*found, each]
        if each.f_code in _CALLS:
            call = each if beneath is None else beneath
            if not _is_own(call, each):
                found.append(call)
        each, beneath = each.f_back, each
    return found


def _is_own(call: FrameType, boundary: FrameType) -> bool:
    package, _, rest = _name(call).partition(".")
    is_server = package == "kes_core" and rest.partition(".")[0] in _OWN | {"boundary"}
    return call is not boundary and (is_server or package == "logging")


def is_callback(call: FrameType) -> bool:
    """Return whether `call` is a callback or a step of a task, in which the boundary takes no part."""
    return call.f_code is _RUN


def is_own(frame: FrameType) -> bool:
    """Return whether a frame is code of the core, or of a module that must not be interrupted."""
    return _name(frame).partition(".")[0] in {"kes_core", "logging", *_WHOLE}


def is_running(call: FrameType, innermost: FrameType | None) -> bool:
    """Return whether `call` is among the frames of the thread whose innermost frame is `innermost`."""
    each = innermost
    while each is not None:
        if each is call:
            return True
        each = each.f_back
    return False


def name_of(call: FrameType) -> str:
    """Return what a plugin's call belongs to, as in messages: "the key store 'fs' (plugin 'fs' of kes-fs 1.0)"."""
    each: FrameType | None = call
    while each is not None:
        if each.f_code is _RUN:
            return _plugin_of(each) or "a task or a callback"
        if _name(each).startswith("kes_core.boundary."):
            found = each.f_locals
            origin = found.get("origin") or getattr(found.get("self"), "_origin", None)
            if isinstance(what := getattr(origin, "what", None), str):
                return what
        each = each.f_back
    return "a plugin"


def _plugin_of(run: FrameType) -> str:
    """Return the plugin for which the event loop runs a callback or a task, or an empty string."""
    handle = run.f_locals.get("self")
    return handle._context.get(PLUGIN, "") if isinstance(handle, asyncio.Handle) else ""  # type: ignore[attr-defined] # noqa: SLF001


def _name(frame: FrameType) -> str:
    """Return the name of a frame's module. Code of a plugin may have any globals."""
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""

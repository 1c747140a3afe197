"""Ends what blocks the event loop for ever: a call of a plugin, or else the process.

While the loop stands still the server answers nobody, and can't even stop. A thread looks every few seconds whether the
loop has turned since. If it has not done so for `LIMIT` seconds because of one and the same call of a plugin, the
thread

1. interrupts the call: a signal makes the main thread raise `BlockedError`, but only where it runs code of the plugin
   (`kes_core.boundary.blocking`). The call then fails as if the plugin had raised the exception; the server goes on.
2. ends the process if that does not help, for example because the plugin catches each exception or waits in C. It lets
   the main thread do nothing more, writes the audit records that wait, and exits. The supervisor starts another worker,
   and systemd another server.

The server's own code is never interrupted. It waits on purpose if nobody reads the audit log on standard output.

Compiled code that keeps Python's lock (GIL) stops this thread too. Then systemd ends the server (`WatchdogSec=`), or
the supervisor ends its worker, because the thread gives no more signs of life.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

from kes_core.boundary.blocking import (
    BlockedError,
    Moment,
    calls_of,
    find_moment,
    is_callback,
    is_own,
    is_running,
    name_of,
)
from kes_core.faults import log_fault, one_line
from kes_core.server import systemd

__all__ = ["BLOCKED", "Watchdog", "signs"]

logger = logging.getLogger("kes.server")

LIMIT: Final = 30.0
"""Seconds for which a plugin may block the event loop."""
BLOCKED: Final = 4
"""The exit code of a process that a plugin has blocked."""
_TICKS: Final = 10
"""How often the loop is looked at in `LIMIT`."""
_TRIES: Final = 25
_PAUSE: Final = 0.1
"""How often a call is interrupted before the process ends, and the seconds that it gets to end each time."""
_WRITING: Final = 8.0
"""Seconds that the last messages and audit records have to be written."""

SIGNAL: Final = signal.SIGRTMIN + 11
"""The signal that interrupts the main thread. A real-time signal, because libraries use the others (SIGALRM, SIGPROF,
SIGUSR1, ...); not one of the first, which debuggers and runtimes of other languages take, nor SIGRTMIN+3, which stops a
container. It goes to the main thread alone, and only when a plugin blocks: no other system call returns EINTR for it.
Python also writes its number to the pipe of the event loop, which ignores signals without a handler of its own."""


signs: Final[list[Callable[[], object]]] = [systemd.notify_alive]
"""What the watching thread calls at each look: signs of life, for systemd and for the supervisor of a worker."""


class Watchdog:
    """Watches the event loop of the main thread, from `start` to `stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, end: Callable[[], None] | None = None) -> None:
        """Set up; nothing is watched yet.

        Args:
            loop: The event loop of the main thread, on which `start` and `stop` are called.
            end: Ends the process; given by tests.
        """
        self._loop = loop
        self._end = end if end is not None else _exit
        self._main = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kes-watchdog", daemon=True)
        self._has_turned = True
        self._calls: dict[FrameType, int] = {}
        """The foreign calls that go on since the loop last turned, innermost first, and for how many looks."""
        self._is_told = False
        self._target: FrameType | None = None
        """The call that the next signal interrupts."""
        self._holds = False
        """Whether the next signal keeps the main thread from going on."""
        self._held = threading.Event()

    def start(self) -> None:
        """Watch from now on. Call this in the main thread."""
        signal.signal(SIGNAL, self._on_signal)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._thread.join(_WRITING)

    # In the watching thread

    def _run(self) -> None:
        while not self._stopped.wait(self._pause()):
            for sign in signs:
                with contextlib.suppress(Exception):
                    sign()
            if self._has_turned:
                self._has_turned, self._is_told = False, False
                self._calls.clear()
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_turn)
            else:
                try:
                    self._look()
                except Exception as error:  # otherwise nobody would watch any more
                    log_fault(logger, "internal error: the watchdog failed", error=error)

    def _pause(self) -> float:
        wanted = systemd.watchdog_time()
        return LIMIT / _TICKS if wanted is None else min(LIMIT / _TICKS, wanted / 4)

    def _innermost(self) -> FrameType | None:
        return sys._current_frames().get(self._main)  # noqa: SLF001 # documented, for this purpose

    def _look(self) -> None:
        """Look at what keeps the loop from turning. Act if one call has kept it for too long."""
        frame = self._innermost()
        if frame is None:
            return
        # Looks are counted, not seconds: a process that was stopped (SIGSTOP) has not blocked.
        self._calls = {call: self._calls.get(call, 0) + 1 for call in calls_of(frame)}
        long = [call for call, looks in self._calls.items() if looks * self._pause() >= LIMIT]
        if not long or self._has_turned:
            return
        moment = find_moment(frame)
        if long[0] is moment.frame or long[0] is not list(self._calls)[-1]:
            self._stop_call(long[0], moment, frame)
        elif not self._is_told:
            self._tell_own(moment)

    def _stop_call(self, call: FrameType, before: Moment, innermost: FrameType) -> None:
        what = name_of(call)
        place = _place(innermost if is_callback(call) else call)
        if not self._is_told:
            self._is_told = True
            _in_time(lambda: logger.error("%s has kept all requests waiting for %g s, at %s", what, LIMIT, place))
        for _ in range(_TRIES):
            self._signal(call)
            if not self._is_in(call, _PAUSE):
                self._target = None
                return
        self._target = None
        if (frame := self._innermost()) is None:
            return
        now = find_moment(frame)
        if now.logs is not None and now.logs is before.logs:
            return  # nobody reads the log: wait, as without a plugin
        if not now.is_foreign and now.frame is before.frame:
            return  # it waits for the server's own code, as above
        if self._hold(call):
            _in_time(lambda: _say_farewell(what))
            self._end()

    def _tell_own(self, moment: Moment) -> None:
        self._is_told = True
        place = _place(moment.frame)
        _in_time(lambda: logger.error("the server has answered no request for %g s: it waits at %s", LIMIT, place))

    def _signal(self, call: FrameType | None) -> None:
        self._target = call
        signal.pthread_kill(self._main, SIGNAL)

    def _is_in(self, call: FrameType, seconds: float) -> bool:
        """Return whether the main thread is still in `call` after some time."""
        ends = time.monotonic() + seconds
        while is_running(call, self._innermost()):
            if time.monotonic() >= ends:
                return True
            time.sleep(seconds / 20)
        return False

    def _hold(self, call: FrameType) -> bool:
        """Keep the main thread from going on with anything but `call`; return whether it is still in there."""
        self._holds = True
        for _ in range(_TRIES):
            self._signal(call)
            if self._held.wait(_PAUSE / 5):
                return True
        # Code in C has not returned. When it does, the signal comes first.
        frame = self._innermost()
        if frame is not None and is_running(call, frame) and find_moment(frame).is_foreign:
            return True
        self._target, self._holds = None, False
        return False

    # In the main thread

    def _on_turn(self) -> None:
        self._has_turned = True

    def _on_signal(self, _number: int, frame: FrameType | None) -> None:
        call = self._target
        if call is None or frame is None:  # a signal of somebody else, or a late one
            return
        try:
            is_in = is_running(call, frame)
        except Exception:  # such as RecursionError
            return
        if is_in:
            self._interrupt(call, frame)
            self._interrupt_later(call, frame)

    def _interrupt(self, call: FrameType, frame: FrameType) -> None:
        """Interrupt `call` if the innermost frame is its own code, or keep the thread from going on."""
        try:
            moment = find_moment(frame)
        except Exception:  # as above
            return
        if moment.frame is not call or moment.logs is not None:
            return
        if self._holds:
            self._held.set()
            while True:
                time.sleep(_WRITING)
        if moment.may_interrupt:
            self._target = None
            raise BlockedError(LIMIT)

    def _interrupt_later(self, call: FrameType, frame: FrameType) -> None:
        """Interrupt `call` when the server's own code, which it calls again and again, returns to it."""
        before = sys.gettrace()

        def at_line(frame: FrameType, _event: str, _argument: object) -> Any:
            if self._target is not call:
                return None
            self._interrupt(call, frame)
            return at_line

        def at_call(_frame: FrameType, _event: str, _argument: object) -> None:
            if self._target is not call:
                sys.settrace(before)

        each: FrameType | None = frame
        while each is not None and each is not call.f_back:
            if not is_own(each):
                each.f_trace = at_line
            each = each.f_back
        sys.settrace(at_call)


def _place(frame: FrameType) -> str:
    return one_line(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")


def _in_time(work: Callable[[], None]) -> None:
    """Run `work` for a limited time: the main thread may hold the lock of the log, or nobody may read the log."""
    thread = threading.Thread(target=work, name="kes-watchdog-log", daemon=True)
    thread.start()
    thread.join(_WRITING)


def _say_farewell(what: str) -> None:
    logger.critical("%s can't be interrupted, so the server process ends with exit code %d", what, BLOCKED)
    # The module is not imported here: the main thread may hold the lock of an import.
    audit = sys.modules.get("kes_core.audit.log")
    if audit is not None:
        audit.finish_all()


def _exit() -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(BLOCKED)

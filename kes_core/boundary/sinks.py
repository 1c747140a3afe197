"""Audit sinks behind the boundary. Private."""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kes_core.boundary.blocking import PLUGIN, calls_plugin
from kes_core.boundary.calls import (
    TELL_AGAIN,
    BlockingWatch,
    Origin,
    attribute_of,
    close_plugin,
    connect_plugin,
    origin_of_sink,
    text_of,
)
from kes_core.counters import LOST_RECORDS
from kes_core.errors import BackendError
from kes_core.faults import log_fault
from kes_core.hookspecs import AuditSink, QueuedAuditSink, _attempt

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.counters import Histogram
    from kes_core.hookspecs import AuditSinkType, PluginContext

__all__ = ["GuardedSink", "connect_sink"]

logger = logging.getLogger("kes.plugins")

calls_plugin(_attempt)


async def connect_sink(kind: AuditSinkType, config: BaseModel, context: PluginContext) -> GuardedSink:
    """Connect to an audit sink; return it behind the boundary.

    Args:
        kind: The kind of the sink.
        config: Its section of the configuration.
        context: What it gets to know of this process.

    Raises:
        BackendError: The sink can't be used; the message says why.
    """
    origin = origin_of_sink(kind)
    # mypy refuses an abstract class here; it only serves for isinstance().
    sink = await connect_plugin(origin, kind.connect, config, context, AuditSink)  # type: ignore[type-abstract]
    audit = attribute_of(sink, "audit")
    problem = ""
    if not callable(audit):
        problem = "has no method 'audit'"
    elif inspect.iscoroutinefunction(audit):
        problem = "has a method 'audit' that is an 'async def' function"
    if problem:
        await close_plugin(origin, sink)
        raise BackendError(f"{origin.what} {problem}")
    if isinstance(sink, QueuedAuditSink) and (queue := attribute_of(sink, "_queue")) is not None:
        queue.what = origin.what
        queue.context = contextvars.copy_context()
        queue.context.run(PLUGIN.set, origin.what)
    return GuardedSink(sink, origin, context.metrics._timer("audit"))  # noqa: SLF001 # made for the boundary


class GuardedSink(AuditSink):
    """A plugin's audit sink. Its exceptions are logged, at most once a minute."""

    def __init__(self, sink: AuditSink, origin: Origin, times: Histogram) -> None:
        self.inner = sink
        """The sink of the plugin."""
        self._origin = origin
        self._times = times
        self._lost = 0
        self._told_lost = -math.inf
        self._watch = BlockingWatch(origin)

    def audit(self, event: Mapping[str, Any]) -> None:
        """Pass a record to the sink."""
        self._pass_on("audit", event, 1)

    def write_lines(self, lines: Sequence[str]) -> None:
        """Pass records to a sink that takes several at once (`kes_core.audit.lines`). They count as one call."""
        self._pass_on("write_lines", lines, len(lines))

    def write_ended(self, ended: Sequence[object]) -> None:
        """Do as `write_lines`, with what such a sink makes its lines of."""
        self._pass_on("write_ended", ended, len(ended))

    @calls_plugin
    def _pass_on(self, method: str, what: object, count: int) -> None:
        started = time.perf_counter()
        try:
            answer = getattr(self.inner, method)(what)
            if answer is not None and inspect.iscoroutine(answer):
                answer.close()  # otherwise Python would warn that nobody awaits it
                raise BackendError("its method 'audit' returned a coroutine")  # noqa: TRY301 # lost as the others
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too
            self._lost += count
            LOST_RECORDS.add("plugin", count)
            if started - self._told_lost >= TELL_AGAIN:
                self._log_lost(error)
                self._told_lost, self._lost = started, 0
        seconds = time.perf_counter() - started
        self._times.add(seconds)
        self._watch(seconds)

    async def close(self) -> None:
        await close_plugin(self._origin, self.inner)

    def _log_lost(self, error: BaseException) -> None:
        text = text_of(error)
        what = self._origin.what
        if text is None:
            log_fault(logger, "%s did not take %d records", what, self._lost, error=error, foreign=True)
        else:
            logger.error("%s did not take %d records: %s", what, self._lost, text)

"""Audit sinks behind the boundary. Private."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kes_core.boundary.calls import (
    BLOCKING,
    TELL_AGAIN,
    Origin,
    close_plugin,
    connect_plugin,
    origin_of_sink,
    text_of,
)
from kes_core.counters import LOST_RECORDS
from kes_core.errors import BackendError
from kes_core.faults import log_fault
from kes_core.hookspecs import AuditSink

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.counters import Histogram
    from kes_core.hookspecs import AuditSinkType, PluginContext

__all__ = ["GuardedSink", "connect_sink"]

logger = logging.getLogger("kes.plugins")


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
    if inspect.iscoroutinefunction(sink.audit):
        await close_plugin(origin, sink.close)
        raise BackendError(f"{origin.what} has a method 'audit' that is an 'async def' function")
    return GuardedSink(sink, origin, context.metrics._timer("audit"))  # noqa: SLF001 # made for the boundary


class GuardedSink(AuditSink):
    """A plugin's audit sink. Its exceptions are logged, at most once a minute."""

    def __init__(self, sink: AuditSink, origin: Origin, times: Histogram) -> None:
        self.inner = sink
        """The sink of the plugin."""
        self._origin = origin
        self._times = times
        self._lost = 0
        self._told_lost = self._told_blocking = -math.inf

    def audit(self, event: Mapping[str, Any]) -> None:
        """Pass a record to the sink."""
        started = time.perf_counter()
        try:
            self.inner.audit(event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too
            self._lost += 1
            LOST_RECORDS.add("plugin")
            if started - self._told_lost >= TELL_AGAIN:
                self._log_lost(error)
                self._told_lost, self._lost = started, 0
        seconds = time.perf_counter() - started
        self._times.add(seconds)
        if seconds > BLOCKING and started - self._told_blocking >= TELL_AGAIN:
            self._told_blocking = started
            logger.warning("%s kept all requests waiting for %.1f s", self._origin.what, seconds)

    async def close(self) -> None:
        await close_plugin(self._origin, self.inner.close)

    def _log_lost(self, error: BaseException) -> None:
        text = text_of(error)
        what = self._origin.what
        if text is None:
            log_fault(logger, "%s did not take %d records", what, self._lost, error=error, foreign=True)
        else:
            logger.error("%s did not take %d records: %s", what, self._lost, text)

"""The interface of the core's own audit sinks, which take records as lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from kes_core.audit.event import line_of
from kes_core.hookspecs import AuditSink

__all__ = ["LineSink"]


class LineSink(AuditSink):
    """A sink that takes the records of several requests at once, as lines of JSON."""

    @abstractmethod
    def write_lines(self, lines: Sequence[str]) -> None:
        """Take lines without line feeds. A sink that writes here and not on a thread has written them after this."""

    def audit(self, event: Mapping[str, Any]) -> None:
        self.write_lines((line_of(event),))

"""The interface of the core's own audit sinks, which take records as lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from kes_core.audit.event import Ended, line_of, make_lines
from kes_core.hookspecs import AuditSink

__all__ = ["Appender", "LineSink", "MakeAppender"]


class LineSink(AuditSink):
    """A sink that takes the records of several requests at once, as lines of JSON."""

    @abstractmethod
    def write_lines(self, lines: Sequence[str]) -> None:
        """Take lines without line feeds. A sink that writes here and not on a thread has written them after this."""

    def audit(self, event: Mapping[str, Any]) -> None:
        self.write_lines((line_of(event),))

    def write_ended(self, ended: list[Ended]) -> None:
        """Take the lines of `make_lines(ended)`. It is another way to `write_lines`, with less work if there is one."""
        self.write_lines(make_lines(ended))


class Appender(Protocol):
    """Appends lines to a file in native code."""

    def append(self, start: str, ended: list[Ended], /) -> bool:
        """Append the lines of `make_lines(ended)`, all or none, if the file is still at its path.

        Args:
            start: How they begin (`kes_core.audit.event.line_start`).
            ended: What the lines say.

        Returns:
            Whether they were appended. If not, the caller appends them, or finds out why it can't.
        """


MakeAppender = Callable[[int, bytes, int, int], Appender]
"""Makes an appender for a file, from its descriptor, path, device and inode. The descriptor stays open as long as the
appender is used."""

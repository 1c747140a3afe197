"""Write audit records to standard output."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO, Final, NoReturn, Protocol, TextIO

from kes_core.audit.lines import LineSink
from kes_core.audit.syslog import finish_sending

__all__ = ["UNAUDITED", "AuditOutputError", "StreamSink", "reserve"]

logger = logging.getLogger("kes.audit")

UNAUDITED: Final = 3
"""The exit code of a worker that can't write the audit log to standard output."""
_STOP_TIMEOUT: Final = 2.0
"""Seconds that a worker waits for the supervisor to stop it, after it asked the supervisor to stop the server."""


class AuditOutputError(Exception):
    """Standard output can't be written. The message says why."""


_reserved: list[TextIO] = []
"""Standard output, if it is reserved."""


def reserve() -> None:
    """Keep standard output for audit records from now on: what plugins print goes to standard error."""
    if not _reserved and sys.stdout is not None:
        _reserved.append(sys.stdout)
        sys.stdout = sys.stderr


class _Finishing(Protocol):
    """A sink that can end without the event loop."""

    def finish(self) -> None:
        """Write the waiting records and close."""


class StreamSink(LineSink):
    """Writes records to a stream.

    Writes block, because a server that can't write its audit log must not serve requests. If a write fails, the server
    exits.
    """

    def __init__(
        self, stream: BinaryIO | None = None, *, lock: int | None = None, others: Sequence[_Finishing] = ()
    ) -> None:
        """Create a sink; this does not write yet.

        Args:
            stream: The stream to write to; standard output by default.
            lock: In a worker, the file descriptor whose lock keeps other workers from writing at the same time.
            others: Sinks to close before the server exits. The list may still grow.

        Raises:
            AuditOutputError: Standard output is closed.
        """
        output = _reserved[0] if _reserved else sys.stdout
        if stream is None and output is None:
            raise AuditOutputError("the audit log on standard output can't be written: it is closed")
        self._stream = stream if stream is not None else output.buffer
        self._lock = lock
        self._others = others
        self._supervisor = os.getppid()

    def write_lines(self, lines: Sequence[str]) -> None:
        try:
            self._write(("\n".join(lines) + "\n").encode("ascii"))
        except OSError as error:
            logger.critical(
                "the audit log on standard output can't be written: %s; the server stops", error.strerror or error
            )
            self._end_server()

    def _write(self, data: bytes) -> None:
        if self._lock is not None:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            self._stream.write(data)
            self._stream.flush()
        finally:
            if self._lock is not None:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _end_server(self) -> NoReturn:
        """Exit at once, without another turn of the event loop, in which it would answer requests."""
        for sink in self._others:
            with contextlib.suppress(Exception):
                sink.finish()
        finish_sending()
        if self._lock is None:
            os._exit(1)
        # Stop the supervisor first: it would replace a worker that exits.
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(UNAUDITED))
        if os.getppid() == self._supervisor:
            os.kill(self._supervisor, signal.SIGTERM)
            time.sleep(_STOP_TIMEOUT)
        os._exit(UNAUDITED)

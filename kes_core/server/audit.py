"""The audit log: one record for every request-response pair, refused ones included.

The format is the protocol's (section 4): one JSON object a line,

    {"time": "2026-01-02T03:04:05.678901Z",
     "request": {"ip": "10.1.2.3", "path": "/v1/key/generate/my-key", "identity": "3ecf…"},
     "response": {"code": 200, "time": 123456}}

where `response.time` counts nanoseconds. The path is the decoded one, escaped as JSON demands, so that nothing a client
sends can end a line or begin a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, Protocol

from kes_core.faults import log_fault
from kes_core.server.audit_file import AuditFileError, FileSink
from kes_core.server.audit_syslog import SyslogError, SyslogSink, finish_sending

if TYPE_CHECKING:
    from kes_core.boundary import GuardedSink
    from kes_core.config import Config
    from kes_core.server.streams import Hub

__all__ = ["UNAUDITED", "AuditError", "AuditLog", "OwnSink", "StreamSink", "open_sinks"]

logger = logging.getLogger("kes.audit")

_AUDIT_LEVEL: Final = 0
"""Of `log.audit`: what is above it switches the log on standard output off."""
UNAUDITED: Final = 3
"""Exit code of a worker that can't write the audit log on standard output."""
_STOP_TIMEOUT: Final = 2.0
"""Seconds that a worker waits to be told to stop, when it has asked the supervisor to stop the server."""


class AuditError(Exception):
    """A place for audit records can't be used. The message says why."""


class OwnSink(Protocol):
    """A sink that the configuration asks for."""

    def audit(self, event: Mapping[str, Any]) -> None:
        """Take a record."""

    def close(self) -> None:
        """Write what is left."""


class StreamSink:
    """Writes records to a stream, all those of one turn of the event loop at once.

    Writing blocks: a server that can't write its audit log serves nobody. Where writing fails, the server ends.
    """

    def __init__(
        self, stream: BinaryIO | None = None, *, lock: int | None = None, others: Sequence[OwnSink] = ()
    ) -> None:
        """Set up; nothing is written yet.

        Args:
            stream: Where to write, standard output unless it is given.
            lock: In a worker, the file descriptor whose lock keeps the others from writing at the same time.
            others: Sinks to close before the server ends. The list may still grow.

        Raises:
            AuditError: Standard output is closed.
        """
        if stream is None and sys.stdout is None:
            raise AuditError("the audit log on standard output can't be written: it is closed")
        self._stream = stream if stream is not None else sys.stdout.buffer
        self._lock = lock
        self._others = others
        self._supervisor = os.getppid()
        self._lines: list[str] = []

    def audit(self, event: Mapping[str, Any]) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(json.dumps(event, separators=(",", ":")))

    def flush(self) -> None:
        """Write what has been recorded."""
        if not self._lines:
            return
        data = "\n".join(self._lines) + "\n"
        self._lines.clear()
        try:
            self._write(data.encode("ascii"))
        except OSError as error:
            logger.critical(
                "the audit log on standard output can't be written: %s; the server stops", error.strerror or error
            )
            self._end_server()

    def close(self) -> None:
        """Write what is left."""
        self.flush()

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
        """End the process on the spot, without giving the event loop another turn: it would answer requests."""
        for sink in self._others:
            if sink is not self:
                with contextlib.suppress(Exception):
                    sink.close()
        finish_sending()
        if self._lock is None:
            os._exit(1)
        # The supervisor is to hear first that the server stops: it would replace a worker that just ends.
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(UNAUDITED))
        if os.getppid() == self._supervisor:
            os.kill(self._supervisor, signal.SIGTERM)
            time.sleep(_STOP_TIMEOUT)
        os._exit(UNAUDITED)


def open_sinks(config: Config, *, lock: int | None = None) -> list[OwnSink]:
    """Open the places that the configuration names for audit records.

    Raises:
        AuditError: One of them can't be used.
    """
    sinks: list[OwnSink] = []
    try:
        if config.log.audit <= _AUDIT_LEVEL:
            sinks.append(StreamSink(lock=lock, others=sinks))
        if config.audit.file is not None:
            file = config.audit.file
            key = file.key.get().encode("utf-8") if file.key is not None else b""
            sinks.append(FileSink(Path(file.path), chain=file.chain, key=key))
        if config.audit.syslog is not None:
            syslog = config.audit.syslog
            sinks.append(SyslogSink(syslog.target, syslog.facility, stream=syslog.is_stream))
    except (AuditError, AuditFileError, SyslogError) as error:
        for sink in sinks:
            sink.close()
        raise AuditError(str(error)) from None
    return sinks


class AuditLog:
    """Hands audit records to the sinks."""

    def __init__(
        self, own: Sequence[OwnSink] = (), plugins: Sequence[GuardedSink] = (), readers: Hub | None = None
    ) -> None:
        """Hand records to the sinks of the configuration and of plugins, and to the clients that read the log."""
        self._own = tuple(own)
        self._sinks: tuple[OwnSink | GuardedSink, ...] = (*own, *plugins)
        self._readers = readers

    @property
    def enabled(self) -> bool:
        """Whether anybody reads the records. Making them is left out if not."""
        return bool(self._sinks) or (self._readers is not None and self._readers.has_readers)

    def record(self, *, ip: str, path: str, identity: str, code: int, seconds: float) -> None:
        """Record one request and its response, `seconds` after it came in."""
        text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        event = {
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "request": {"ip": ip, "path": text, "identity": identity},
            "response": {"code": code, "time": int(seconds * 1e9)},
        }
        if self._readers is not None:
            self._readers.publish(event)
        for sink in self._sinks:
            try:
                sink.audit(event)
            except Exception as error:  # of one of ours: plugins' are behind the boundary
                log_fault(logger, "an audit sink failed", error=error)

    def replace(self, old: AuditLog) -> None:
        """Close `old`, in whose place this one is. Records that wait for a file that can't be written are kept."""
        ours = [sink for sink in self._own if isinstance(sink, FileSink)]
        theirs = [sink for sink in old._own if isinstance(sink, FileSink)]
        for sink, other in zip(ours, theirs, strict=False):
            sink.take_over(other)
        old.close()

    def close(self) -> None:
        """Write what is left to the sinks of the configuration."""
        for sink in self._own:
            try:
                sink.close()
            except Exception as error:
                log_fault(logger, "an audit sink failed", error=error)

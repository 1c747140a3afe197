"""The audit log: one record for every request-response pair, refused ones included.

The format is the protocol's (section 4): one JSON object a line,

    {"time": "2026-01-02T03:04:05.678901Z",
     "request": {"ip": "10.1.2.3", "path": "/v1/key/generate/my-key", "identity": "3ecf…"},
     "response": {"code": 200, "time": 123456}}

where `response.time` counts nanoseconds. The path is the decoded one, escaped as JSON demands, so that nothing a client
sends can end a line or begin a record.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kes_core.audit.file import AuditFileError, FileSink
from kes_core.audit.stdout import AuditOutputError, OwnSink, StreamSink
from kes_core.audit.syslog import SyslogError, SyslogSink
from kes_core.faults import log_fault

if TYPE_CHECKING:
    from kes_core.boundary import GuardedSink
    from kes_core.config import Config
    from kes_core.server.events import Hub

__all__ = ["AuditError", "AuditLog", "open_sinks"]

logger = logging.getLogger("kes.audit")

_AUDIT_LEVEL: Final = 0
"""Of `log.audit`: what is above it switches the log on standard output off."""


class AuditError(Exception):
    """A place for audit records can't be used. The message says why."""


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
    except (AuditOutputError, AuditFileError, SyslogError) as error:
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

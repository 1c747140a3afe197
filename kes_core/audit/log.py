"""The audit log: one record for each request and its response, also for refused requests.

The protocol defines the format (section 4): one JSON object per line,

    {"time": "2026-01-02T03:04:05.678901Z",
     "request": {"ip": "10.1.2.3", "path": "/v1/key/generate/my-key", "identity": "3ecf…"},
     "response": {"code": 200, "time": 123456}}

`request` also has the `policy` of the identity, if it has one, and `response` the `reason` of a refusal or a failure.
`response.time` is in nanoseconds. `path` is the decoded path. JSON escapes control characters, so a client can't end a
line or forge a record.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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

_MAX_REASON: Final = 500
_AUDIT_LEVEL: Final = 0
"""The highest level of `log.audit` that enables the audit log on standard output."""


def _as_text(text: str) -> str:
    """Return `text` with U+FFFD for the bytes of a path that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class AuditError(Exception):
    """An audit sink can't be opened. The message says why."""


def open_sinks(config: Config, *, lock: int | None = None) -> list[OwnSink]:
    """Open the audit sinks of the configuration.

    Args:
        config: The configuration.
        lock: In a worker, the file descriptor whose lock serializes writes to standard output.

    Raises:
        AuditError: A sink can't be opened.
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
    """Sends audit records to the sinks."""

    def __init__(
        self, own: Sequence[OwnSink] = (), plugins: Sequence[GuardedSink] = (), readers: Hub | None = None
    ) -> None:
        """Create a log.

        Args:
            own: The sinks of the configuration.
            plugins: The sinks of plugins.
            readers: The clients that read the log through the API.
        """
        self._own = tuple(own)
        self._sinks: tuple[OwnSink | GuardedSink, ...] = (*own, *plugins)
        self.readers = readers
        """The clients that read the log."""

    @property
    def enabled(self) -> bool:
        """Whether there is a sink or a reader. If not, the server makes no records."""
        return bool(self._sinks) or (self.readers is not None and self.readers.has_readers)

    def record(
        self, *, ip: str, path: str, identity: str, code: int, seconds: float, policy: str = "", reason: str = ""
    ) -> None:
        """Record a request and its response.

        Args:
            ip: The client's address.
            path: The decoded path of the request.
            identity: The client's identity; empty if unknown.
            code: The status code of the response.
            seconds: The time from the request to its response.
            policy: The name of the identity's policy, if it has one.
            reason: Why the request was refused or failed.
        """
        request = {"ip": ip, "path": _as_text(path), "identity": identity}
        response: dict[str, Any] = {"code": code, "time": int(seconds * 1e9)}
        if policy:
            request["policy"] = policy
        if reason:
            response["reason"] = _as_text(reason[:_MAX_REASON])
        event = {
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "request": request,
            "response": response,
        }
        if self.readers is not None:
            self.readers.publish(event)
        for sink in self._sinks:
            try:
                sink.audit(event)
            except Exception as error:  # from our own sinks: the boundary catches the errors of plugins
                log_fault(logger, "an audit sink failed", error=error)

    def replace(self, old: AuditLog) -> None:
        """Take the place of `old` and close it. Keep the records that `old` could not write to its file."""
        ours = [sink for sink in self._own if isinstance(sink, FileSink)]
        theirs = [sink for sink in old._own if isinstance(sink, FileSink)]
        for sink, other in zip(ours, theirs, strict=False):
            sink.take_over(other)
        old.close()

    def close(self) -> None:
        """Close the sinks of the configuration, which write their waiting records first."""
        for sink in self._own:
            try:
                sink.close()
            except Exception as error:
                log_fault(logger, "an audit sink failed", error=error)

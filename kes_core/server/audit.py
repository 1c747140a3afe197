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
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from kes_core.hookspecs import AuditSink
    from kes_core.server.streams import Hub

__all__ = ["AuditLog", "StreamSink"]

logger = logging.getLogger("kes.audit")


class StreamSink:
    """Writes records to a stream, all those of one turn of the event loop at once.

    Writing blocks: a server that can't write its audit log serves nobody.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout.buffer
        self._lines: list[str] = []

    def audit(self, event: Mapping[str, Any]) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(json.dumps(event, separators=(",", ":")))

    def flush(self) -> None:
        """Write what has been recorded."""
        if self._lines:
            data = "\n".join(self._lines) + "\n"
            self._lines.clear()
            self._stream.write(data.encode("ascii"))
            self._stream.flush()


class AuditLog:
    """Hands audit records to the sinks."""

    def __init__(self, sinks: Sequence[AuditSink] = (), readers: Hub | None = None) -> None:
        """Hand records to `sinks`, and to the clients that read the log at the moment."""
        self._sinks = tuple(sinks)
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
            except Exception:
                logger.exception("an audit sink failed")

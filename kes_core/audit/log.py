"""The audit log: one record for each request and its response, also for refused requests.

The protocol defines the format (section 4): one JSON object per line,

    {"time": "2026-01-02T03:04:05.678901Z",
     "request": {"ip": "10.1.2.3", "path": "/v1/key/generate/my-key", "identity": "3ecf…"},
     "response": {"code": 200, "time": 123456}}

`request` also has the `policy` of the identity, if it has one, and `response` the `reason` of a refusal or a failure.
A request of a front end has its name in `frontend`, and in `id` what the front end's client calls the request, if it
says so; `path` is that of the same request over HTTP.
`response.time` is in nanoseconds. `path` is the decoded path. JSON escapes control characters, so a client can't end a
line or forge a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kes_core.audit.event import Ended, make_lines, reason_text, record_of, request_text
from kes_core.audit.file import FileSink
from kes_core.audit.lines import LineSink, MakeAppender
from kes_core.audit.stdout import AuditOutputError, StreamSink
from kes_core.audit.syslog import SyslogSink, finish_sending
from kes_core.boundary import GuardedSink, Surroundings, connect_sink
from kes_core.config import AuditSinkChoice
from kes_core.errors import BackendError
from kes_core.faults import log_fault
from kes_core.hookspecs import QueuedAuditSink

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins
    from kes_core.server.events import Hub

__all__ = ["AuditError", "AuditLog", "chosen_sinks", "finish_all", "open_audit_log"]

logger = logging.getLogger("kes.audit")

_AUDIT_LEVEL: Final = 0
"""The highest level of `log.audit` that enables the audit log on standard output."""
_FAILED: Final = "an audit sink failed"
"""Only our own sinks raise exceptions: the boundary catches those of plugins."""


_open: Final[weakref.WeakSet[AuditLog]] = weakref.WeakSet()
"""The logs that are not closed."""


class AuditError(Exception):
    """An audit sink can't be opened. The message says why."""


def chosen_sinks(config: Config, plugins: Plugins) -> list[AuditSinkChoice]:
    """Return the audit sinks that a configuration selects: in the section `audit`, and in `audit_sinks`."""
    own = {"file": config.audit.file, "syslog": config.audit.syslog}
    chosen = [AuditSinkChoice(plugins.sinks[name], section) for name, section in own.items() if section is not None]
    return [*chosen, *config.audit_sinks]


async def open_audit_log(
    config: Config,
    plugins: Plugins,
    surroundings: Surroundings | None = None,
    *,
    lock: int | None = None,
    make_appender: MakeAppender | None = None,
) -> AuditLog:
    """Connect to the audit sinks of the configuration.

    Args:
        config: The configuration.
        plugins: Where the sinks come from.
        surroundings: What they get to know of this process.
        lock: In a worker, the file descriptor whose lock serializes writes to standard output.
        make_appender: Makes what appends to files in native code, if the runtime has that.

    Raises:
        AuditError: A sink can't be opened.
    """
    surroundings = surroundings if surroundings is not None else Surroundings()
    sinks: list[StreamSink | GuardedSink] = []
    others: list[FileSink | SyslogSink] = []
    try:
        if config.log.audit <= _AUDIT_LEVEL:
            sinks.append(StreamSink(lock=lock, others=others))
        for choice in chosen_sinks(config, plugins):
            context = surroundings.context("audit_sinks", choice.type, choice.directory)
            sink = await connect_sink(choice.type, choice.config, context)
            sinks.append(sink)
            if isinstance(sink.inner, FileSink | SyslogSink):
                others.append(sink.inner)
            if isinstance(sink.inner, FileSink):
                sink.inner.speed_up(make_appender)
    except BaseException as error:
        await AuditLog(sinks).close()
        if isinstance(error, AuditOutputError | BackendError):
            raise AuditError(str(error)) from None
        raise
    log = AuditLog(sinks)
    _open.add(log)
    return log


def finish_all() -> None:
    """Write the waiting records of all logs before the process ends, without the event loop, which no longer turns."""
    for log in list(_open):
        log.finish()
    finish_sending()


class AuditLog:
    """Sends audit records to the sinks."""

    def __init__(self, sinks: Sequence[StreamSink | GuardedSink] = (), readers: Hub | None = None) -> None:
        """Create a log.

        Args:
            sinks: Where records go.
            readers: The clients that read the log through the API.
        """
        self._sinks = tuple(sinks)
        # Standard output comes last: if it can't be written, the server exits at once, with the records in the others.
        self._writers = tuple(sorted(filter(_takes_lines, self._sinks), key=lambda sink: isinstance(sink, StreamSink)))
        self._others = tuple(sink for sink in self._sinks if not _takes_lines(sink))
        self._only_file = self._sinks[0] if len(self._sinks) == 1 and self._files() else None
        self._ended: list[Ended] = []
        """Requests that the next `settle` records."""
        self._lines: list[str] = []
        """The records that are not written yet."""
        self._is_scheduled = False
        self.readers = readers
        """The clients that read the log."""

    @property
    def enabled(self) -> bool:
        """Whether there is a sink or a reader. If not, the server makes no records."""
        return bool(self._sinks) or self._is_read()

    def _is_read(self) -> bool:
        return self.readers is not None and self.readers.has_readers

    def record(
        self,
        *,
        ip: str,
        path: str,
        identity: str,
        code: int,
        seconds: float,
        policy: str = "",
        reason: str = "",
        frontend: str = "",
        request_id: str = "",
    ) -> None:
        """Record a request and its response. The record is written before the next turn of the event loop ends.

        Args:
            ip: The client's address.
            path: The decoded path of the request.
            identity: The client's identity; empty if unknown.
            code: The status code of the response.
            seconds: The time from the request to its response.
            policy: The name of the identity's policy, if it has one.
            reason: Why the request was refused or failed.
            frontend: The front end that made the request, if it did not come over HTTP.
            request_id: What its client calls the request.
        """
        request = request_text(
            ip=ip, path=path, identity=identity, policy=policy, frontend=frontend, request_id=request_id
        )
        self.add(request, code, seconds, reason)
        self.settle_soon()

    def add(self, request: str, code: int, seconds: float, reason: str = "") -> None:
        """Record a request and its response, if `enabled`. The caller calls `settle` before it sends the response.

        Args:
            request: What is known of the request (`kes_core.audit.event.request_text`).
            code: As the other arguments, see `record`.
            seconds: The time from the request to its response.
            reason: Why the request was refused or failed.
        """
        if self._sinks or self._is_read():
            self._ended.append((request, code, seconds, reason and reason_text(reason)))

    def settle(self) -> int:
        """Send the records of `add` to the sinks, and write those for standard output and files.

        Returns:
            How many records were written.
        """
        ended = self._ended
        if ended:
            readers = self.readers
            if self._only_file is not None and not self._lines and (readers is None or not readers.has_readers):
                # The most frequent case: nobody else needs the lines, which the file can make itself.
                count = len(ended)
                self._only_file.write_ended(ended)
                ended.clear()
                return count
            self._pass_on()
        lines = self._lines
        if lines:
            self._lines = []
            for writer in self._writers:
                try:
                    writer.write_lines(lines)
                except Exception as error:
                    log_fault(logger, _FAILED, error=error)
        return len(lines)

    def settle_soon(self) -> None:
        """Do as `settle`. Write in the next turn of the event loop, together with the other records of this turn."""
        if self._ended:
            self._pass_on()
        if self._lines and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._settle_scheduled)

    def _settle_scheduled(self) -> None:
        self._is_scheduled = False
        self.settle()

    def _pass_on(self) -> None:
        """Make the records of `add`, and send them to all but those that write."""
        lines = make_lines(self._ended)
        self._ended.clear()
        if self._writers:
            self._lines = self._lines + lines if self._lines else lines
        if self.readers is not None and self.readers.has_readers:
            for line in lines:
                self.readers.publish_line(line)
        if self._others:
            for event in map(record_of, lines):
                for sink in self._others:
                    try:
                        sink.audit(event)
                    except Exception as error:
                        log_fault(logger, _FAILED, error=error)

    def replace(self, old: AuditLog) -> None:
        """Take the place of `old`, and keep the records that it could not write to its file. Does not close it."""
        old.settle()
        for sink, other in zip(self._files(), old._files(), strict=False):
            sink.take_over(other)

    def finish(self) -> None:
        """Write the waiting records, without the event loop. No more records may follow."""
        with contextlib.suppress(Exception):
            self.settle()
        for sink in self._sinks:
            inner = sink.inner if isinstance(sink, GuardedSink) else sink
            with contextlib.suppress(Exception):
                if isinstance(inner, FileSink | SyslogSink):
                    inner.finish()
                elif isinstance(inner, QueuedAuditSink):
                    inner._queue.give_up()  # noqa: SLF001 # its other half

    async def close(self) -> None:
        """Close the sinks, which write their waiting records first."""
        _open.discard(self)
        self.settle()
        for sink in self._sinks:
            try:
                await sink.close()
            except Exception as error:
                log_fault(logger, _FAILED, error=error)

    def _files(self) -> list[FileSink]:
        return [
            sink.inner for sink in self._sinks if isinstance(sink, GuardedSink) and isinstance(sink.inner, FileSink)
        ]


def _takes_lines(sink: StreamSink | GuardedSink) -> bool:
    return isinstance(sink.inner if isinstance(sink, GuardedSink) else sink, LineSink)

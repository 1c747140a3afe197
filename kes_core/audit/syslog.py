"""Send audit records to syslog, on a separate thread: a log server that hangs does not delay requests."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import queue
import socket
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from logging.handlers import SysLogHandler
from typing import Final

from kes_core.audit.lines import LineSink
from kes_core.counters import LOST_RECORDS

__all__ = ["MAX_MESSAGE", "SyslogError", "SyslogSink", "finish_sending"]

logger = logging.getLogger("kes.audit")

MAX_WAITING: Final = 10_000
"""The highest number of records that wait to be sent."""
_TIMEOUT: Final = 5.0
"""The time limit of a connect and of a send, in seconds."""
_LINGER: Final = 5.0
"""Seconds to send the waiting records after a sink is closed."""
MAX_MESSAGE: Final = 2048
"""The size limit of a record in bytes, as every receiver should accept this size (RFC 5424, section 6.1). The path of a
longer record is cut."""
_MAX_REASON: Final = 512
"""The size limit of the reason in a record that is too long, in bytes."""

_closing: Final[set[threading.Thread]] = set()
"""Threads of closed sinks that still send records."""


class SyslogError(Exception):
    """The syslog server can't be reached. The message names its address and says why."""


class SyslogSink(LineSink):
    """Sends each record as a message with a facility (`auth` by default), the severity `info` and the name `kes`."""

    def __init__(self, address: str | tuple[str, int], facility: str = "auth", *, stream: bool = False) -> None:
        """Connect. This blocks for up to `_TIMEOUT` seconds if the server does not answer.

        Args:
            address: The path of a socket, or host and port.
            facility: The name of a syslog facility.
            stream: Use TCP instead of UDP; each record ends with a line feed (RFC 6587).

        Raises:
            SyslogError: The server can't be reached.
        """
        self._address = address if isinstance(address, str) else ":".join(map(str, address))
        priority = SysLogHandler.facility_names[facility] << 3 | SysLogHandler.LOG_INFO
        self._start, self._end = f"<{priority}>kes: ", "\n" if stream else ""
        self._connection = _SyslogConnection(address, stream=stream)
        try:
            self._connection.open(time.monotonic() + _TIMEOUT)
        except OSError as error:
            raise SyslogError(f"syslog at {self._address!r} can't be reached: {error.strerror or error}") from None
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lost = 0
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="kes-syslog", daemon=True)
        self._thread.start()

    def write_lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            if self._queue.qsize() < MAX_WAITING:
                self._queue.put(_message(line))
            elif self._count_lost(1) == 1:
                logger.error("syslog at %r is too slow: audit records are lost", self._address)

    async def close(self) -> None:
        self.finish()
        await asyncio.to_thread(self._thread.join, _LINGER)

    def finish(self) -> None:
        """Accept no more records. The thread sends the waiting records, for up to `_LINGER` seconds.

        This does not block. `finish_sending` waits for the thread, also when the process exits.
        """
        if self._deadline is None:
            self._deadline = time.monotonic() + _LINGER
            _closing.add(self._thread)
            self._queue.put(None)

    def _run(self) -> None:
        try:
            self._send_all()
        finally:
            self._connection.close()
            _closing.discard(self._thread)

    def _send_all(self) -> None:
        failing = False
        while (message := self._queue.get()) is not None:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._count_lost(1)
                continue
            try:
                self._send(message)
            except OSError as error:
                self._count_lost(1)
                if not failing:
                    why = error.strerror or error
                    logger.error("syslog at %r can't be reached: %s; records are lost", self._address, why)
                failing = True
                continue
            if (failing or self._lost) and self._queue.empty():
                logger.warning("syslog at %r accepts records again; %d are lost", self._address, self._reset_lost())
                failing = False
        if lost := self._reset_lost():
            logger.error("syslog at %r did not accept the last audit records: %d are lost", self._address, lost)

    def _send(self, message: str) -> None:
        deadline = time.monotonic() + _TIMEOUT
        if self._deadline is not None:
            deadline = min(deadline, self._deadline)
        self._connection.send((self._start + message + self._end).encode("ascii"), deadline)

    def _count_lost(self, count: int) -> int:
        """Count lost records; return their number since `_reset_lost`."""
        LOST_RECORDS.add("syslog", count)
        with self._lock:
            self._lost += count
            return self._lost

    def _reset_lost(self) -> int:
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost


class _SyslogConnection:
    """A connection to a syslog server, which reconnects after a failure.

    Python's `SysLogHandler` has no time limit and does not report failures.
    """

    def __init__(self, address: str | tuple[str, int], *, stream: bool) -> None:
        self._address = address
        self._stream = stream
        self._socket: socket.socket | None = None

    def open(self, deadline: float) -> socket.socket:
        """Open the socket, and connect unless it is UDP. `deadline` is a time of the monotonic clock."""
        if isinstance(self._address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.settimeout(_seconds_left(deadline))
            try:
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
        elif self._stream:
            sock = socket.create_connection(self._address, timeout=_seconds_left(deadline))
        else:
            host, port = self._address
            family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
            sock = socket.socket(family, socket.SOCK_DGRAM)
        self._socket = sock
        return sock

    def send(self, data: bytes, deadline: float) -> None:
        """Send a message. `deadline` is a time of the monotonic clock.

        Raises:
            OSError: The message could not be sent.
        """
        fresh = self._socket is None
        try:
            self._send(data, deadline)
        except OSError as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                raise
            # Most likely the server was restarted: reconnect.
            try:
                self._send(data, deadline)
            except OSError:
                self.close()
                raise

    def _send(self, data: bytes, deadline: float) -> None:
        sock = self._socket or self.open(deadline)
        sock.settimeout(_seconds_left(deadline))
        if self._stream:
            sock.sendall(data)
        elif isinstance(self._address, str):
            sock.send(data)
        else:
            sock.sendto(data, self._address)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _seconds_left(deadline: float) -> float:
    """Return the seconds until `deadline`, as a timeout for a socket; never 0, which means "do not block"."""
    return max(0.001, deadline - time.monotonic())


@atexit.register
def finish_sending() -> None:
    """Wait until the closed sinks have sent their records, or their time is up."""
    deadline = time.monotonic() + _LINGER + 1
    for thread in list(_closing):
        thread.join(max(0.0, deadline - time.monotonic()))


def _message(line: str) -> str:
    """Return a record. Shorten the path, and a long reason, of a record that is too long for a receiver."""
    if len(line) <= MAX_MESSAGE:
        return line
    event = json.loads(line)
    path, response = event["request"]["path"], event["response"]
    if "reason" in response:
        response = {**response, "reason": _beginning(response["reason"], _MAX_REASON)}
    event = {**event, "request": {**event["request"], "path": ""}, "response": response, "shortened": True}
    room = MAX_MESSAGE - len(json.dumps(event, separators=(",", ":"))) + len('""')
    event["request"]["path"] = _beginning(path, room)
    return json.dumps(event, separators=(",", ":"))


def _beginning(text: str, room: int) -> str:
    """Return as much of `text` as takes `room` bytes as JSON, in which a character takes up to twelve."""
    most = min(max(0, room), len(text))
    return text[: bisect_right(range(most), room, key=lambda size: len(json.dumps(text[: size + 1])))]

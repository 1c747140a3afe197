"""Audit records to syslog, from a thread of its own: a log host that hangs holds up no request."""

from __future__ import annotations

import atexit
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Mapping
from logging.handlers import SysLogHandler
from typing import Any, Final

__all__ = ["MAX_MESSAGE", "SyslogError", "SyslogSink", "finish_sending"]

logger = logging.getLogger("kes.audit")

MAX_WAITING: Final = 10_000
"""Records that may wait to be sent."""
_TIMEOUT: Final = 5.0
"""Seconds for connecting, and for sending a record."""
_LINGER: Final = 5.0
"""Seconds for sending what is left when a sink is closed."""
MAX_MESSAGE: Final = 2048
"""Bytes of a record: what every receiver has to take (RFC 5424, section 6.1). The path of a longer one is cut."""

_closing: Final[set[threading.Thread]] = set()
"""The threads of sinks that are closed and still send."""


class SyslogError(Exception):
    """The log can't be reached. The message names it and says why."""


class SyslogSink:
    """Sends each record as a message with the facility `auth` or another, severity `info`, and the name `kes`."""

    def __init__(self, address: str | tuple[str, int], facility: str = "auth", *, stream: bool = False) -> None:
        """Connect, which takes some seconds where nobody answers.

        Args:
            address: The path of a socket, or host and port.
            facility: One of syslog's names.
            stream: TCP instead of UDP; each record ends with a line feed (RFC 6587).

        Raises:
            SyslogError: The log can't be reached.
        """
        self._shown = address if isinstance(address, str) else ":".join(map(str, address))
        priority = SysLogHandler.facility_names[facility] << 3 | SysLogHandler.LOG_INFO
        self._start, self._end = f"<{priority}>kes: ", "\n" if stream else ""
        self._connection = _SyslogConnection(address, stream=stream)
        try:
            self._connection.open(time.monotonic() + _TIMEOUT)
        except OSError as error:
            raise SyslogError(f"syslog at {self._shown!r} can't be reached: {error.strerror or error}") from None
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lost = 0
        self._counting = threading.Lock()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="kes-syslog", daemon=True)
        self._thread.start()

    def audit(self, event: Mapping[str, Any]) -> None:
        if self._queue.qsize() < MAX_WAITING:
            self._queue.put(_message(event))
        elif self._lose(1) == 1:
            logger.error("syslog at %r is too slow: audit records are lost", self._shown)

    def close(self) -> None:
        """Take no more records. Those that wait are sent after that, for some seconds at the most: nobody is held up.

        `finish_sending` waits for it, and the process does at its end.
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
                self._lose(1)
                continue
            try:
                self._send(message)
            except OSError as error:
                self._lose(1)
                if not failing:
                    why = error.strerror or error
                    logger.error("syslog at %r can't be reached: %s; records are lost", self._shown, why)
                failing = True
                continue
            if (failing or self._lost) and self._queue.empty():
                logger.warning("syslog at %r takes records again; %d are lost", self._shown, self._take_lost())
                failing = False
        if lost := self._take_lost():
            logger.error("syslog at %r did not take the last audit records: %d are lost", self._shown, lost)

    def _send(self, message: str) -> None:
        deadline = time.monotonic() + _TIMEOUT
        if self._deadline is not None:
            deadline = min(deadline, self._deadline)
        self._connection.send((self._start + message + self._end).encode("ascii"), deadline)

    def _lose(self, count: int) -> int:
        """Count records that are lost; return how many are since it was last said."""
        with self._counting:
            self._lost += count
            return self._lost

    def _take_lost(self) -> int:
        with self._counting:
            lost, self._lost = self._lost, 0
            return lost


class _SyslogConnection:
    """To a log, and made anew after a failure. The library's handler has no time limit, and tells of no failure."""

    def __init__(self, address: str | tuple[str, int], *, stream: bool) -> None:
        self._address = address
        self._stream = stream
        self._socket: socket.socket | None = None

    def open(self, deadline: float) -> socket.socket:
        """Connect, where that means anything, until a time of the monotonic clock."""
        if isinstance(self._address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.settimeout(_left(deadline))
            try:
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
        elif self._stream:
            sock = socket.create_connection(self._address, timeout=_left(deadline))
        else:
            host, port = self._address
            family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
            sock = socket.socket(family, socket.SOCK_DGRAM)
        self._socket = sock
        return sock

    def send(self, data: bytes, deadline: float) -> None:
        """Send a message until a time of the monotonic clock.

        Raises:
            OSError: It could not be sent.
        """
        fresh = self._socket is None
        try:
            self._send(data, deadline)
        except OSError as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                raise
            # The log was started anew, most likely.
            try:
                self._send(data, deadline)
            except OSError:
                self.close()
                raise

    def _send(self, data: bytes, deadline: float) -> None:
        sock = self._socket or self.open(deadline)
        sock.settimeout(_left(deadline))
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


def _left(deadline: float) -> float:
    """Return the seconds until then, for a socket, to which 0 would mean something else."""
    return max(0.001, deadline - time.monotonic())


@atexit.register
def finish_sending() -> None:
    """Wait until the sinks that are closed have sent what they had, or have given up."""
    deadline = time.monotonic() + _LINGER + 1
    for thread in list(_closing):
        thread.join(max(0.0, deadline - time.monotonic()))


def _message(event: Mapping[str, Any]) -> str:
    text = json.dumps(event, separators=(",", ":"))
    if len(text) <= MAX_MESSAGE:
        return text
    path = event["request"]["path"]
    # As JSON each character takes up to twelve bytes.
    room = max(0, MAX_MESSAGE - (len(text) - len(json.dumps(path))) - 32) // 12
    shortened = {**event, "request": {**event["request"], "path": path[:room]}, "shortened": True}
    return json.dumps(shortened, separators=(",", ":"))

"""Audit records to syslog, from a thread of its own: a log host that hangs holds up no request."""

from __future__ import annotations

import json
import logging
import queue
import socket
import sys
import threading
from collections.abc import Mapping
from logging.handlers import SysLogHandler
from typing import Any, Final

__all__ = ["MAX_MESSAGE", "SyslogError", "SyslogSink"]

logger = logging.getLogger("kes.audit")

MAX_WAITING: Final = 10_000
"""Records that may wait to be sent."""
_CONNECT_TIMEOUT: Final = 5.0
MAX_MESSAGE: Final = 2048
"""Bytes of a record: what every receiver has to take (RFC 5424, section 6.1). The path of a longer one is cut."""


class SyslogError(Exception):
    """The log can't be reached. The message names it and says why."""


class SyslogSink:
    """Sends each record as a message with the facility `auth` or another, severity `info`, and the name `kes`."""

    def __init__(self, address: str | tuple[str, int], facility: str = "auth", *, stream: bool = False) -> None:
        """Connect.

        Args:
            address: The path of a socket, or host and port.
            facility: One of syslog's names.
            stream: TCP instead of UDP; each record ends with a line feed (RFC 6587).

        Raises:
            SyslogError: The log can't be reached.
        """
        self._shown = address if isinstance(address, str) else ":".join(map(str, address))
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        try:
            _look(address, stream=stream)
            self._handler = _Handler(address, facility, kind)
        except OSError as error:
            raise SyslogError(f"syslog at {self._shown!r} can't be reached: {error.strerror or error}") from None
        self._handler.ident = "kes: "
        self._handler.append_nul = False
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="kes-syslog", daemon=True)
        self._thread.start()

    def audit(self, event: Mapping[str, Any]) -> None:
        try:
            self._queue.put_nowait(_message(event))
        except queue.Full:
            if not self._lost:
                logger.error("syslog at %r is too slow: audit records are lost", self._shown)
            self._lost += 1

    def close(self) -> None:
        """Send what is left, for some seconds at the most, and disconnect."""
        try:
            self._queue.put(None, timeout=1)
            self._thread.join(5)
        except queue.Full:
            pass
        self._handler.close()

    def _run(self) -> None:
        failing = False
        while (message := self._queue.get()) is not None:
            try:
                self._handler.send_message(message + ("\n" if self._stream else ""))
            except OSError as error:
                if not failing:
                    logger.error("syslog at %r can't be reached: %s; records are lost", self._shown, error.strerror)
                failing = True
                self._lost += 1
                continue
            if (failing or self._lost) and self._queue.empty():
                logger.warning("syslog at %r takes records again; %d are lost", self._shown, self._lost)
                failing, self._lost = False, 0


class _Handler(SysLogHandler):
    """The library's, which has no way to send that tells of a failure."""

    socket: Any  # the library connects anew where there is none

    def __init__(self, address: str | tuple[str, int], facility: str, kind: int) -> None:
        number = SysLogHandler.facility_names[facility]
        super().__init__(address, number, kind)  # type: ignore[arg-type] # a kind of socket
        self._failure: BaseException | None = None

    def send_message(self, message: str) -> None:
        """Send a message.

        Raises:
            OSError: It could not be sent.
        """
        self._failure = None
        self.emit(logging.LogRecord("kes.audit", logging.INFO, "", 0, "%s", (message,), None))
        if isinstance(self._failure, OSError):
            raise self._failure

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 # the library's name
        self._failure = sys.exception()
        if not self.unixsocket:  # where it is a path the library does this itself
            self.close()
            self.socket = None


def _look(address: str | tuple[str, int], *, stream: bool) -> None:
    """See whether the log is there. The library does not tell for a path, and has no time limit for TCP."""
    if isinstance(address, str):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
    elif stream:
        socket.create_connection(address, timeout=_CONNECT_TIMEOUT).close()


def _message(event: Mapping[str, Any]) -> str:
    text = json.dumps(event, separators=(",", ":"))
    if len(text) <= MAX_MESSAGE:
        return text
    path = event["request"]["path"]
    # As JSON each character takes up to twelve bytes.
    room = max(0, MAX_MESSAGE - (len(text) - len(json.dumps(path))) - 32) // 12
    shortened = {**event, "request": {**event["request"], "path": path[:room]}, "shortened": True}
    return json.dumps(shortened, separators=(",", ":"))

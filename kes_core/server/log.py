"""The error log, on standard error: lines of JSON, or plain text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

from kes_core.faults import PLACES, places, watch

__all__ = ["publish", "set_level", "set_up"]

_OFF: Final = 9
"""The configuration's level that disables the log (Go's scale: debug -4, info 0, warn 4, error 8)."""


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool, worker: int | None = None) -> None:
        super().__init__()
        self._as_json = as_json
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not fit the format string
            message = f"a message of {record.name} can't be shown"
        trace = _error_places(record)
        if self._as_json:
            event: dict[str, object] = {"time": moment, "level": record.levelname, "logger": record.name}
            if self._worker is not None:
                event["worker"] = self._worker
            event["message"] = message
            if trace:
                event["traceback"] = trace
            return json.dumps(event, separators=(",", ":"))
        origin = f" [worker {self._worker}]" if self._worker is not None else ""
        return f"{moment} {record.levelname}{origin} {message}" + (f"\n{trace}" if trace else "")


def _error_places(record: logging.LogRecord) -> str:
    """Return the places in the code that an error passed through, without its text, which may contain a key.

    Only records of libraries have an exception: the server's own records have `PLACES`.
    """
    if record.exc_info and record.exc_info[1] is not None:
        return places(record.exc_info[1])
    return str(getattr(record, PLACES, ""))


def set_up(level: int, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Set up logging.

    Args:
        level: The lowest level to log, on the configuration's scale.
        stream: Where to log; standard error by default.
        worker: The number of this worker, if the server has several.
    """
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(as_json=not stream.isatty(), worker=worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Log only warnings of libraries: their other records may contain secrets that we pass to them.
    root.setLevel(logging.WARNING)
    set_level(level)
    watch(stream)


def publish(handler: logging.Handler) -> None:
    """Also send log records to `handler`, one line each."""
    handler.setFormatter(_Formatter(as_json=False))
    handler.setLevel(logging.getLogger().handlers[0].level)
    logging.getLogger().addHandler(handler)


def set_level(level: int) -> None:
    """Set the lowest level to log, on the configuration's scale."""
    # Convert Go's scale (4 between two levels) to Python's (10 between two levels).
    python_level = logging.INFO + round(level * 2.5) if level < _OFF else logging.CRITICAL + 1
    logging.getLogger("kes").setLevel(python_level)
    for handler in logging.getLogger().handlers:
        handler.setLevel(python_level)

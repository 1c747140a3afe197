"""The error log: structured lines on standard error. JSON for machines, plain text where a person looks."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

from kes_core.faults import PLACES, places, watch

__all__ = ["publish", "set_level", "set_up"]

_OFF: Final = 9
"""The configuration's level (Go's scale: debug -4, info 0, warn 4, error 8) from which on nothing is logged."""


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool, worker: int | None = None) -> None:
        super().__init__()
        self._as_json = as_json
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            message = record.getMessage()
        except Exception:  # the arguments, which nothing is known of, do not fit the text
            message = f"a message of {record.name} can't be shown"
        trace = _trace(record)
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


def _trace(record: logging.LogRecord) -> str:
    """Return where the error of a record came from, without its text: in a key server that may be a key.

    A record with an exception is a library's: the server's own have `PLACES`.
    """
    if record.exc_info and record.exc_info[1] is not None:
        return places(record.exc_info[1])
    return str(getattr(record, PLACES, ""))


def set_up(level: int, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Log to `stream` (standard error) from `level` of the configuration's scale on, as the worker of a number."""
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(as_json=not stream.isatty(), worker=worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries log what they are given, and some are given secrets: their warnings are enough.
    root.setLevel(logging.WARNING)
    set_level(level)
    watch(stream)


def publish(handler: logging.Handler) -> None:
    """Also hand what is logged to `handler`, a line a record."""
    handler.setFormatter(_Formatter(as_json=False))
    handler.setLevel(logging.getLogger().handlers[0].level)
    logging.getLogger().addHandler(handler)


def set_level(level: int) -> None:
    """Log from `level` of the configuration's scale on."""
    # From Go's scale, where 4 lie between two levels, to Python's, where 10 do.
    python_level = logging.INFO + round(level * 2.5) if level < _OFF else logging.CRITICAL + 1
    logging.getLogger("kes").setLevel(python_level)
    for handler in logging.getLogger().handlers:
        handler.setLevel(python_level)

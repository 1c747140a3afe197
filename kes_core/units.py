"""Times and durations, for machines and for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = [
    "format_date",
    "format_duration",
    "format_latency",
    "format_time",
    "format_uptime",
    "humanize",
    "parse_duration",
    "parse_time",
]

_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
"""The units, in nanoseconds."""
_NUMBER: Final = r"(?:\d+(?:\.\d*)?|\.\d+)"
_UNIT: Final = "|".join(_UNITS)
_PART: Final = re.compile(rf"({_NUMBER})({_UNIT})", re.ASCII)
_DURATION: Final = re.compile(rf"([+-]?)((?:{_NUMBER}(?:{_UNIT}))+)", re.ASCII)
_MAX: Final = 2**63
_MAX_LENGTH: Final = 100
"""The longest text of a duration, in characters. The longest that Go writes has 21."""
_AS_IN: Final = "as in 10s, 1m30s, 500ms or 168h"
_LARGE_UNITS: Final = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time; return it in UTC. Digits beyond the microsecond are dropped.

    Raises:
        ValueError: `text` is not an RFC 3339 time.
    """
    return datetime.fromisoformat(text).astimezone(UTC)


def format_time(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, with as many digits as it has: `2026-03-01T14:00:00.25Z`."""
    text = time.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"


def format_date(time: datetime) -> str:
    """Return a time for a message: `2026-03-01 14:00 UTC`."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def humanize(duration: timedelta) -> str:
    """Return a duration in its largest unit: `3 days`."""
    seconds = round(duration.total_seconds())
    for unit, length in _LARGE_UNITS:
        if count := seconds // length:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def format_uptime(duration: timedelta) -> str:
    """Return an uptime in the form `2d 3h 4m 5s`, from the first unit that is not 0."""
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    first = next((place for place, (number, _unit) in enumerate(units) if number), len(units) - 1)
    return " ".join(f"{number}{unit}" for number, unit in units[first:])


def format_latency(duration: timedelta) -> str:
    """Return a short duration in a suitable unit: `130 µs`, `2.5 ms`, `1.20 s`."""
    seconds = duration.total_seconds()
    if seconds * 1e3 < 1:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def parse_duration(text: str) -> float:
    """Return the length of a duration in seconds, zero or more.

    Raises:
        ValueError: `text` is not a duration. The message continues after the value: "is not a duration ...".
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"is not a duration, {_AS_IN}: it has more than {_MAX_LENGTH} characters")
    match = _DURATION.fullmatch(text)
    if match is None:
        if re.fullmatch(rf"[+-]?{_NUMBER}", text, re.ASCII):
            raise ValueError(f"is not a duration: a number needs a unit, {_AS_IN}")
        raise ValueError(f"is not a duration, {_AS_IN}; units are h, m, s, ms, us and ns")
    nanoseconds = sum(round(float(number) * _UNITS[unit]) for number, unit in _PART.findall(match.group(2)))
    if match.group(1) == "-" and nanoseconds:
        raise ValueError("is negative; a duration must be zero or more")
    if nanoseconds >= _MAX:
        raise ValueError("is too long; the longest duration is 2540400h")
    return nanoseconds / 10**9


def format_duration(seconds: float) -> str:
    """Return the text of a duration, in the largest unit that leaves no fraction."""
    nanoseconds = round(seconds * 10**9)
    if not nanoseconds:
        return "0s"
    for unit in ("h", "m", "s", "ms", "us"):
        if nanoseconds % _UNITS[unit] == 0:
            return f"{nanoseconds // _UNITS[unit]}{unit}"
    return f"{nanoseconds}ns"

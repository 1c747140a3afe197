"""Times and durations, for machines and for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["format_date", "format_latency", "format_time", "format_uptime", "humanize", "parse_time"]

_LARGE_UNITS: Final = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time, in UTC. Digits beyond the microsecond are cut off.

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
    """Return how long something has been running: `2d 3h 4m 5s`."""
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hours}h {minutes}m {seconds}s"


def format_latency(duration: timedelta) -> str:
    """Return a short duration in the unit that suits it: `130 µs`, `2.5 ms`, `1.20 s`."""
    seconds = duration.total_seconds()
    if seconds * 1e3 < 1:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"

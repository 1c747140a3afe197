"""How things look on a terminal: text from servers made harmless, colours where they are wanted, times for people."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable
from typing import Any, Final

import click

__all__ = ["clean", "colours", "moment", "print_facts", "span", "styled", "when"]

_UNITS: Final = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60))
_FIRST_YEAR: Final = 1970
"""What is older is Go's way to say that a time is not known."""


def clean(text: str) -> str:
    """Return `text` with everything that a terminal might obey, or not show as it is, written as an escape.

    Names, paths and messages come from servers, and what stands in their logs from anybody: they could move the
    cursor, change the window's title or show something else than they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def colours() -> bool:
    """Tell whether the person wants colours, and the terminal has them."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, **style: Any) -> str:
    """Return `text` in a style of `click.style`, if styles are wanted."""
    return click.style(text, **style) if colours() else text


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one under the other. A name that repeats is printed once."""
    rows = list(facts)
    width = max(len(name) for name, _value in rows)
    last = ""
    for name, value in rows:
        click.echo(f"{name if name != last else '':<{width}}  {value}".rstrip())
        last = name


def span(seconds: float) -> str:
    """Return a span of time in its largest unit: `3 days`."""
    for unit, length in _UNITS:
        count = int(seconds // length)
        if count:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return f"{int(seconds)} seconds" if int(seconds) != 1 else "1 second"


def moment(text: str) -> dt.datetime | None:
    """Return the local time that an RFC 3339 text stands for; nothing if that is not known."""
    try:
        found = dt.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
    return found if found.year >= _FIRST_YEAR else None


def when(text: str) -> str:
    """Return a time as people say it: `2026-03-01 14:00:00 CET (3 days ago)`."""
    found = moment(text)
    if found is None:
        return clean(text) if text and not text.startswith("0001-") else "-"
    away = (found - dt.datetime.now(dt.UTC)).total_seconds()
    told = f"in {span(away)}" if away >= 1 else f"{span(-away)} ago" if away <= -1 else "just now"
    return f"{found:%Y-%m-%d %H:%M:%S %Z} ({told})"

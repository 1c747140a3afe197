"""Output for people: harmless text, colours, times."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, Final

import click

from kes_core.units import humanize

__all__ = ["colours", "describe_time", "escape_control", "print_facts", "print_wrapped", "styled"]

_FIRST_YEAR: Final = 1970
"""Go writes the year 1 for an unknown time."""

_LEAST_WIDTH: Final = 40


def escape_control(text: str) -> str:
    """Return `text` with escapes for all characters that a terminal would interpret or hide.

    Names, paths and messages come from servers, and anyone can write into a server's log. Such text could move the
    cursor, change the window's title, or imitate other output.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def colours() -> bool:
    """Return whether the output may have colours: `--color` decides, or else the environment."""
    context = click.get_current_context(silent=True)
    if context is not None and context.color is not None:
        return context.color
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, **style: Any) -> str:
    """Return `text` in a style of `click.style`, if the output may have colours. click drops it in a pipe."""
    return click.style(text, **style) if colours() else text


def print_wrapped(text: str, start: str, *, indent: int) -> None:
    """Print `start` and then `text`. On a terminal, wrap the text between words; in a pipe, keep it on one line.

    Args:
        text: The text.
        start: What comes before it, perhaps in colours.
        indent: The visible width of `start`, by which the further lines are indented.
    """
    lines = [text]
    if sys.stdout is not None and sys.stdout.isatty():
        width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns) - indent
        # A path or a hash stays in one piece, so that it can be copied.
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [text]
    click.echo(start + f"\n{' ' * indent}".join(lines))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values below each other. A repeated name is printed once."""
    rows = list(facts)
    width = max(len(name) for name, _value in rows)
    last = ""
    for name, value in rows:
        click.echo(f"{name if name != last else '':<{width}}  {value}".rstrip())
        last = name


def describe_time(time: dt.datetime | None) -> str:
    """Return a time as `2026-03-01 14:00:00 CET (3 days ago)`, or `-` if it is unknown."""
    if time is None or time.year < _FIRST_YEAR:
        return "-"
    away = time - dt.datetime.now(dt.UTC)
    if away >= dt.timedelta(seconds=1):
        distance = f"in {humanize(away)}"
    elif away <= dt.timedelta(seconds=-1):
        distance = f"{humanize(-away)} ago"
    else:
        distance = "just now"
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z} ({distance})"

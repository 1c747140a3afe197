"""Durations as Go writes them: `1m30s`. Private."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["format_duration", "parse_duration"]

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
"""Characters of a duration at the most: Go's own longest has 21."""
_AS_IN: Final = "as in 10s, 1m30s, 500ms or 168h"


def parse_duration(text: str) -> float:
    """Return the seconds that a duration stands for; zero or more.

    Raises:
        ValueError: `text` is not a duration. The message goes on from the value: "is not a duration ...".
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

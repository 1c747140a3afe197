"""Durations as Go writes them: `1m30s`. Private."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_duration"]

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_NUMBER: Final = r"(?:\d+\.?\d*|\.\d+)"
_UNIT: Final = "|".join(_UNITS)
_PART: Final = re.compile(rf"({_NUMBER})({_UNIT})", re.ASCII)
_DURATION: Final = re.compile(rf"([+-]?)((?:{_NUMBER}(?:{_UNIT}))+)", re.ASCII)
_MAX_SECONDS: Final = 2**63 / 1e9
_AS_IN: Final = "as in 10s, 1m30s, 500ms or 168h"


def parse_duration(text: str) -> float:
    """Return the seconds that a duration stands for; zero or more.

    Raises:
        ValueError: It is none. The message goes on from the value: "is not a duration ...".
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        if re.fullmatch(rf"[+-]?{_NUMBER}", text, re.ASCII):
            raise ValueError(f"is not a duration: a number needs a unit, {_AS_IN}")
        raise ValueError(f"is not a duration, {_AS_IN}; units are h, m, s, ms, us and ns")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match.group(2)))
    if match.group(1) == "-" and seconds:
        raise ValueError("is negative; a duration must be zero or more")
    if seconds >= _MAX_SECONDS:
        raise ValueError("is too long; the longest duration is 2540400h")
    return seconds

"""The kinds of value that a configuration file has, each read from the text that stands there. Private.

The messages do not repeat the value: whoever reports them knows whether it may be shown.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, SecretStr, WithJsonSchema

__all__ = ["LOG_OFF", "Duration", "LogLevel", "OnOff", "Secret", "Switch"]

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
_PART: Final = re.compile(rf"({_NUMBER})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(rf"([+-]?)((?:{_NUMBER}(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)", re.ASCII)
_MAX_DURATION: Final = 2**63 / 1e9
_AS_IN: Final = "as in 10s, 1m30s, 500ms or 168h"


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        if re.fullmatch(rf"[+-]?{_NUMBER}", value, re.ASCII):
            raise ValueError(f"is not a duration: a number needs a unit, {_AS_IN}")
        raise ValueError(f"is not a duration, {_AS_IN}; units are h, m, s, ms, us and ns")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match.group(2)))
    if match.group(1) == "-" and seconds:
        raise ValueError("is negative; a duration must be zero or more")
    if seconds >= _MAX_DURATION:
        raise ValueError("is too long; the longest duration is 2540400h")
    return seconds


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "description": f"A duration, {_AS_IN}.", "examples": ["10s", "1m30s"]}),
]
"""A span of time as Go writes it; seconds as a number."""

_TRUTH: Final = dict.fromkeys(("on", "yes", "y", "true"), True) | dict.fromkeys(("off", "no", "n", "false"), False)


def _switch(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return _TRUTH[value.lower()]
    except KeyError:
        raise ValueError("is not a truth value; allowed: on, off, true, false, yes, no") from None


Switch = Annotated[
    bool,
    BeforeValidator(_switch),
    WithJsonSchema({"type": ["boolean", "string"], "enum": [True, False, "on", "off", "yes", "no"]}),
]
"""Something that is switched on or off."""


def _on_off(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    switches = {"on": True, "off": False, "": False}
    if value.lower() not in switches:
        raise ValueError("is not allowed here; allowed: on, off")
    return switches[value.lower()]


OnOff = Annotated[bool, BeforeValidator(_on_off), WithJsonSchema({"type": "string", "enum": ["on", "off"]})]
"""As `Switch`, with these two words only."""

LOG_OFF: Final = 9
_LEVELS: Final = {"debug": -4, "info": 0, "warn": 4, "error": 8, "on": 0, "off": LOG_OFF}
_LEVEL: Final = re.compile(r"(debug|info|warn|error)(?:\+(\d{1,3}))?|(on|off)|([+-]?\d{1,3})", re.ASCII)


def _log_level(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _LEVEL.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError("is not a log level; allowed: on, off, debug, info, warn, error, each of these four with +n")
    name, more, switch, number = match.groups()
    if number is not None:
        return int(number)
    return _LEVELS[switch or name] + int(more or 0)


LogLevel = Annotated[
    int,
    BeforeValidator(_log_level),
    WithJsonSchema({"type": "string", "examples": ["on", "off", "debug", "info", "warn", "error", "error+1"]}),
]
"""A log level on Go's scale: debug is -4, info 0, warn 4, error 8; from 9 on nothing is logged."""


class Secret(SecretStr):
    """Text that never shows itself: `get()` returns it."""

    def get(self) -> str:
        """Return the text."""
        return self.get_secret_value()

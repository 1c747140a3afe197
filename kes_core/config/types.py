"""The types of values in a configuration file, each parsed from the text in the file. Private.

The messages do not repeat the value, because only the caller knows whether it may be shown.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, NoReturn, Self

from pydantic import BeforeValidator, PlainSerializer, SecretStr, WithJsonSchema

from kes_core.units import format_duration, parse_duration

__all__ = ["LOG_OFF", "Duration", "LogLevel", "OnOff", "Secret", "Switch"]

_AS_IN: Final = "as in 10s, 1m30s, 500ms or 168h"


def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\+?((\d+\.?\d*|\.\d+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+$",
            "description": f"A duration, {_AS_IN}.",
            "examples": ["10s", "1m30s"],
        }
    ),
]
"""A duration in Go's format; the value is in seconds."""

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
    PlainSerializer(lambda value: "on" if value else "off", when_used="json"),
    WithJsonSchema({"enum": [True, False, "on", "off", "yes", "no", "true", "false", "y", "n"]}),
]
"""A switch: on or off."""


def _on_off(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    switches = {"on": True, "off": False, "": False}
    if value.lower() not in switches:
        raise ValueError("is not allowed here; allowed: on, off")
    return switches[value.lower()]


OnOff = Annotated[
    bool,
    BeforeValidator(_on_off),
    PlainSerializer(lambda value: "on" if value else "off", when_used="json"),
    WithJsonSchema({"enum": ["on", "off", "", True, False]}),
]
"""Like `Switch`, but only these two words are valid."""

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


def _level_text(value: int) -> str:
    if value >= LOG_OFF:
        return "off"
    names = {-4: "debug", 0: "info", 4: "warn", 8: "error"}
    return names.get(value, str(value))


LogLevel = Annotated[
    int,
    BeforeValidator(_log_level),
    PlainSerializer(_level_text, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["on", "off", "debug", "info", "warn", "error", "error+1"]}),
]
"""A log level on Go's scale: debug is -4, info 0, warn 4, error 8. From 9 on, nothing is logged."""


class Secret(SecretStr):
    """A text that only `get()` returns.

    It does not appear in `repr()`, `str()`, JSON or `vars()`, and can't be pickled. A copy is the same object.
    """

    # Not in the object's `__dict__`, where pydantic would put it and where many tools would show it.
    __slots__ = ("_text",)

    def __init__(self, secret_value: str) -> None:
        self._text = secret_value

    @property
    def _secret_value(self) -> str:  # type: ignore[override] # where pydantic's methods look for it
        return self._text

    def get(self) -> str:
        """Return the text."""
        return self._text

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret can't be pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled")

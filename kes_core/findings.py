"""The findings of `kes doctor`: facts about a configuration, and how to fix what is wrong.

The core and the key stores (`KeyStoreBackend.diagnose`) report their findings in the same form.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self

__all__ = ["Finding", "FindingLevel"]


class FindingLevel(enum.StrEnum):
    """The severity of a finding."""

    OK = "ok"
    """It works as intended."""
    NOTE = "note"
    """It works, but its behavior may surprise."""
    WARNING = "warning"
    """It works, but not in all cases or not for long, or it is probably not intended."""
    ERROR = "error"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. None of its texts may contain a secret.

    Create one with `Finding.ok(subject, message)`, or with `note`, `warning` or `error`, which also take a cure.
    """

    level: FindingLevel
    subject: str
    """What was checked, in a word or two: "certificate". The doctor shows the findings of one subject together."""
    message: str
    """What the check found, in one line."""
    cure: str = ""
    """How to fix it, in one line: preferably a command to paste."""

    @classmethod
    def ok(cls, subject: str, message: str) -> Self:
        return cls(FindingLevel.OK, subject, message)

    @classmethod
    def note(cls, subject: str, message: str, cure: str = "") -> Self:
        return cls(FindingLevel.NOTE, subject, message, cure)

    @classmethod
    def warning(cls, subject: str, message: str, cure: str = "") -> Self:
        return cls(FindingLevel.WARNING, subject, message, cure)

    @classmethod
    def error(cls, subject: str, message: str, cure: str = "") -> Self:
        return cls(FindingLevel.ERROR, subject, message, cure)

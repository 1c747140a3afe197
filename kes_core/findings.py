"""What `kes doctor` finds: facts about a configuration, and what to do about those that are wrong.

The core and the back ends of key stores (`KeyStoreBackend.diagnose`) tell what they find in the same form.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self

__all__ = ["Finding", "FindingLevel"]


class FindingLevel(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    """It is as it should be."""
    NOTE = "note"
    """It works, and somebody may be surprised by how."""
    WARNING = "warning"
    """It works, but not in all cases or not for long, or it is probably not what was meant."""
    ERROR = "error"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Neither text may hold a secret.

    `Finding.ok(subject, message)`, and `note`, `warning` and `error`, which also take a cure, make one of that level.
    """

    level: FindingLevel
    subject: str
    """What was looked at, in a word or two: "certificate". Findings of one subject are shown together."""
    message: str
    """What was found, in a line."""
    cure: str = ""
    """What to do about it, in a line: best a command to paste."""

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

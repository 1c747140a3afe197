"""The `key_id` of Kubernetes: the name of a key, the number of a version, and when the key was made.

The API server stores it with everything that it encrypts, and compares it with the current one to find what is
encrypted under an older version. It must not be used again by another key, so it has the time: a key that was deleted
and made again has another one.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final, NamedTuple

__all__ = ["KeyID"]

_FORM: Final = re.compile(
    r"([A-Za-z0-9_-]{1,80})/v([1-9][0-9]{0,3})/([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)",
    re.ASCII,
)


class KeyID(NamedTuple):
    """A version of a key. As text, at most 114 characters: `secrets/v2/2026-11-26T08:15:30.123456Z`."""

    name: str
    version: int
    created_at: str
    """When version 1 was made, to the microsecond."""

    @classmethod
    def of(cls, name: str, version: int, created_at: dt.datetime) -> KeyID:
        """Return the ID of a version of a key."""
        moment = created_at.astimezone(dt.UTC).replace(tzinfo=None)
        return cls(name, version, moment.isoformat(timespec="microseconds") + "Z")

    @classmethod
    def parse(cls, text: str) -> KeyID | None:
        """Return the parts of an ID; None if it is not one of this plugin."""
        match = _FORM.fullmatch(text)
        return cls(match[1], int(match[2]), match[3]) if match else None

    def __str__(self) -> str:
        return f"{self.name}/v{self.version}/{self.created_at}"

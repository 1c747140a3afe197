"""Names of keys, policies and identities, and listing patterns (protocol section 3)."""

import re
from typing import Final, NamedTuple

__all__ = [
    "MAX_ENTRY_LENGTH",
    "MAX_NAME_LENGTH",
    "NAME_RULE",
    "WRAPPING_KEY_PREFIX",
    "RevisionName",
    "is_hidden_entry",
    "is_valid_entry",
    "is_valid_name",
    "is_valid_pattern",
    "parse_revision_name",
    "parse_wrapping_key_name",
    "revision_name",
    "wrapping_key_name",
]

MAX_NAME_LENGTH: Final = 80
"""The longest name, in characters. All of them are ASCII, so in bytes too."""
MAX_ENTRY_LENGTH: Final = MAX_NAME_LENGTH + len("-r1000-0123456789abcdef-")
"""The longest name of an entry in a key store, in characters."""
WRAPPING_KEY_PREFIX: Final = "kes-wrapping-key-"
"""How the names of the entries of wrapping keys begin."""
NAME_RULE: Final = f"1 to {MAX_NAME_LENGTH} of A-Z a-z 0-9 - _, no - at either end"
"""The rule for valid names, for messages."""

_NAME: Final = re.compile(r"(?!_\Z)(?!-)[A-Za-z0-9_-]{1,80}(?<!-)", re.ASCII)
# The prefix in a pattern is the start of a name. It may end with a hyphen only before a `*`.
_PREFIX: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,79}\*", re.ASCII)
_REVISION: Final = re.compile(r"(.{1,80})-r([1-9][0-9]{0,3})-([0-9a-f]{16})-", re.ASCII)
_WRAPPING_KEY: Final = re.compile(WRAPPING_KEY_PREFIX + r"([0-9a-f]{64})-", re.ASCII)


class RevisionName(NamedTuple):
    """The parts of the name of a revision, an entry that adds something to a key."""

    key: str
    """The name of the key."""
    number: int
    first: str
    """The beginning of the fingerprint of the key's first entry, in hex."""


def is_valid_name(name: str) -> bool:
    """Tell whether `name` may be the name of a key, a policy or an identity."""
    return _NAME.fullmatch(name) is not None


def is_valid_pattern(pattern: str) -> bool:
    """Tell whether `pattern` may select names: a name, or the start of one and a final `*`; empty selects all."""
    return pattern in {"", "*"} or _NAME.fullmatch(pattern) is not None or _PREFIX.fullmatch(pattern) is not None


def revision_name(key: str, number: int, first: str) -> str:
    """Return the name of the entry of a revision. It ends in `-`, so it is the name of no key."""
    return f"{key}-r{number}-{first}-"


def parse_revision_name(name: str) -> RevisionName | None:
    """Return the parts of the name of a revision, or None if `name` is none."""
    match = _REVISION.fullmatch(name) if name.endswith("-") else None
    if match is None or not is_valid_name(match[1]):
        return None
    return RevisionName(match[1], int(match[2]), match[3])


def wrapping_key_name(key_id: str) -> str:
    """Return the name of the entry of a wrapping key. It ends in `-`, so it is the name of no key.

    `key_id` has 64 hex digits in lower case.
    """
    return f"{WRAPPING_KEY_PREFIX}{key_id}-"


def parse_wrapping_key_name(name: str) -> str | None:
    """Return the id of the wrapping key whose entry has this name, or None if `name` is none."""
    match = _WRAPPING_KEY.fullmatch(name)
    return match[1] if match is not None else None


def is_hidden_entry(name: str) -> bool:
    """Tell whether an entry is not the first one of a key: that of a revision or of a wrapping key."""
    return name.endswith("-") and (parse_revision_name(name) is not None or parse_wrapping_key_name(name) is not None)


def is_valid_entry(name: str) -> bool:
    """Tell whether `name` may be the name of an entry in a key store: of a key, a revision or a wrapping key."""
    return is_valid_name(name) or is_hidden_entry(name)

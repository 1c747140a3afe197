"""Keys with several versions or another state: what the entries of a key in the key store are together.

The first entry has the name of the key. Each rotation and each change of the state adds an entry, which says what it
adds and to which key: `revision_name`. No entry is ever changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from kes_core.keys.secret import HMACKey, KeyType, SecretKeys
from kes_core.keys.stored import (
    Condition,
    KeyVersion,
    Revision,
    StateChange,
    StoredKeyError,
    Timestamp,
    decode_later,
    fingerprint,
)
from kes_core.keystore import EntryNotFoundError, KeyStoreError, KeyStoreReason
from kes_core.names import parse_revision_name, revision_name

__all__ = [
    "MAX_REVISIONS",
    "Material",
    "RevisedKey",
    "StoredKey",
    "is_revision_of",
    "names_of_revisions",
    "next_state",
    "next_version",
    "read_key",
    "read_later_entries",
]

Get = Callable[[str], Awaitable[bytes]]
"""Reads an entry, as `KeyStore.get`."""
Later = KeyVersion | StateChange
"""What an entry behind the first one holds."""
Material = tuple[bytes, KeyType | None]
"""The 32 bytes of a given key, and its cipher; None: that of the key whose version it becomes."""

MAX_REVISIONS: Final = 9999
"""The most entries of a key: the number in the name of an entry has four digits."""

_SHOWN: Final = 8
"""How many bytes of a fingerprint are in the name of a revision."""
_MOST_AT_ONCE: Final = 32


class RevisedKey:
    """A key with entries behind its first one. To those who use a key it looks like a `KeyVersion`."""

    __slots__ = (
        *("condition", "created_at", "created_by", "first", "hmac_key", "key", "later", "state", "version", "versions"),
    )

    def __init__(self, first: bytes, oldest: KeyVersion, later: Sequence[Later]) -> None:
        """Put a key together.

        Args:
            first: The fingerprint of the first entry.
            oldest: Version 1.
            later: What the entries 2, 3, ... hold.
        """
        self.first = first
        self.later = tuple(later)
        self.versions = (oldest, *(entry for entry in later if isinstance(entry, KeyVersion)))
        self.version = len(self.versions)
        changes = (entry.condition for entry in reversed(later) if isinstance(entry, StateChange))
        self.condition = next(changes, oldest.condition)
        self.state = self.condition.state
        keys = [version.key for version in self.versions]
        self.key = SecretKeys(keys, self.condition.min_version) if self.version > 1 else oldest.key
        self.hmac_key: HMACKey | None = oldest.hmac_key
        """That of version 1: a message has the same code after a rotation."""
        self.created_at: Timestamp = oldest.created_at
        self.created_by = oldest.created_by

    def __repr__(self) -> str:
        return f"<RevisedKey {self.version} versions, {self.state.label}>"


StoredKey = KeyVersion | RevisedKey


async def read_key(get: Get, name: str, value: bytes, known: StoredKey | None = None) -> StoredKey:
    """Return the key whose first entry has the content `value`, with all that was added to it.

    Args:
        get: Reads entries.
        name: The name of the key.
        value: The content of its first entry.
        known: What was read earlier. Of a key that is still the same, only the last entry is read again.

    Raises:
        StoredKeyError: An entry is not what its name says.
        KeyStoreError: The store fails.
    """
    first = fingerprint(value)
    oldest = replace(KeyVersion.decode(value), revision=None)
    if isinstance(known, RevisedKey) and known.first == first:
        later = await _read_on(get, name, first, known.later[:-1], at_once=2)
    else:
        later = await _read_on(get, name, first, (), may_be_forbidden=True)
    return RevisedKey(first, oldest, later) if later else oldest


async def read_later_entries(get: Get, name: str, first: bytes, known: StoredKey) -> StoredKey:
    """Return the key that `known` is, with what was added to it since. Reads one entry if that is nothing.

    Raises:
        StoredKeyError: An entry is not what its name says.
        KeyStoreError: The store fails.
    """
    later = await _read_on(get, name, first, known.later)
    return known if len(later) == len(known.later) else RevisedKey(first, known.versions[0], later)


async def _read_on(
    get: Get, name: str, first: bytes, known: Sequence[Later], *, at_once: int = 1, may_be_forbidden: bool = False
) -> Sequence[Later]:
    """Read entries until one is missing: one, then two, four, ... at once, because a key may have many."""
    found = list(known)
    versions = 1 + sum(isinstance(entry, KeyVersion) for entry in found)
    while len(found) + 1 < MAX_REVISIONS:
        start = len(found) + 2
        for entry in await _read_all(get, name, first, range(start, min(start + at_once, MAX_REVISIONS + 1))):
            if entry is None or (may_be_forbidden and not found and _is_forbidden(entry)):
                return found
            if isinstance(entry, BaseException):
                raise entry
            versions += isinstance(entry, KeyVersion)
            if entry.revision != (len(found) + 2, versions, first):
                raise StoredKeyError(f"entry {len(found) + 2} is another one, or belongs to another key")
            found.append(entry)
        at_once = min(at_once * 2, _MOST_AT_ONCE)
    return found


async def _read_all(
    get: Get, name: str, first: bytes, numbers: Sequence[int]
) -> Sequence[Later | BaseException | None]:
    reads = [_read(get, name, first, number) for number in numbers]
    if len(reads) > 1:
        return await asyncio.gather(*reads, return_exceptions=True)
    try:
        return [await reads[0]]
    except (KeyStoreError, StoredKeyError) as error:
        return [error]


def _is_forbidden(result: Later | BaseException) -> bool:
    """Tell whether the store permits to read keys by name and did not permit the name of this version.

    Then nobody who uses such a policy has rotated keys, so this key has one version. The store's error is in the log.
    """
    return isinstance(result, KeyStoreError) and result.reason is KeyStoreReason.FORBIDDEN


async def _read(get: Get, name: str, first: bytes, number: int) -> Later | None:
    try:
        value = await get(revision_name(name, number, first[:_SHOWN].hex()))
    except EntryNotFoundError:
        return None
    try:
        return decode_later(value)
    except StoredKeyError as error:
        raise StoredKeyError(f"entry {number}: {error}") from None


def next_version(
    name: str, first: bytes, key: StoredKey, created_by: str, material: Material | None = None
) -> tuple[str, KeyVersion]:
    """Make the next version of a key: return the name of its entry, and the version.

    `first` is the fingerprint of the key's first entry. Without material, the version is random, of the key's cipher.
    """
    number = len(key.later) + 2
    if material is None:
        made = KeyVersion.generate(created_by, key.key.type)
    else:
        made = KeyVersion.imported(material[0], material[1] or key.key.type, created_by)
    return revision_name(name, number, first[:_SHOWN].hex()), made.at(Revision(number, key.version + 1, first))


def next_state(
    name: str, first: bytes, key: StoredKey, condition: Condition, created_by: str
) -> tuple[str, StateChange]:
    """Make the entry that changes the condition of a key; otherwise as `next_version`."""
    number = len(key.later) + 2
    revision = Revision(number, key.version, first)
    change = StateChange(condition.state, Timestamp.now(), created_by, revision, *condition[1:])
    return revision_name(name, number, first[:_SHOWN].hex()), change


def is_revision_of(entry: str, first: bytes) -> bool:
    """Tell whether the entry of this name belongs to the key whose first entry has the fingerprint `first`."""
    parts = parse_revision_name(entry)
    return parts is not None and parts.first == first[:_SHOWN].hex()


async def names_of_revisions(get: Get, name: str, first: bytes) -> list[str]:
    """Return the names of the entries that follow the first one, whatever they hold.

    Raises:
        KeyStoreError: The store fails.
    """
    names: list[str] = []
    while len(names) + 1 < MAX_REVISIONS:
        entry = revision_name(name, len(names) + 2, first[:_SHOWN].hex())
        try:
            await get(entry)
        except EntryNotFoundError:
            break
        except KeyStoreError as error:
            if error.reason is not None:
                raise
            # Only this entry can't be read: it is there.
        names.append(entry)
    return names

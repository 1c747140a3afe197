"""Keys with several versions: what the entries of a key in the key store are together.

The first entry has the name of the key. Each rotation adds an entry that says which version it is, and of which key:
`revision_name`. No entry is ever changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from kes_core.keys.secret import MAX_VERSIONS, HMACKey, SecretKeys
from kes_core.keys.stored import KeyVersion, Revision, StoredKeyError, Timestamp, fingerprint
from kes_core.keystore import EntryNotFoundError, KeyStoreError, KeyStoreReason
from kes_core.names import parse_revision_name, revision_name

__all__ = [
    "RotatedKey",
    "StoredKey",
    "is_revision_of",
    "names_of_revisions",
    "next_revision",
    "read_key",
    "read_later_versions",
]

Get = Callable[[str], Awaitable[bytes]]
"""Reads an entry, as `KeyStore.get`."""

_SHOWN: Final = 8
"""How many bytes of a fingerprint are in the name of a revision."""
_MOST_AT_ONCE: Final = 32


class RotatedKey:
    """A key with at least two versions. To those who use a key it looks like a `KeyVersion`."""

    __slots__ = ("created_at", "created_by", "first", "hmac_key", "key", "version", "versions")

    def __init__(self, first: bytes, versions: Sequence[KeyVersion]) -> None:
        """Put the versions 1, 2, ... of a key together. `first` is the fingerprint of the first entry."""
        oldest = versions[0]
        self.first = first
        self.versions = tuple(versions)
        self.version = len(versions)
        self.key = SecretKeys([version.key for version in versions])
        self.hmac_key: HMACKey | None = oldest.hmac_key
        """That of version 1: a message has the same code after a rotation."""
        self.created_at: Timestamp = oldest.created_at
        self.created_by = oldest.created_by

    def __repr__(self) -> str:
        return f"<RotatedKey {self.version} versions>"


StoredKey = KeyVersion | RotatedKey


async def read_key(get: Get, name: str, value: bytes, known: StoredKey | None = None) -> StoredKey:
    """Return the key whose first entry has the content `value`, with all its versions.

    Args:
        get: Reads entries.
        name: The name of the key.
        value: The content of its first entry.
        known: What was read earlier. Of a key that is still the same, only the newest version is read again.

    Raises:
        StoredKeyError: An entry is not what its name says.
        KeyStoreError: The store fails.
    """
    first = fingerprint(value)
    versions: Sequence[KeyVersion] = [replace(KeyVersion.decode(value), revision=None)]
    if isinstance(known, RotatedKey) and known.first == first:
        return await _read_on(get, name, first, known.versions[:-1], at_once=2)
    return await _read_on(get, name, first, versions)


async def read_later_versions(get: Get, name: str, first: bytes, known: StoredKey) -> StoredKey:
    """Return the key that `known` is, with the versions that were added to it since. Reads one entry if there is none.

    Raises:
        StoredKeyError: An entry is not what its name says.
        KeyStoreError: The store fails.
    """
    return await _read_on(get, name, first, known.versions, known)


async def _read_on(
    get: Get,
    name: str,
    first: bytes,
    versions: Sequence[KeyVersion],
    known: StoredKey | None = None,
    *,
    at_once: int = 1,
) -> StoredKey:
    """Read versions until one is missing: one, then two, four, ... at once, because a rotated key may have many."""
    found = list(versions)
    is_complete = False
    while not is_complete and len(found) < MAX_VERSIONS:
        numbers = range(len(found) + 1, min(len(found) + at_once, MAX_VERSIONS) + 1)
        for version in await _read_all(get, name, first, numbers):
            if version is None or (len(found) == 1 and known is None and _is_forbidden(version)):
                is_complete = True
                break
            if isinstance(version, BaseException):
                raise version
            found.append(version)
        at_once = min(at_once * 2, _MOST_AT_ONCE)
    if known is not None and len(found) == len(known.versions):
        return known
    return RotatedKey(first, found) if len(found) > 1 else found[0]


async def _read_all(
    get: Get, name: str, first: bytes, numbers: Sequence[int]
) -> Sequence[KeyVersion | BaseException | None]:
    reads = [_read(get, name, first, number) for number in numbers]
    if len(reads) > 1:
        return await asyncio.gather(*reads, return_exceptions=True)
    try:
        return [await reads[0]]
    except (KeyStoreError, StoredKeyError) as error:
        return [error]


def _is_forbidden(result: KeyVersion | BaseException) -> bool:
    """Tell whether the store permits to read keys by name and did not permit the name of this version.

    Then nobody who uses such a policy has rotated keys, so this key has one version. The store's error is in the log.
    """
    return isinstance(result, KeyStoreError) and result.reason is KeyStoreReason.FORBIDDEN


async def _read(get: Get, name: str, first: bytes, number: int) -> KeyVersion | None:
    entry = revision_name(name, number, first[:_SHOWN].hex())
    try:
        value = await get(entry)
    except EntryNotFoundError:
        return None
    try:
        version = KeyVersion.decode(value)
    except StoredKeyError as error:
        raise StoredKeyError(f"version {number}: {error}") from None
    if version.revision != (number, number, first):
        raise StoredKeyError(f"version {number}: the entry {entry!r} is another version, or belongs to another key")
    return version


def next_revision(name: str, first: bytes, key: StoredKey, created_by: str) -> tuple[str, KeyVersion]:
    """Make the next version of a key: return the name of its entry, and the version. Its cipher stays that of the key.

    `first` is the fingerprint of the key's first entry.
    """
    number = key.version + 1
    version = KeyVersion.generate(created_by, key.key.type).at(Revision(number, number, first))
    return revision_name(name, number, first[:_SHOWN].hex()), version


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
    while len(names) < MAX_VERSIONS:
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

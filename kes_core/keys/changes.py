"""How keys are created, rotated and deleted in a key store, so that no crash and no other server can spoil one."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kes_core.keys.secret import MAX_VERSIONS
from kes_core.keys.stored import Condition, KeyState, KeyVersion, StateChange, StoredKeyError, decode_later, fingerprint
from kes_core.keys.versions import (
    MAX_REVISIONS,
    Material,
    StoredKey,
    is_revision_of,
    names_of_revisions,
    next_state,
    next_version,
    read_key,
)
from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStoreError, KeyStoreReason
from kes_core.protocol import KEY_DELETING, KEY_SCHEDULED

if TYPE_CHECKING:
    from kes_core.keys.watched import WatchedStore

__all__ = [
    "KeyDoomedError",
    "NoSuchVersionError",
    "RotationConflictError",
    "SameMaterialError",
    "TooManyChangesError",
    "TooManyVersionsError",
    "change_condition",
    "create_entry",
    "damaged",
    "delete_entries",
    "delete_key",
    "rotate_key",
    "with_min_version",
    "with_state",
]

logger = logging.getLogger("kes.keystore")

_HIDDEN_TIME: Final = 5.0
"""Seconds to wait for an entry that the store says exists, and does not return."""


class RotationConflictError(Exception):
    """Another server rotated the key at the same moment."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} of the key was just created by another rotation")
        self.version = version


class KeyDoomedError(Exception):
    """The key is to be deleted, so it can't be changed."""

    def __init__(self, state: KeyState) -> None:
        _status, text = KEY_DELETING if state is KeyState.DELETING else KEY_SCHEDULED
        super().__init__(text)


class NoSuchVersionError(Exception):
    """The key has no version of this number."""

    def __init__(self, version: int, newest: int) -> None:
        super().__init__(f"the key has no version {version}: its newest one is {newest}")


class SameMaterialError(Exception):
    """The key has a version with the material that is to be added."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} of the key has this key material already")


class TooManyVersionsError(Exception):
    """The key has as many versions as a key can have."""

    def __init__(self) -> None:
        super().__init__(f"the key has {MAX_VERSIONS} versions, which is the most")


class TooManyChangesError(Exception):
    """The key has as many entries as a key can have."""

    def __init__(self) -> None:
        super().__init__("the key was changed too often")


def damaged(name: str, error: StoredKeyError) -> KeyStoreError:
    """Return the error for an entry that holds no key."""
    return KeyStoreError(f"the entry {name!r} in the key store is damaged: {error}")


async def create_entry(store: WatchedStore, name: str, value: bytes) -> None:
    """Create an entry, and verify that the store returns it: what is encrypted under a lost key would be lost too.

    Raises:
        EntryExistsError: The name is taken.
        KeyStoreError: The store fails, or does not return the entry.
    """
    await store.create(name, value)
    if not hmac.compare_digest(await _read_new(store, name), value):
        raise _lost(name)


async def _read_new(store: WatchedStore, name: str) -> bytes:
    """Read an entry that was just created, as soon as the store can return it. Empty if it does not."""
    ends, pause = time.monotonic() + store.late, 0.05
    while True:
        try:
            return await store.get(name)
        except EntryNotFoundError:
            if time.monotonic() + pause > ends:
                return b""
        await asyncio.sleep(pause)
        pause *= 2


async def rotate_key(
    store: WatchedStore, name: str, created_by: str, if_older_than: float = 0.0, *, material: Material | None = None
) -> tuple[KeyVersion, bool]:
    """Add a version to a key. Of several servers that rotate a key at once, one succeeds for each version.

    Args:
        store: Holds the key.
        name: The name of the key.
        created_by: The identity that asks for it.
        if_older_than: Leave the key as it is if its newest version is younger, in seconds.
        material: What becomes the new version, instead of a random key.

    Returns:
        The new version and True, or the newest version and False.

    Raises:
        EntryNotFoundError: There is no such key, or it was deleted meanwhile.
        KeyDoomedError: The deletion of the key is scheduled.
        RotationConflictError: Another server was faster.
        SameMaterialError: A version of the key has the material already.
        TooManyVersionsError: The key has too many versions.
        KeyStoreError: The store fails.
    """
    value = await store.get(name)
    key = await _decode(store, name, value)
    if _is_younger(key, if_older_than):
        return key.versions[-1], False
    if key.condition.is_doomed:
        raise KeyDoomedError(key.state)
    if key.version >= MAX_VERSIONS:
        raise TooManyVersionsError
    if len(key.later) + 1 >= MAX_REVISIONS:
        raise TooManyChangesError
    first = fingerprint(value)
    entry, version = next_version(name, first, key, created_by, material)
    if material is not None:
        for known in key.versions:
            if known.key == version.key:
                raise SameMaterialError(known.version)
    try:
        await _add(store, name, value, entry, version)
    except EntryExistsError:
        with contextlib.suppress(EntryNotFoundError):
            await store.get(entry)  # if the server may not read it, trying again would not help
        key = await _decode(store, name, value)
        if _is_younger(key, if_older_than):
            return key.versions[-1], False  # which is what the client wants
        raise RotationConflictError(version.version) from None
    return version, True


def with_state(state: KeyState) -> Callable[[StoredKey], Condition]:
    """Return the change that gives a key a state. It raises `KeyDoomedError` if the key is to be deleted."""

    def change(key: StoredKey) -> Condition:
        if key.condition.is_doomed:
            raise KeyDoomedError(key.state)
        return key.condition._replace(state=state)

    return change


def with_min_version(version: int) -> Callable[[StoredKey], Condition]:
    """Return the change that makes a version the oldest one that decrypts.

    The change raises `NoSuchVersionError`, and `KeyDoomedError` if the key is to be deleted.
    """

    def change(key: StoredKey) -> Condition:
        if key.condition.is_doomed:
            raise KeyDoomedError(key.state)
        if not 1 <= version <= key.version:
            raise NoSuchVersionError(version, key.version)
        return key.condition._replace(min_version=version)

    return change


async def change_condition(
    store: WatchedStore, name: str, change: Callable[[StoredKey], Condition], created_by: str
) -> Condition:
    """Change what a key may be used for; nothing if that is so already. If other servers change the key, try again.

    Args:
        store: Holds the key.
        name: The name of the key.
        change: Returns the new condition of the key as it is in the store. What it raises ends the change.
        created_by: The identity that asks for it.

    Returns:
        The new condition.

    Raises:
        EntryNotFoundError: There is no such key, or it was deleted meanwhile.
        TooManyChangesError: The key has too many entries.
        KeyStoreError: The store fails.
    """
    ends, pause = time.monotonic() + _HIDDEN_TIME, 0.05
    while True:
        value = await store.get(name)
        key = await _decode(store, name, value)
        condition = change(key)
        if condition == key.condition:
            return condition
        if len(key.later) + 1 >= MAX_REVISIONS:
            raise TooManyChangesError
        entry, content = next_state(name, fingerprint(value), key, condition, created_by)
        try:
            await _add(store, name, value, entry, content)
        except EntryExistsError:
            pass
        else:
            return condition
        try:
            await store.get(entry)  # fails if the server may not read it: trying again would never end
        except EntryNotFoundError:
            if time.monotonic() + pause > ends:
                raise KeyStoreError(f"the key store says that {entry!r} exists, but does not return it") from None
            await asyncio.sleep(pause)
            pause *= 2


async def _add(store: WatchedStore, name: str, value: bytes, entry: str, content: KeyVersion | StateChange) -> None:
    """Add an entry to the key whose first entry has the content `value`, and verify it.

    Raises:
        EntryExistsError: Another server was faster.
        EntryNotFoundError: The key was deleted meanwhile.
        KeyStoreError: The store fails, or does not return the entry.
    """
    await store.create(entry, content.encode())
    await _verify(store, entry, content)
    # A deletion that began earlier may not have seen the new entry: then it would stay forever.
    try:
        stored = await store.get(name)
    except EntryNotFoundError:
        stored = b""
    if not hmac.compare_digest(stored, value):
        await store.delete(entry)
        raise EntryNotFoundError(f"key {name!r} does not exist")


async def _verify(store: WatchedStore, entry: str, content: KeyVersion | StateChange) -> None:
    """Verify that the store returns a new entry. If it holds garbage, remove that: it would make the key unusable."""
    stored = await _read_new(store, entry)
    if hmac.compare_digest(stored, content.encode()):
        return
    try:
        is_entry = decode_later(stored).revision.number == content.revision.number  # type: ignore[union-attr] # both have
    except StoredKeyError:
        is_entry = False
    if is_entry:  # of another server: the store has no check-and-set
        raise EntryExistsError(f"entry {entry!r} already exists")
    if stored:
        await store.delete(entry)
    raise _lost(entry)


def _lost(name: str) -> KeyStoreError:
    return KeyStoreError(f"the key store accepted the key {name!r}, but does not return it")


async def _decode(store: WatchedStore, name: str, value: bytes) -> StoredKey:
    try:
        return await read_key(store.get, name, value)
    except StoredKeyError as error:
        raise damaged(name, error) from None


def _is_younger(key: StoredKey, seconds: float) -> bool:
    return bool(seconds) and time.time() - key.versions[-1].created_at.seconds < seconds


async def delete_key(store: WatchedStore, name: str) -> None:
    """Delete a key: its first entry, and then all later ones.

    After the first step no server can use the key. A deletion that fails later is completed by the next one.

    Raises:
        EntryNotFoundError: The store has no key of this name, and nothing is left of a former one.
        KeyStoreError: The store fails.
    """
    revisions, is_known = await _revisions(store, name)
    try:
        await store.delete(name)
    except EntryNotFoundError:
        left = revisions or await _orphans(store, name)
        await delete_entries(store, left)
        if not left:
            raise
        return
    await delete_entries(store, revisions if is_known else await _orphans(store, name))


async def _revisions(store: WatchedStore, name: str) -> tuple[list[str], bool]:
    """Return the names of the entries behind the first one, and whether they are known: the store may not give it."""
    try:
        first = fingerprint(await store.get(name))
        return await names_of_revisions(store.get, name, first), True
    except EntryNotFoundError:
        return [], False
    except KeyStoreError as error:
        if error.reason is not None and error.reason is not KeyStoreReason.FORBIDDEN:
            raise
        logger.warning("key %r is deleted although its entry can't be read (%s)", name, error)
        return [], False


async def delete_entries(store: WatchedStore, entries: list[str]) -> None:
    """Delete entries, the last one first. Those that are gone already are no error.

    Raises:
        KeyStoreError: The store fails.
    """
    for entry in reversed(entries):  # the last one first: what a crash leaves has no gaps
        try:
            await store.delete(entry)
        except EntryNotFoundError:
            continue  # by another server that deletes the key too


async def _orphans(store: WatchedStore, name: str) -> list[str]:
    """Return the names of entries that are left of former keys of this name, without those of a key that exists."""
    try:
        entries = await store.list_revisions(name)
        if not entries:
            return []
        first = fingerprint(await store.get(name))
    except EntryNotFoundError:
        return entries
    except KeyStoreError as error:
        if error.reason is not KeyStoreReason.FORBIDDEN:
            raise
        return []
    return [entry for entry in entries if not is_revision_of(entry, first)]

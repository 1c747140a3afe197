"""The scheduled deletion of keys: how it is planned, cancelled, found in the key store, and carried out by one server.

A key that is to be deleted has an entry that says when (`StateChange`). After that time, the server that adds the next
entry, which says that the deletion has begun, deletes the key. No other server adds that entry, so no other one deletes
the key, and none deletes a new key of the same name.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from kes_core.keys.changes import KeyDoomedError, change_condition, delete_entries
from kes_core.keys.stored import Condition, KeyState, StateChange, StoredKeyError, decode_later, fingerprint
from kes_core.keys.versions import StoredKey, names_of_revisions
from kes_core.keys.watched import WatchedStore
from kes_core.keystore import EntryNotFoundError, KeyStoreError
from kes_core.names import RevisionName, parse_revision_name, revision_name

__all__ = ["LEASE", "DeletionSchedule", "ScheduledDeletion", "delete_due", "planned", "restored"]

LEASE: Final = 600
"""Seconds that a server has to delete a key. Then another one may take over."""


def planned(delete_at: int) -> Callable[[StoredKey], Condition]:
    """Return the change that schedules the deletion of a key, at a time in seconds since 1970.

    The change raises `KeyDoomedError` if the deletion has begun.
    """

    def change(key: StoredKey) -> Condition:
        _check_not_begun(key)
        return key.condition._replace(state=KeyState.SCHEDULED_FOR_DELETION, delete_at=delete_at)

    return change


def restored(key: StoredKey) -> Condition:
    """Return the condition that a key had before its deletion was scheduled. A key that is not scheduled keeps its own.

    Raises:
        KeyDoomedError: The deletion has begun.
    """
    _check_not_begun(key)
    changes = (entry.condition for entry in reversed(key.later) if isinstance(entry, StateChange))
    return next((condition for condition in changes if not condition.is_doomed), Condition())


def _check_not_begun(key: StoredKey) -> None:
    if key.state is KeyState.DELETING:
        raise KeyDoomedError(key.state)


class ScheduledDeletion(NamedTuple):
    """A key that is to be deleted."""

    key: str
    first: str
    """The beginning of the fingerprint of its first entry, in hex."""
    condition: Condition
    asked_by: str
    """The identity that scheduled the deletion."""


class DeletionSchedule:
    """Finds the keys of a store that are to be deleted.

    It lists the store each time, and reads the last entry of each key that has more than one. Entries never change, so
    it reads each of them once.
    """

    def __init__(self) -> None:
        self._known: dict[str, ScheduledDeletion | None] = {}
        """What the last entries say, by their names."""

    async def read(self, store: WatchedStore) -> list[ScheduledDeletion]:
        """Return the keys that are to be deleted, and the deleted ones of which a crash has left something.

        Raises:
            KeyStoreError: The store fails.
        """
        last: dict[tuple[str, str], RevisionName] = {}
        async for name in store.all_names():
            parts = parse_revision_name(name)
            if parts is not None:
                other = last.get((parts.key, parts.first))
                if other is None or other.number < parts.number:
                    last[parts.key, parts.first] = parts
        known: dict[str, ScheduledDeletion | None] = {}
        for parts in last.values():
            entry = revision_name(*parts)
            known[entry] = self._known[entry] if entry in self._known else await _read(store, entry, parts)
        self._known = known
        return [found for found in known.values() if found is not None]


async def _read(store: WatchedStore, entry: str, parts: RevisionName) -> ScheduledDeletion | None:
    """Return what the last entry of a key says of its deletion."""
    try:
        content = decode_later(await store.get(entry))
    except (EntryNotFoundError, StoredKeyError):
        return None  # deleted meanwhile; or damaged, which the use of the key shows
    except KeyStoreError as error:
        if error.reason is not None:
            raise
        return None  # only this entry can't be read, which the use of the key shows
    if not isinstance(content, StateChange) or not content.condition.is_doomed:
        return None
    return ScheduledDeletion(parts.key, parts.first, content.condition, content.created_by)


class _NotDueError(Exception):
    """The key is not to be deleted now, or another server deletes it."""


async def delete_due(store: WatchedStore, *, found: ScheduledDeletion) -> bool:
    """Delete a key whose time has come, or what a server that died has left of it.

    Returns:
        Whether this call deleted the key. If not, another server does, or somebody has cancelled the deletion.

    Raises:
        KeyStoreError: The store fails. The deletion becomes due again after `LEASE`.
    """
    try:
        value = await store.get(found.key)
    except EntryNotFoundError:
        value = b""
    first = fingerprint(value)
    if first.hex()[: len(found.first)] != found.first:
        await _delete_rest(store, found)
        return False
    began = time.monotonic()
    try:
        await change_condition(store, found.key, _begun, found.asked_by)
    except (_NotDueError, EntryNotFoundError):
        return False
    entries = await names_of_revisions(store.get, found.key, first)
    # A client may have deleted the key meanwhile, and created another one.
    try:
        is_same = hmac.compare_digest(await store.get(found.key), value)
    except EntryNotFoundError:
        return False
    if not is_same or time.monotonic() - began > LEASE / 2:
        return False
    await store.delete(found.key)
    # The entry that says so is deleted last: it lets another server continue.
    await delete_entries(store, [*entries[-1:], *entries[:-1]])
    return True


def _begun(key: StoredKey) -> Condition:
    now = time.time()
    if not key.condition.is_doomed or key.condition.delete_at > now:
        raise _NotDueError
    return key.condition._replace(state=KeyState.DELETING, delete_at=int(now) + LEASE)


async def _delete_rest(store: WatchedStore, found: ScheduledDeletion) -> None:
    """Continue a deletion whose first step is done. A key that is only scheduled may be one that is being copied."""
    if found.condition.state is not KeyState.DELETING:
        return
    names = ((name, parse_revision_name(name)) for name in await store.list_revisions(found.key))
    own = sorted((parts.number, name) for name, parts in names if parts is not None and parts.first == found.first)
    entries = [name for _number, name in own]
    await delete_entries(store, [*entries[-1:], *entries[:-1]])

"""Check the keys of a key store: what is left of deleted keys, damaged keys, and keys to be rotated or deleted.

And expired wrapping keys.

This reads keys, so it logs in to the store as the server does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kes_core.boundary import Surroundings, connect_store
from kes_core.findings import Finding
from kes_core.keys.stored import StoredKeyError, Timestamp, fingerprint
from kes_core.keys.versions import is_revision_of, read_key
from kes_core.keys.wrapping_keys import StoredWrappingKey
from kes_core.keystore import EntryNotFoundError, KeyStore, KeyStoreError
from kes_core.names import is_valid_name, parse_revision_name, parse_wrapping_key_name

if TYPE_CHECKING:
    from kes_core.config import KeyStoreChoice

__all__ = ["examine_keys"]

MAX_AGE: Final = 365 * 86400
"""The age of a key's newest version that is worth a note, in seconds."""
_MANY: Final = 10_000
"""The most entries that are looked at."""
_SUBJECT: Final = "keys"
_SHOWN: Final = 5


async def examine_keys(choice: KeyStoreChoice) -> Sequence[Finding]:
    """Check the first 10,000 entries of a key store.

    Raises:
        KeyStoreError: The store can't be used.
    """
    context = Surroundings().context("keystore", choice.backend, choice.directory)
    store = await connect_store(choice.backend, choice.config, context)
    try:
        names, is_complete = await _names(store)
        findings = [*await _orphans(store, names), *await _keys(store, names), *await _wrapping_keys(store, names)]
    finally:
        await store.close()
    if not is_complete:
        findings.append(Finding.note(_SUBJECT, f"only the first {_MANY} entries were looked at"))
    return findings


async def _names(store: KeyStore) -> tuple[Sequence[str], bool]:
    names: list[str] = []
    start = ""
    while len(names) < _MANY:
        page = await store.list(start=start)
        names += page.names
        start = page.next
        if not start:
            return names, True
    return names[:_MANY], False


async def _orphans(store: KeyStore, names: Sequence[str]) -> Sequence[Finding]:
    """Find entries of versions whose key is gone. They open what the deleted key has encrypted."""
    entries: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = parse_revision_name(name)
        if parts is not None:
            entries[parts.key].append(name)
    findings = []
    for key, versions in entries.items():
        try:
            first = fingerprint(await store.get(key))
        except EntryNotFoundError:
            findings.append(
                Finding.warning(
                    _SUBJECT, f"the deleted key {key!r} has left {len(versions)} of its versions", f"kes key rm {key}"
                )
            )
            continue
        left = [version for version in versions if not is_revision_of(version, first)]
        findings += [
            Finding.warning(
                _SUBJECT,
                f"the entry {version!r} belongs to a deleted key of the name {key!r}, not to the one that is there",
                "remove the entry from the key store",
            )
            for version in left
        ]
    return findings


async def _keys(store: KeyStore, names: Sequence[str]) -> Sequence[Finding]:
    """Find damaged keys, those that are to be deleted, and those that were not rotated for long."""
    now = time.time()
    old: list[str] = []
    doomed: list[tuple[int, str]] = []
    findings = []
    for name in filter(is_valid_name, names):
        try:
            key = await read_key(store.get, name, await store.get(name))
        except EntryNotFoundError:
            continue  # deleted meanwhile
        except StoredKeyError as error:
            findings.append(Finding.error(_SUBJECT, f"the entry {name!r} in the key store is damaged: {error}"))
            continue
        except KeyStoreError as error:
            if error.reason is not None:
                raise
            findings.append(Finding.error(_SUBJECT, str(error)))
            continue
        if key.condition.is_doomed:
            doomed.append((key.condition.delete_at, name))
        elif now - key.versions[-1].created_at.seconds > MAX_AGE:
            old.append(name)
    return [*findings, *_to_be_deleted(sorted(doomed)), *_to_be_rotated(old)]


def _to_be_deleted(keys: Sequence[tuple[int, str]]) -> Sequence[Finding]:
    if not keys:
        return []
    one = len(keys) == 1
    shown = _listed([f"{name} at {Timestamp(moment).rfc3339()}" for moment, name in keys])
    message = f"{len(keys)} {'key is' if one else 'keys are'} scheduled for deletion: {shown}"
    return [Finding.warning(_SUBJECT, message, f"`kes key undelete {keys[0][1] if one else 'NAME'}` keeps a key")]


def _to_be_rotated(keys: Sequence[str]) -> Sequence[Finding]:
    if not keys:
        return []
    message = f"the newest version of {len(keys)} key{'s'[: len(keys) != 1]} is older than a year: {_listed(keys)}"
    return [Finding.note(_SUBJECT, message, f"kes key rotate --if-older-than 365d {' '.join(keys[:_SHOWN])}")]


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


async def _wrapping_keys(store: KeyStore, names: Sequence[str]) -> Sequence[Finding]:
    findings = []
    for name in names:
        key_id = parse_wrapping_key_name(name)
        if key_id is None:
            continue
        try:
            found = StoredWrappingKey.decode(await store.get(name), key_id)
        except EntryNotFoundError:
            continue  # removed meanwhile
        except StoredKeyError as error:
            text = f"the entry {name!r} in the key store is damaged: {error}"
            findings.append(Finding.error(_SUBJECT, text, "remove the entry from the key store"))
            continue
        except KeyStoreError as error:
            if error.reason is not None:
                raise
            findings.append(Finding.error(_SUBJECT, str(error)))
            continue
        if found.seconds_left <= 0:
            text = f"the wrapping key {key_id} has expired: no server uses it"
            findings.append(Finding.note(_SUBJECT, text, f"a later request removes it; or remove the entry {name!r}"))
    return findings

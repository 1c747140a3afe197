"""Key stores with keys of all kinds, and backups of them in memory."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyrage import x25519

from kes_backup.creation import Creation
from kes_backup.reading import Contents, restore, verify
from kes_backup.sealing import Opener
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.counters import StoreCounters
from kes_core.keys.changes import change_condition, rotate_key, with_state
from kes_core.keys.copying import KeyCopies
from kes_core.keys.deletion import planned
from kes_core.keys.stored import KeyState, KeyVersion
from kes_core.keys.watched import WatchedStore
from kes_core.keystore import KeyStore

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "plugins" / "backup" / "tests" / "format-1.backup"
"""A backup of format 1, which has to stay readable. Checking its passphrase costs little."""
RECORDED_PASSPHRASE = "correct horse battery staple"
RECORDED_HASH = "20eee4c0ec7d805e08ae39bdff77ed544e791f2fe7639560ced2649c035504ae"
"""The hash of its entries, as `digest`."""
IDENTITY = x25519.Identity.generate()
NAMES = ["a", "a-b", "a1", "disabled", "rotated", "scheduled"]


async def fill(store: KeyStore) -> None:
    """Create keys of all kinds: two were rotated, one is disabled, one scheduled for deletion long ago."""
    watched = WatchedStore(store, StoreCounters(), lambda: 0.0)
    for name in NAMES:
        await store.create(name, KeyVersion.generate("me").encode())
    for _ in range(4):
        await rotate_key(watched, "rotated", "me")
    await rotate_key(watched, "a", "me")
    await change_condition(watched, "disabled", with_state(KeyState.DISABLED), "me")
    await change_condition(watched, "scheduled", planned(1), "me")


def filled() -> MemoryKeyStore:
    """Return a store with keys of all kinds."""
    store = MemoryKeyStore()
    asyncio.run(fill(store))
    return store


def entries(store: MemoryKeyStore) -> dict[str, bytes]:
    """Return all entries of a store."""
    return dict(store._values)  # to compare whole stores


def digest(values: Mapping[str, bytes]) -> str:
    """Return a hash of entries."""
    return hashlib.sha256(b"".join(b"%s=%s\n" % (name.encode(), values[name]) for name in sorted(values))).hexdigest()


def backup(store: KeyStore, pattern: str = "*") -> bytes:
    """Return a backup of a store, for IDENTITY."""
    target = io.BytesIO()
    asyncio.run(Creation(store, "memory").write(target, pattern, [IDENTITY.to_public()], None, lambda: None))
    return target.getvalue()


async def opener(data: bytes, identities: Sequence[x25519.Identity] = (IDENTITY,)) -> Opener:
    """Open a backup."""
    found = Opener(io.BytesIO(data))
    await found.unlock(identities, None)
    return found


def verified(data: bytes, identities: Sequence[x25519.Identity] = (IDENTITY,)) -> Contents:
    """Verify a backup; return what is in it."""

    async def work() -> Contents:
        contents = Contents()
        await verify(await opener(data, identities), contents)
        return contents

    return asyncio.run(work())


def restored(data: bytes, store: KeyStore, pattern: str = "*", *, dry_run: bool = False) -> KeyCopies:
    """Restore a backup; return the results."""

    async def work() -> KeyCopies:
        copies = KeyCopies(store)
        await restore(await opener(data), store, copies, pattern, dry_run=dry_run, on_key=lambda _name, _outcome: None)
        return copies

    return asyncio.run(work())


def results(copies: KeyCopies) -> dict[str, int]:
    """Return the numbers of a restoration that are not 0."""
    return {str(outcome): count for outcome, count in copies.summary.counts.items() if count}

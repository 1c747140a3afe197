"""How a backup is verified, and how its keys are restored to a key store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kes_backup.records import BackupError, BackupReader, Header, checked
from kes_backup.sealing import Opener
from kes_core.keys.copying import KeyCopies, KeyEntries, Outcome
from kes_core.keys.stored import KeyState
from kes_core.keys.writing import KeyWriter
from kes_core.keystore import KeyStore

__all__ = ["Contents", "InterruptedRestoreError", "matches", "restore", "verify"]


class InterruptedRestoreError(BackupError):
    """Somebody has stopped the restoration."""


@dataclass
class Contents:
    """What is in a backup."""

    header: Header = field(default_factory=Header)
    keys: int = 0
    entries: int = 0
    versions: int = 0
    """Of all keys together."""
    disabled: int = 0
    """Keys that are disabled, also those that may still decrypt."""
    scheduled: int = 0
    """Keys that are scheduled for deletion."""
    overdue: int = 0
    """Those of them whose time has come: a server will delete them."""

    def add(self, key: KeyEntries, now: float) -> None:
        """Count a key."""
        condition = key.key.condition
        self.keys += 1
        self.entries += 1 + len(key.later)
        self.versions += key.key.version
        self.disabled += condition.state in {KeyState.DISABLED, KeyState.DECRYPT_ONLY}
        self.scheduled += condition.is_doomed
        self.overdue += condition.is_doomed and condition.delete_at <= now


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern: a name, or the beginning of names and a `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


async def verify(
    opener: Opener, contents: Contents, pattern: str = "*", on_key: Callable[[], None] = lambda: None
) -> None:
    """Read a whole backup, and check that each key can be used and that nothing is missing.

    Args:
        opener: The backup.
        contents: Gets what is in it; of a damaged backup, what comes before the damage.
        pattern: Which keys to count. All are checked.
        on_key: Called for each key.

    Raises:
        BackupError: It is damaged or incomplete, or the file can't be decrypted.
    """
    reader, now = BackupReader(), time.time()

    async def take(piece: bytes) -> None:
        for raw in reader.feed(piece):
            key = await checked(raw)
            if matches(key.name, pattern):
                contents.add(key, now)
            on_key()

    await opener.read(take)
    contents.header = reader.finish()


async def restore(
    opener: Opener,
    store: KeyStore,
    copies: KeyCopies,
    pattern: str,
    *,
    dry_run: bool,
    on_key: Callable[[str, Outcome], None],
) -> None:
    """Write the keys of a backup to a key store. Nothing that the store has is overwritten.

    The result for each key is in `copies.summary`.

    Args:
        opener: The backup.
        store: The key store.
        copies: Writes the keys, several at once.
        pattern: Which keys to restore.
        dry_run: Write nothing, and find out what would be done.
        on_key: Called with the result for each key.

    Raises:
        BackupError: The backup is damaged.
        InterruptedRestoreError: `copies.stop` was called.
        KeyStoreUnreachableError: The store does not answer.
    """
    reader, writer = BackupReader(), KeyWriter(store, dry_run=dry_run)

    async def take(piece: bytes) -> None:
        batch = {raw.name: await checked(raw) for raw in reader.feed(piece) if matches(raw.name, pattern)}
        await copies.copy_all(batch, lambda name: writer.write(batch[name]), on_key)
        if copies.stopping:
            raise InterruptedRestoreError("interrupted")

    await opener.read(take)
    reader.finish()

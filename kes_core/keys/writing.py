"""Writes keys with all their entries to a key store, for migration and restoration."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import time
from collections.abc import Mapping
from typing import Final

from kes_core.keys.copying import CopyError, KeyEntries, Outcome, retried, retried_get
from kes_core.keys.stored import KeyVersion, StoredKeyError, fingerprint
from kes_core.keys.versions import names_of_revisions
from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStore, KeyStoreError

__all__ = ["KeyWriter", "OnConflict"]

_LONGEST_RECOVERY: Final = 60.0
"""Seconds that a replacement waits, at most, until the target releases the name of the key that it deleted."""


class OnConflict(enum.Enum):
    """What to do if the target has a different key of the same name."""

    FAIL = "fail"
    KEEP = "keep"
    REPLACE = "replace"


class KeyWriter:
    """Writes keys to a key store, and reads back what it wrote."""

    def __init__(
        self,
        target: KeyStore,
        *,
        on_conflict: OnConflict = OnConflict.FAIL,
        dry_run: bool = False,
        cures: tuple[str, str] = ("", ""),
    ) -> None:
        """Write to `target`.

        Args:
            target: The key store.
            on_conflict: What to do if it has another key of the same name.
            dry_run: Write nothing.
            cures: How the errors go on that say that it has another key, or another entry of a key, of the same name.
        """
        self._target = target
        self._on_conflict = on_conflict
        self._dry_run = dry_run
        self._cure_of_key, self._cure_of_entry = cures

    async def write(self, key: KeyEntries) -> Outcome:
        """Write a key; with `dry_run`, return what would be done.

        Raises:
            CopyError: The target has something else under one of the names, or does not return what was written.
            KeyStoreError: The target fails.
        """
        name, value, later, _key = key
        if self._dry_run:
            return await self._plan(name, value, later)
        stored = await self._read_target(name) if later else None
        if stored is not None and self._decide(stored, value) is Outcome.SKIPPED:
            return Outcome.SKIPPED
        # The first entry comes last: no server may use the key before it has all of it.
        copied = [await self._copy_later(entry, content) for entry, content in later.items()]
        outcome = await self._copy_first(name, value)
        return Outcome.COPIED if outcome is Outcome.IDENTICAL and any(copied) else outcome

    async def _copy_later(self, entry: str, content: bytes) -> bool:
        """Copy the entry of a version; return whether the target did not have it."""
        try:
            await retried(lambda: self._target.create(entry, content))
        except EntryExistsError:
            stored = await self._read_target(entry)
            if stored == content:
                return False
            if self._on_conflict is not OnConflict.REPLACE:
                raise CopyError(
                    f"the target has another entry {entry!r}: the key was rotated in both{self._cure_of_entry}"
                ) from None
            await self._replace(entry, content)
        if not await self._target_has(entry, content):
            raise CopyError("the target does not return what was written")
        return True

    async def _copy_first(self, name: str, value: bytes) -> Outcome:
        try:
            await retried(lambda: self._target.create(name, value))
            outcome = Outcome.COPIED
        except EntryExistsError:
            stored = await self._read_target(name)
            if stored is None:
                raise CopyError("the target reports that the key exists, but does not return it") from None
            outcome = self._decide(stored, value)
            if outcome is Outcome.REPLACED:
                await self._replace(name, value)
                await self._remove_versions(name, stored)
        if outcome is not Outcome.SKIPPED and not await self._target_has(name, value):
            raise CopyError("the target does not return what was written")
        return outcome

    async def _target_has(self, name: str, value: bytes) -> bool:
        """Return whether the target has a value under `name`, as soon as the target can know it."""
        ends, pause = time.monotonic() + self._target.capabilities.eventually_consistent, 0.1
        while await self._read_target(name) != value:
            if time.monotonic() + pause > ends:
                return False
            await asyncio.sleep(pause)
            pause *= 2
        return True

    async def _remove_versions(self, name: str, stored: bytes) -> None:
        """Remove the later versions of a key of the target that has been replaced."""
        get = functools.partial(retried_get, self._target)
        for entry in reversed(await names_of_revisions(get, name, fingerprint(stored))):
            with contextlib.suppress(EntryNotFoundError):  # deleted by an attempt whose answer was lost
                await self._delete(entry)

    async def _delete(self, entry: str) -> None:
        await retried(lambda: self._target.delete(entry))

    async def _plan(self, name: str, value: bytes, later: Mapping[str, bytes]) -> Outcome:
        capabilities = self._target.capabilities
        for entry, content in ((name, value), *later.items()):
            problem = capabilities.problem_of_name(entry) or capabilities.problem_of_value(content)
            if problem:
                raise CopyError(problem)
        stored = await self._read_target(name)
        outcome = Outcome.COPIED if stored is None else self._decide(stored, value)
        if outcome is Outcome.IDENTICAL:
            missing = [entry for entry, content in later.items() if await self._read_target(entry) != content]
            return Outcome.COPIED if missing else outcome
        return outcome

    def _decide(self, stored: bytes, value: bytes) -> Outcome:
        """Return what to do with a key whose name the target already has."""
        if stored == value:
            return Outcome.IDENTICAL
        if self._on_conflict is OnConflict.FAIL:
            raise CopyError(f"the target has another key of that name{self._cure_of_key}")
        if self._on_conflict is OnConflict.REPLACE:
            if self._target.capabilities.recovers_deleted > _LONGEST_RECOVERY:
                raise CopyError("the target keeps the names of deleted keys, so --force can't replace a key there")
            return Outcome.REPLACED
        _check(stored, "target")
        return Outcome.SKIPPED

    async def _read_target(self, name: str) -> bytes | None:
        try:
            return await retried(lambda: self._target.get(name))
        except EntryNotFoundError:
            return None

    async def _replace(self, name: str, value: bytes) -> None:
        old = await self._read_target(name)
        try:
            await self._delete(name)
        except EntryNotFoundError:
            pass  # deleted meanwhile, by another process or by an attempt whose answer was lost
        try:
            await self._create_again(name, value)
        except EntryExistsError:
            pass  # created by an attempt whose answer was lost, or by another process: `_copy` compares the value
        except KeyStoreError:
            if old is not None:  # restore the old key: better than no key
                kept = old
                with contextlib.suppress(EntryExistsError):  # as above
                    await self._create_again(name, kept)
            raise

    async def _create_again(self, name: str, value: bytes) -> None:
        """Create a key under the name of a deleted key, as soon as the target releases that name."""
        ends, pause = time.monotonic() + self._target.capabilities.recovers_deleted, 0.1
        while True:
            try:
                return await retried(lambda: self._target.create(name, value))
            except EntryExistsError:
                if time.monotonic() + pause > ends or await self._read_target(name) is not None:
                    raise
            await asyncio.sleep(pause)
            pause *= 2


def _check(value: bytes, place: str) -> None:
    """Check that a stored value is a key.

    Raises:
        CopyError: It is not.
    """
    try:
        KeyVersion.decode(value)
    except StoredKeyError as error:
        raise CopyError(f"the {place}'s entry is not a key: {error}") from None

"""Copying keys from one key store to another, of whatever kinds they are.

A key that is at the target already, byte for byte, counts as copied. So a migration that was interrupted needs no notes
of how far it came: run once more, it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from kes_core.keys.stored import KeyVersion, StoredKeyError
from kes_core.keystore import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
)

__all__ = ["Migration", "OnConflict", "Outcome", "Summary"]

T = TypeVar("T")

_CONCURRENCY: Final = 32
_ATTEMPTS: Final = 5


class OnConflict(enum.Enum):
    """What to do about a key whose name is taken at the target by another key."""

    FAIL = "fail"
    KEEP = "keep"
    REPLACE = "replace"


class Outcome(enum.StrEnum):
    """What became of one key."""

    COPIED = "copied"
    IDENTICAL = "identical"
    """It was there already, byte for byte."""
    SKIPPED = "skipped"
    """Another key of that name was there and was kept; or the key was deleted from the source meanwhile."""
    REPLACED = "replaced"
    FAILED = "failed"


@dataclass
class Summary:
    """What became of all keys."""

    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    failures: dict[str, str] = field(default_factory=dict)
    """Why keys have not been copied, by name."""

    @property
    def done(self) -> int:
        """How many keys have been looked at."""
        return sum(self.counts.values())


class _CopyError(Exception):
    """One key can't be copied; the message says why."""


class Migration:
    """Copies keys from `source` to `target`; with `dry_run` it writes nothing and tells what it would do."""

    def __init__(
        self, source: KeyStore, target: KeyStore, *, existing: OnConflict = OnConflict.FAIL, dry_run: bool = False
    ) -> None:
        self._source = source
        self._target = target
        self._existing = existing
        self._dry_run = dry_run
        self._is_stopped = False
        self.summary = Summary()

    def stop(self) -> None:
        """Finish the keys under way and begin no more."""
        self._is_stopped = True

    async def names(self, pattern: str) -> list[str]:
        """Return the names of the source's keys that match: a name, or the beginning of names with a `*`."""
        prefix = pattern.removesuffix("*")
        found: list[str] = []
        start = ""
        while True:
            page = await _retried(lambda: self._source.list(prefix, start=start))  # noqa: B023 # called at once
            found += page.names
            if not page.next:
                break
            start = page.next
        return found if pattern.endswith("*") else [name for name in found if name == pattern]

    async def run(
        self, names: list[str], on_key: Callable[[str, Outcome], None] = lambda _name, _outcome: None
    ) -> None:
        """Copy the keys of these names. A key that can't be copied does not keep the others from it.

        Raises:
            KeyStoreUnreachableError: One of the stores has not answered for a while.
        """
        waiting = iter(names)
        outages: list[KeyStoreUnreachableError] = []

        async def work() -> None:
            for name in waiting:
                if self._is_stopped:
                    return
                try:
                    outcome = await self._copy(name)
                except KeyStoreUnreachableError as error:
                    outages.append(error)
                    self.stop()  # the others finish what they are at: a key may be half replaced
                    return
                except (_CopyError, KeyStoreError) as error:
                    outcome = Outcome.FAILED
                    self.summary.failures[name] = str(error)
                self.summary.counts[outcome] += 1
                if on_key is not None:
                    on_key(name, outcome)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_CONCURRENCY):
                tasks.create_task(work())
        if outages:
            raise outages[0]

    async def _copy(self, name: str) -> Outcome:
        try:
            value = await _retried(lambda: self._source.get(name))
        except EntryNotFoundError:
            return Outcome.SKIPPED
        try:
            KeyVersion.decode(value)
        except StoredKeyError as error:
            raise _CopyError(f"what the source holds is no key: {error}") from None
        if self._dry_run:
            return await self._plan(name, value)
        try:
            await _retried(lambda: self._target.create(name, value))
            outcome = Outcome.COPIED
        except EntryExistsError:
            stored = await self._stored(name)
            if stored is None:
                raise _CopyError("the target says that the key exists, but does not give it back") from None
            outcome = self._decide(stored, value)
            if outcome is Outcome.REPLACED:
                await self._replace(name, value)
        if outcome is not Outcome.SKIPPED and await self._stored(name) != value:
            raise _CopyError("the target does not give back what was written")
        return outcome

    async def _plan(self, name: str, value: bytes) -> Outcome:
        stored = await self._stored(name)
        return Outcome.COPIED if stored is None else self._decide(stored, value)

    def _decide(self, stored: bytes | None, value: bytes) -> Outcome:
        """Return what is to become of a key whose name is taken."""
        if stored == value:
            return Outcome.IDENTICAL
        if self._existing is OnConflict.FAIL:
            raise _CopyError("the target has another key of that name: --merge keeps it, --force replaces it")
        return Outcome.SKIPPED if self._existing is OnConflict.KEEP else Outcome.REPLACED

    async def _stored(self, name: str) -> bytes | None:
        try:
            return await _retried(lambda: self._target.get(name))
        except EntryNotFoundError:
            return None

    async def _replace(self, name: str, value: bytes) -> None:
        old = await self._stored(name)
        try:
            await _retried(lambda: self._target.delete(name))
        except EntryNotFoundError:
            pass  # somebody else was faster
        try:
            await _retried(lambda: self._target.create(name, value))
        except EntryExistsError:
            pass  # by an attempt whose answer was lost; or by somebody else, which is seen when it is read back
        except KeyStoreError:
            if old is not None:  # better the old key than none
                kept = old
                with contextlib.suppress(EntryExistsError):  # an attempt whose answer was lost, as above
                    await _retried(lambda: self._target.create(name, kept))
            raise


async def _retried(call: Callable[[], Awaitable[T]]) -> T:
    """Call a store, and again if it does not answer. A write that was made all the same shows: the name is taken."""
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(KeyStoreUnreachableError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=0.1, max=2),
        reraise=True,
    )

    async def attempt() -> T:
        return await call()

    return await attempts(attempt)

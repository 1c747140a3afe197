"""Copy keys from one key store to another of any kind, each with all its versions.

A key that the target already has, byte for byte, counts as copied. So an interrupted migration needs no record of its
progress: when it runs again, it continues. After a migration without failures, the target can use every matching key.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from kes_core.keys.stored import KeyVersion, StoredKeyError, fingerprint
from kes_core.keys.versions import names_of_revisions, read_key
from kes_core.keystore import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
)
from kes_core.names import parse_revision_name

__all__ = ["Migration", "OnConflict", "Outcome", "Summary"]

T = TypeVar("T")

_CONCURRENCY: Final = 32
_ATTEMPTS: Final = 5
_LONGEST_RECOVERY: Final = 60.0
"""Seconds that a replacement waits, at most, until the target releases the name of the key that it deleted."""


class OnConflict(enum.Enum):
    """What to do if the target has a different key of the same name."""

    FAIL = "fail"
    KEEP = "keep"
    REPLACE = "replace"


class Outcome(enum.StrEnum):
    """The result for one key."""

    COPIED = "copied"
    IDENTICAL = "identical"
    """The target had the key already, byte for byte."""
    SKIPPED = "skipped"
    """The target keeps its different key of this name; or the key was deleted from the source meanwhile."""
    REPLACED = "replaced"
    FAILED = "failed"


@dataclass
class Summary:
    """The results for all keys."""

    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    failures: dict[str, str] = field(default_factory=dict)
    """Why keys were not copied, by name."""

    @property
    def done(self) -> int:
        """The number of keys with a result."""
        return sum(self.counts.values())


class _CopyError(Exception):
    """A key can't be copied. The message says why."""


class Migration:
    """Copies keys from `source` to `target`. With `dry_run` it writes nothing and reports what it would do."""

    def __init__(
        self, source: KeyStore, target: KeyStore, *, on_conflict: OnConflict = OnConflict.FAIL, dry_run: bool = False
    ) -> None:
        self._source = source
        self._target = target
        self._on_conflict = on_conflict
        self._dry_run = dry_run
        self._stopping = False
        self.summary = Summary()

    def stop(self) -> None:
        """Finish the keys in progress and start no others."""
        self._stopping = True

    async def names(self, pattern: str) -> list[str]:
        """Return the names of the source's keys that match `pattern`: a name, or a prefix followed by `*`."""
        prefix = pattern.removesuffix("*")
        found: list[str] = []
        start = ""
        while True:
            page = await _retry(lambda: self._source.list(prefix, start=start))  # noqa: B023 # called at once
            found += [name for name in page.names if parse_revision_name(name) is None]
            if not page.next:
                break
            start = page.next
        return found if pattern.endswith("*") else [name for name in found if name == pattern]

    async def run(
        self, names: list[str], on_key: Callable[[str, Outcome], None] = lambda _name, _outcome: None
    ) -> None:
        """Copy the keys with these names. If a key can't be copied, the others are still copied.

        Raises:
            KeyStoreUnreachableError: A store still does not answer after several attempts.
        """
        waiting = iter(names)
        outages: list[KeyStoreUnreachableError] = []

        async def work() -> None:
            for name in waiting:
                if self._stopping:
                    return
                try:
                    outcome = await self._copy(name)
                except KeyStoreUnreachableError as error:
                    outages.append(error)
                    self.stop()  # the other tasks finish their keys: one may be half replaced
                    return
                except (_CopyError, KeyStoreError) as error:
                    outcome = Outcome.FAILED
                    self.summary.failures[name] = str(error)
                self.summary.counts[outcome] += 1
                if on_key is not None:
                    on_key(name, outcome)

        most = [store.capabilities.max_concurrency or _CONCURRENCY for store in (self._source, self._target)]
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_CONCURRENCY, *most)):
                tasks.create_task(work())
        if outages:
            raise outages[0]

    async def _copy(self, name: str) -> Outcome:
        try:
            value = await _retry(lambda: self._source.get(name))
        except EntryNotFoundError:
            page = await _retry(lambda: self._source.list(name, start=name, limit=1))
            if page.names == [name]:
                raise _CopyError("the source lists the key, but does not give it back") from None
            return Outcome.SKIPPED
        _check(value, "source")
        later = await self._later_versions(name, value)
        if self._dry_run:
            return await self._plan(name, value, later)
        stored = await self._read_target(name) if later else None
        if stored is not None and self._decide(stored, value) is Outcome.SKIPPED:
            return Outcome.SKIPPED
        # The first entry comes last: no server may use the key before it has all of it.
        copied = [await self._copy_version(entry, content) for entry, content in later.items()]
        outcome = await self._copy_first(name, value)
        return Outcome.COPIED if outcome is Outcome.IDENTICAL and any(copied) else outcome

    async def _later_versions(self, name: str, value: bytes) -> dict[str, bytes]:
        """Return the entries of the later versions of a key, by their names."""
        read: dict[str, bytes] = {}

        async def get(entry: str) -> bytes:
            try:
                content = read[entry] = await _retried_get(self._source, entry)
            except KeyStoreError as error:
                if error.reason is KeyStoreReason.FORBIDDEN:
                    raise _CopyError(f"it is unknown whether the key was rotated: {error}") from None
                raise
            return content

        try:
            await read_key(get, name, value)
        except StoredKeyError as error:
            raise _CopyError(f"the source's entry is not a key: {error}") from None
        return read

    async def _copy_version(self, entry: str, content: bytes) -> bool:
        """Copy the entry of a version; return whether the target did not have it."""
        try:
            await _retry(lambda: self._target.create(entry, content))
        except EntryExistsError:
            stored = await self._read_target(entry)
            if stored == content:
                return False
            if self._on_conflict is not OnConflict.REPLACE:
                raise _CopyError(
                    f"the target has another entry {entry!r}: the key was rotated in both; --force replaces it"
                ) from None
            await self._replace(entry, content)
        if not await self._target_has(entry, content):
            raise _CopyError("the target does not return what was written")
        return True

    async def _copy_first(self, name: str, value: bytes) -> Outcome:
        try:
            await _retry(lambda: self._target.create(name, value))
            outcome = Outcome.COPIED
        except EntryExistsError:
            stored = await self._read_target(name)
            if stored is None:
                raise _CopyError("the target reports that the key exists, but does not return it") from None
            outcome = self._decide(stored, value)
            if outcome is Outcome.REPLACED:
                await self._replace(name, value)
                await self._remove_versions(name, stored)
        if outcome is not Outcome.SKIPPED and not await self._target_has(name, value):
            raise _CopyError("the target does not return what was written")
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
        get = functools.partial(_retried_get, self._target)
        for entry in reversed(await names_of_revisions(get, name, fingerprint(stored))):
            with contextlib.suppress(EntryNotFoundError):  # deleted by an attempt whose answer was lost
                await self._delete(entry)

    async def _delete(self, entry: str) -> None:
        await _retry(lambda: self._target.delete(entry))

    async def _plan(self, name: str, value: bytes, later: Mapping[str, bytes]) -> Outcome:
        capabilities = self._target.capabilities
        for entry, content in ((name, value), *later.items()):
            problem = capabilities.problem_of_name(entry) or capabilities.problem_of_value(content)
            if problem:
                raise _CopyError(problem)
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
            raise _CopyError("the target has another key of that name: --merge keeps it, --force replaces it")
        if self._on_conflict is OnConflict.REPLACE:
            if self._target.capabilities.recovers_deleted > _LONGEST_RECOVERY:
                raise _CopyError("the target keeps the names of deleted keys, so --force can't replace a key there")
            return Outcome.REPLACED
        _check(stored, "target")
        return Outcome.SKIPPED

    async def _read_target(self, name: str) -> bytes | None:
        try:
            return await _retry(lambda: self._target.get(name))
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
                return await _retry(lambda: self._target.create(name, value))
            except EntryExistsError:
                if time.monotonic() + pause > ends or await self._read_target(name) is not None:
                    raise
            await asyncio.sleep(pause)
            pause *= 2


def _check(value: bytes, place: str) -> None:
    """Check that a stored value is a key.

    Raises:
        _CopyError: It is not.
    """
    try:
        KeyVersion.decode(value)
    except StoredKeyError as error:
        raise _CopyError(f"the {place}'s entry is not a key: {error}") from None


async def _retried_get(store: KeyStore, name: str) -> bytes:
    return await _retry(lambda: store.get(name))


async def _retry(call: Callable[[], Awaitable[T]]) -> T:
    """Call a store, and retry while it does not answer or has too many requests.

    If a write succeeded but its answer was lost, the next attempt raises `EntryExistsError` or `EntryNotFoundError`.
    """
    attempts = AsyncRetrying(
        retry=retry_if_exception_type((KeyStoreUnreachableError, KeyStoreThrottledError)),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=0.1, max=2),
        reraise=True,
    )

    async def attempt() -> T:
        return await call()

    return await attempts(attempt)

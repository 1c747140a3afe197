"""How keys with all their entries are read from a key store, and how many of them are copied at once."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from kes_core.keys.stored import StoredKeyError
from kes_core.keys.versions import StoredKey, read_key
from kes_core.keystore import (
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
)
from kes_core.names import parse_revision_name

__all__ = [
    "CopyError",
    "KeyCopies",
    "KeyEntries",
    "Outcome",
    "Summary",
    "read_entries",
    "retried",
    "retried_get",
]

T = TypeVar("T")

_CONCURRENCY: Final = 32
_ATTEMPTS: Final = 5
_FIRST_WAIT: Final = 0.1
"""Seconds before the second attempt. Each wait is twice as long as the one before."""
_PASSING: Final = (KeyStoreUnreachableError, KeyStoreThrottledError)
"""Errors that the next attempt may not meet."""


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


class CopyError(Exception):
    """A key can't be copied. The message says why."""


class KeyEntries(NamedTuple):
    """A key as it is in a key store."""

    name: str
    value: bytes
    """The content of the first entry."""
    later: Mapping[str, bytes]
    """The content of the entries behind it, by their names, in their order."""
    key: StoredKey
    """What they are together."""


class KeyCopies:
    """Copies keys, several at once, and counts the results."""

    def __init__(self, *stores: KeyStore) -> None:
        """Copy from or to `stores`."""
        self._at_once = min(_CONCURRENCY, *(store.capabilities.max_concurrency or _CONCURRENCY for store in stores))
        self.stopping = False
        self.summary = Summary()

    def stop(self) -> None:
        """Finish the keys in progress and start no others."""
        self.stopping = True

    async def copy_all(
        self,
        names: Iterable[str],
        copy: Callable[[str], Awaitable[Outcome]],
        on_key: Callable[[str, Outcome], None] = lambda _name, _outcome: None,
    ) -> None:
        """Copy the keys with these names. If a key can't be copied, the others are still copied.

        Args:
            names: The names of the keys.
            copy: Copies one key. It may raise `CopyError`.
            on_key: Called with the result for each key.

        Raises:
            KeyStoreUnreachableError: A store still does not answer after several attempts.
        """
        waiting = iter(names)
        outages: list[KeyStoreUnreachableError] = []

        async def work() -> None:
            for name in waiting:
                if self.stopping:
                    return
                try:
                    outcome = await copy(name)
                except KeyStoreUnreachableError as error:
                    outages.append(error)
                    self.stop()  # the other tasks finish their keys: one may be half replaced
                    return
                except (CopyError, KeyStoreError) as error:
                    outcome = Outcome.FAILED
                    self.summary.failures[name] = str(error)
                self.summary.counts[outcome] += 1
                on_key(name, outcome)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._at_once):
                tasks.create_task(work())
        if outages:
            raise outages[0]


async def read_entries(store: KeyStore, name: str) -> KeyEntries | None:
    """Read a key with all its entries from a key store that servers use; return None if it was deleted meanwhile.

    Raises:
        CopyError: The entries are not a key, or the store does not return all of them.
        KeyStoreError: The store fails.
    """
    while True:
        try:
            value = await retried(lambda: store.get(name))
        except EntryNotFoundError:
            page = await retried(lambda: store.list(name, start=name, limit=1))
            if page.names == [name]:
                raise CopyError("the source lists the key, but does not give it back") from None
            return None
        found = await _read_later(store, name, value)
        # A deletion removes the first entry first. If it is still there, nothing of the rest was missing.
        try:
            if await retried(lambda: store.get(name)) == value:
                return found
        except EntryNotFoundError:
            return None


async def _read_later(store: KeyStore, name: str, value: bytes) -> KeyEntries:
    read: dict[str, bytes] = {}

    async def get(entry: str) -> bytes:
        try:
            content = read[entry] = await retried_get(store, entry)
        except KeyStoreError as error:
            if error.reason is KeyStoreReason.FORBIDDEN:
                raise CopyError(f"it is unknown whether the key was rotated: {error}") from None
            raise
        return content

    try:
        key = await read_key(get, name, value)
    except StoredKeyError as error:
        raise CopyError(f"the source's entry is not a key: {error}") from None
    # Some reads run at once, so they end in any order, and may have found what lies behind a gap.
    order = sorted((parts.number, entry) for entry in read if (parts := parse_revision_name(entry)) is not None)
    return KeyEntries(name, value, {entry: read[entry] for _number, entry in order[: len(key.later)]}, key)


async def retried_get(store: KeyStore, name: str) -> bytes:
    """Read an entry, as `retried`."""
    return await retried(lambda: store.get(name))


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """Call a store, and retry while it does not answer or has too many requests.

    If a write succeeded but its answer was lost, the next attempt raises `EntryExistsError` or `EntryNotFoundError`.
    """
    try:
        return await call()  # nearly always; preparing to retry would cost more than reading a file
    except _PASSING:
        await asyncio.sleep(_FIRST_WAIT)
    attempts = AsyncRetrying(
        retry=retry_if_exception_type(_PASSING),
        stop=stop_after_attempt(_ATTEMPTS - 1),
        wait=wait_exponential(multiplier=2 * _FIRST_WAIT, max=2),
        reraise=True,
    )

    async def attempt() -> T:
        return await call()

    return await attempts(attempt)

"""A key store as the server sees it: counted, and known to be reachable or not."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

from kes_core.counters import StoreCounters
from kes_core.keystore import (
    PAGE_SIZE,
    Credential,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
    Page,
)
from kes_core.names import is_hidden_entry, parse_revision_name

__all__ = ["WatchedStore"]

T = TypeVar("T")

logger = logging.getLogger("kes.keystore")

_TASKS: Final = {"create": "create a key", "get": "read a key", "delete": "delete a key", "list": "list keys"}
"""How the log names the operation that failed. The store may still serve the others."""
_LARGE_PAGE: Final = 10_000
"""For listings of everything: some stores list all names for each page."""


class WatchedStore:
    """Calls a key store, counts the calls, and logs when the store becomes unreachable or reachable again."""

    def __init__(self, store: KeyStore, counters: StoreCounters, clock: Callable[[], float]) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self.late = store.capabilities.eventually_consistent
        """Seconds for which the store may not yet return a new entry."""
        self.unreachable = False
        self._reason: KeyStoreReason | None = None
        self.last_answer_at = clock()
        """The start time of the last call that the store answered."""
        self._logged_problem = ""

    async def create(self, name: str, value: bytes) -> None:
        """Create an entry, as `KeyStore.create`."""
        await self._observed("create", self._store.create(name, value))

    async def get(self, name: str) -> bytes:
        """Read an entry, as `KeyStore.get`."""
        return await self._observed("get", self._store.get(name))

    async def delete(self, name: str) -> None:
        """Delete an entry, as `KeyStore.delete`."""
        await self._observed("delete", self._store.delete(name))

    async def list_keys(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        """List names as `KeyStore.list`, without those of revisions and of wrapping keys."""
        limit = limit if limit > 0 else PAGE_SIZE
        names: list[str] = []
        while True:
            page = await self._observed("list", self._store.list(prefix, start=start, limit=limit))
            names += [name for name in page.names if not is_hidden_entry(name)]
            start = page.next
            if len(names) > limit:
                return Page(names[:limit], names[limit])
            if not start or (len(names) == limit and not is_hidden_entry(start)):
                return Page(names, start)

    async def all_names(self) -> AsyncIterator[str]:
        """Yield the names of all entries, also those of revisions.

        Raises:
            KeyStoreError: The store fails.
        """
        start = ""
        while True:
            page = await self._observed("list", self._store.list(start=start, limit=_LARGE_PAGE))
            for name in page.names:
                yield name
            start = page.next
            if not start:
                return

    async def list_revisions(self, key: str) -> list[str]:
        """Return the names of all entries of revisions of `key`, also those of a deleted key of this name."""
        parsed = [(name, parse_revision_name(name)) for name in await self.list_entries(f"{key}-r")]
        return [name for name, parts in parsed if parts is not None and parts.key == key]

    async def list_entries(self, prefix: str) -> list[str]:
        """Return the names of all entries that begin with `prefix`, also those that listings hide.

        Raises:
            KeyStoreError: The store fails.
        """
        found: list[str] = []
        start = ""
        while True:
            page = await self._observed("list", self._store.list(prefix, start=start))
            found += page.names
            start = page.next
            if not start:
                return found

    async def status(self) -> float:
        """Check the store's health; return the seconds until it answered. A store that has too many requests works.

        Raises:
            KeyStoreUnreachableError: The store does not answer.
            KeyStoreError: The store answers, but can't serve requests.
        """
        started = self._clock()
        with contextlib.suppress(KeyStoreThrottledError):
            await self._observed("status", self._store.status())
        return self._clock() - started

    def credentials(self) -> Sequence[Credential]:
        """Return what the store logs in with and that runs out, as `KeyStore.credentials`."""
        return self._store.credentials()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    def has_hung(self, operation: str, error: KeyStoreUnreachableError) -> None:
        """Record that a call did not end in time."""
        self._count_error(operation, error)
        self._mark_unreachable(error)

    def log_once(self, problem: str, operation: str = "status") -> None:
        """Log why an operation failed although the store answers, unless that was logged last."""
        if problem and problem != self._logged_problem:
            if operation in _TASKS:
                logger.warning("the key store can't %s: %s", _TASKS[operation], problem)
            else:
                logger.warning("the key store is unavailable: %s", problem)
        self._logged_problem = problem

    async def _observed(self, operation: str, call: Awaitable[T]) -> T:
        """Await a call to the store, count it, and record whether the store is reachable."""
        started = self._clock()
        try:
            result = await call
        except (EntryExistsError, EntryNotFoundError):
            self._mark_reachable(operation, started)
            raise
        except KeyStoreUnreachableError as error:
            self._count_error(operation, error)
            self._mark_unreachable(error)
            raise
        except KeyStoreError as error:
            self._count_error(operation, error)
            if error.reason is not None:
                self.log_once(str(error), operation)
            if isinstance(error, KeyStoreThrottledError):
                self._mark_reachable(operation, started)
            raise
        except Exception:  # a fault of the plugin, which does not show whether the store is reachable
            self._count_error(operation, None)
            raise
        self._mark_reachable(operation, started)
        return result

    def _count_error(self, operation: str, error: KeyStoreError | None) -> None:
        reason = error.reason if error is not None else None
        self._counters.errors[operation, reason or "error"] += 1

    def _mark_unreachable(self, error: KeyStoreUnreachableError) -> None:
        """Record that the store is unreachable; log the first time, and when the reason changes."""
        if not self.unreachable or error.reason is not self._reason:
            logger.error("the key store is not reachable: %s", error)
        self.unreachable, self._reason = True, error.reason

    def _mark_reachable(self, operation: str, started: float) -> None:
        self._counters.answered(operation, self._clock() - started)
        self.last_answer_at = max(self.last_answer_at, started)
        if self.unreachable:
            self.unreachable = False
            logger.warning("the key store is reachable again")

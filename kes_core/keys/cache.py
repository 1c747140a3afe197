"""The key cache in front of a key store (protocol section 7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from kes_core.config import CacheExpiry
from kes_core.counters import StoreCounters
from kes_core.faults import end_tasks, in_turns
from kes_core.keys.changes import RotationConflictError, create_entry, damaged, delete_key, rotate_key
from kes_core.keys.stored import KeyVersion, StoredKeyError, fingerprint
from kes_core.keys.versions import StoredKey, read_key, read_later_entries
from kes_core.keys.watched import WatchedStore
from kes_core.keystore import (
    PAGE_SIZE,
    Credential,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
    Page,
)

__all__ = ["KeyCache"]

T = TypeVar("T")

HEALTH_TIMEOUT: Final = 10.0
"""The shortest time limit of a health check, in seconds."""
LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks for later versions of one key."""
_SWEPT_AT_ONCE: Final = 256
"""Keys whose expiry is checked in one turn of the event loop."""


class _Entry:
    __slots__ = ("check", "checked_at", "first", "key", "looked_at", "read_at", "used_at")

    def __init__(self, key: StoredKey, first: bytes, now: float, requested_at: float) -> None:
        self.key = key
        self.first = first
        """The fingerprint of the key's first entry."""
        self.read_at = now
        self.used_at = now
        self.checked_at = requested_at
        """When the store was last asked for the key, even if that failed."""
        self.check: asyncio.Task[StoredKey] | None = None
        """The read in the background that checks whether the key has changed."""
        self.looked_at = requested_at
        """When the store was last asked for a version later than those known."""


class KeyCache:
    """Keeps decoded keys of a store in memory. Belongs to one event loop.

    If several requests need a key that is not in memory, they share one read. Errors are not cached.

    Other servers may delete a key and create another one of the same name. So the cache reads a key in use again in the
    background, once per `KeyStore.check_interval`. If a key was not used for two intervals, the cache reads it before
    it returns it. Only an answer of the store replaces or drops a key: while the store fails or hangs, keys stay valid
    as `CacheExpiry` says.
    """

    def __init__(
        self,
        store: KeyStore,
        expiry: CacheExpiry,
        *,
        clock: Callable[[], float] = time.monotonic,
        health_interval: float | None = None,
        counters: StoreCounters | None = None,
        on_change: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Put a cache in front of `store`. `close` closes the store too.

        Args:
            store: Holds the keys.
            expiry: How long keys stay in memory.
            clock: Returns monotonic seconds.
            health_interval: Seconds between two health checks of the store (`run`), and the time limit of each;
                overrides the store's own value.
            counters: Counts what cache and store do.
            on_change: Called with the name of a key after it was created, changed or deleted, before the caller gets
                the result. It returns when every other cache in front of the same store has dropped the key.
        """
        counters = counters if counters is not None else StoreCounters()
        self.store = self._store = WatchedStore(store, counters, clock)
        self._expiry = expiry
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._reads: dict[str, asyncio.Task[StoredKey]] = {}
        """Reads that later requests for the same key may share."""
        self._looks: dict[str, asyncio.Task[None]] = {}
        """Looks for later versions of a key, which requests share."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """Calls to the store. They continue if their caller is cancelled."""
        self._health_interval = health_interval or store.health_interval or HEALTH_TIMEOUT
        self._health_timeout = health_interval or max(store.health_interval, HEALTH_TIMEOUT)
        self._check_interval = store.check_interval or float("inf")
        self._counters = counters
        self._on_change = on_change

    def peek(self, name: str) -> StoredKey | None:
        """Return a key if it is in memory, without a call to the store. Counts as a use of the key."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        now = self._clock()
        if self._expired(entry, now):
            return None
        if now >= entry.checked_at + self._check_interval and not self._usable_while_checked(name, entry, now):
            return None
        entry.used_at = now
        self._counters.hits += 1
        return entry.key

    def _usable_while_checked(self, name: str, entry: _Entry, now: float) -> bool:
        """Start to read a key again; return whether the cached key may be used meanwhile."""
        if self._store.unreachable or (entry.check is not None and not entry.check.done()):
            return True
        if now >= entry.checked_at + 2 * self._check_interval:
            return False
        entry.check = self._shared_read(name)
        return True

    async def get(self, name: str) -> StoredKey:
        """Return a key, from memory or from the store.

        Raises:
            EntryNotFoundError: The store has no key of this name.
            KeyStoreUnreachableError: The store does not answer.
            KeyStoreError: The store fails, or its entry of this name is not a key.
        """
        key = self.peek(name)
        if key is not None:
            return key
        self._counters.misses += 1
        return await self._wait_for(self._shared_read(name))

    def _shared_read(self, name: str) -> asyncio.Task[StoredKey]:
        """Return the running read of a key, or start one."""
        read = self._reads.get(name)
        if read is None:
            read = self._reads[name] = self._start(self._read(name))
        return read

    async def create(self, name: str, key: KeyVersion) -> None:
        """Store a new key, and verify that the store returns it. The first use of the key reads it once more.

        Only this method verifies a created key, for every store. A store may read an entry for another reason: on K/V
        v1, which has no check-and-set, two servers that create one key at once find out that way whose key stayed.

        Raises:
            EntryExistsError: A key of this name exists.
            KeyStoreError: The store fails, or does not return the key.
        """
        try:
            await create_entry(self._store, name, key.encode())
        except EntryExistsError:
            raise
        except BaseException:
            self._entries.pop(name, None)
            raise
        else:
            self._entries.pop(name, None)  # an older key of this name, which another server has deleted
        finally:
            # A read that began earlier may not have seen the new key: later requests must not share it.
            self._reads.pop(name, None)
            if self._on_change is not None:
                await self._on_change(name)

    async def rotate(self, name: str, created_by: str, if_older_than: float = 0.0) -> tuple[KeyVersion, bool]:
        """Add a version to a key, as `rotate_key`. The rotation continues if the caller is cancelled."""
        return await self.change(name, lambda store: rotate_key(store, name, created_by, if_older_than))

    async def change(self, name: str, change: Callable[[WatchedStore], Awaitable[T]]) -> T:
        """Call a function that changes a key in the store. It continues if the caller is cancelled."""

        async def work() -> T:
            try:
                result = await change(self._store)
            except (EntryNotFoundError, RotationConflictError):
                await self._changed(name)
                raise
            # After another failure the key stays in memory: the store may be unreachable.
            await self._changed(name)
            return result

        return await self._wait_for(self._start(work()))

    async def look_for_versions(self, name: str) -> StoredKey:
        """Return a key after asking the store for versions that another server has added to it.

        Clients choose what ciphertexts say. So the store is asked once a second for each key, at most; requests that
        come in between wait, and share the answer.

        Raises:
            EntryNotFoundError: The key was deleted.
            KeyStoreError: The store fails.
        """
        asked_at = self._clock()
        while True:
            entry = self._entries.get(name)
            if entry is None:
                return await self.get(name)
            if entry.looked_at >= asked_at:
                return entry.key
            look = self._looks.get(name)
            if look is None:
                look = self._looks[name] = self._start(self._look(name, entry))
            await self._wait_for(look)

    async def _look(self, name: str, entry: _Entry) -> None:
        try:
            await asyncio.sleep(entry.looked_at + LOOK_INTERVAL - self._clock())
            entry.looked_at = self._clock()
            entry.key = await read_later_entries(self._store.get, name, entry.first, entry.key)
        except StoredKeyError as error:
            raise damaged(name, error) from None
        finally:
            del self._looks[name]

    def forget(self, name: str) -> None:
        """Drop a key that another process created, changed or deleted."""
        self._entries.pop(name, None)
        # A read that began earlier must not bring back the old key.
        self._reads.pop(name, None)

    def forget_all(self) -> None:
        """Drop all keys: other processes may have created, changed or deleted some without notifying this cache."""
        self._entries.clear()
        self._reads.clear()

    async def delete(self, name: str) -> None:
        """Delete a key, even if the caller is cancelled. When this returns or raises, the key is not in memory.

        Raises:
            EntryNotFoundError: The store has no key of this name.
            KeyStoreError: The store fails.
        """
        await self._wait_for(self._start(self._delete(name)))

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        """List names of keys as `KeyStore.list` does."""
        return await self._store.list_keys(prefix, start=start, limit=limit)

    async def status(self) -> float:
        """Check the store's health; return the seconds until it answered. A store that has too many requests works.

        Raises:
            KeyStoreUnreachableError: The store does not answer.
            KeyStoreError: The store answers, but can't serve requests.
        """
        return await self._store.status()

    async def sweep(self) -> None:
        """Drop expired keys, so that no key stays in memory longer than `CacheExpiry` allows."""
        now = self._clock()
        async for name in in_turns(self._entries, _SWEPT_AT_ONCE):
            entry = self._entries.get(name)
            if entry is not None and self._may_drop(entry, now):
                del self._entries[name]

    async def run(self) -> None:
        """Drop expired keys and check the store's health periodically, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep_periodically())
            tasks.create_task(self._monitor_health())

    def keys(self) -> dict[str, StoredKey]:
        """Return the keys in memory by name."""
        return {name: entry.key for name, entry in self._entries.items()}

    def credentials(self) -> Sequence[Credential]:
        """Return what the key store logs in with and that runs out."""
        return self._store.credentials()

    async def close(self) -> None:
        """Drop all keys and close the store. Calls that wait for a key raise an error."""
        await end_tasks(self._tasks)
        self._entries.clear()
        await self._store.close()

    async def _sweep_periodically(self) -> None:
        rules = (self._expiry.any, self._expiry.unused, self._expiry.offline)
        interval = min([self._health_interval, *(max(rule / 2, 0.1) for rule in rules if rule)])
        while True:
            await self.sweep()
            await asyncio.sleep(interval)

    async def _monitor_health(self) -> None:
        while True:
            await self._check_health()
            await asyncio.sleep(self._health_interval)

    async def _check_health(self) -> None:
        problem = ""
        try:
            # A call to a file system or over a network can hang forever.
            async with asyncio.timeout(self._health_timeout):
                await self.status()
        except TimeoutError:
            error = KeyStoreUnreachableError(f"no answer within {self._health_timeout:g} s")
            self._store.has_hung("status", error)
        except KeyStoreUnreachableError:
            pass  # it is logged already
        except KeyStoreError as error:
            problem = str(error)
        except Exception as error:  # a faulty back end must not end the health checks
            problem = f"the back end is faulty: {type(error).__name__}"
        self._store.log_once(problem)

    def _start(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a call to the store that continues if its caller is cancelled."""
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._discard_task)
        return task

    def _discard_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not warn if the caller was cancelled

    async def _wait_for(self, task: asyncio.Task[T]) -> T:
        await asyncio.wait({task})
        if task.cancelled():
            raise KeyStoreError("the key store has been closed")
        return task.result()

    async def _read(self, name: str) -> StoredKey:
        requested_at = self._clock()
        known = self._entries.get(name)
        try:
            value = await self._store.get(name)
            key = await read_key(self._store.get, name, value, known.key if known is not None else None)
        except EntryNotFoundError:
            self._remember(name, None)
            raise
        except StoredKeyError as error:
            self._remember(name, None)
            raise damaged(name, error) from None
        except KeyStoreError:
            # If the store has just become unreachable, `CacheExpiry.offline` may allow the cached key.
            previous = self._entries.get(name)
            if previous is None or self._expired(previous, self._clock()):
                raise
            previous.checked_at = self._clock()
            return previous.key
        else:
            self._remember(name, _Entry(key, fingerprint(value), self._clock(), requested_at))
            return key
        finally:
            if self._reads.get(name) is asyncio.current_task():
                del self._reads[name]

    def _remember(self, name: str, entry: _Entry | None) -> None:
        """Cache the result of a read, unless the key was created or deleted meanwhile."""
        if self._reads.get(name) is not asyncio.current_task():
            return
        if entry is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = entry

    async def _delete(self, name: str) -> None:
        try:
            await delete_key(self._store, name)
        finally:
            await self._changed(name)

    async def _changed(self, name: str) -> None:
        """Forget a key, here and in other processes: the next use reads what is stored now."""
        self.forget(name)
        if self._on_change is not None:
            await self._on_change(name)

    def _expired(self, entry: _Entry, now: float) -> bool:
        """Return whether a key may no longer be used."""
        expiry = self._expiry
        if self._store.unreachable and expiry.offline:
            return now - entry.read_at >= expiry.offline
        return bool(
            (expiry.any and now - entry.read_at >= expiry.any)
            or (expiry.unused and now - entry.used_at >= expiry.unused)
        )

    def _may_drop(self, entry: _Entry, now: float) -> bool:
        """Return whether a key has expired and can't be needed for an outage that is not yet detected."""
        return self._expired(entry, now) and (
            self._store.unreachable
            or now - entry.read_at >= self._expiry.offline
            or self._expired(entry, self._store.last_answer_at)
        )

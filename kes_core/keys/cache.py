"""The key cache in front of a key store (protocol section 7)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kes_core.counters import StoreCounters
from kes_core.keys.stored import KeyVersion, StoredKeyError
from kes_core.keystore import (
    PAGE_SIZE,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreUnreachableError,
    Page,
)

__all__ = ["CacheExpiry", "KeyCache"]

T = TypeVar("T")

logger = logging.getLogger("kes.keystore")

HEALTH_TIMEOUT: Final = 10.0
"""Seconds that a look at the store's health may take at the least."""


@dataclass(frozen=True, slots=True)
class CacheExpiry:
    """How long keys are used without asking the store again, in seconds; 0 switches a rule off.

    Each key has its own time, counted from when it was read: no key is used for longer than by dropping all of them
    once in a while, and they are not all read again at the same moment.
    """

    any: float = 300.0
    """However often they are used."""
    unused: float = 30.0
    """After their last use."""
    offline: float = 0.0
    """Instead of both, while the store is unreachable. Where this is set, a key stays in memory until the store has
    been seen to work after the key's time was up: an outage is noticed only some seconds after it began."""


class _Entry:
    __slots__ = ("check", "checked_at", "key", "read_at", "used_at")

    def __init__(self, key: KeyVersion, now: float, asked_at: float) -> None:
        self.key = key
        self.read_at = now
        self.used_at = now
        self.checked_at = asked_at
        """When the store was last asked for the key, whatever became of that."""
        self.check: asyncio.Task[KeyVersion] | None = None
        """The read in the background that sees whether the key is still the same."""


class KeyCache:
    """Keys of a store, decoded, in memory. Belongs to one event loop.

    However many requests wait for a key that is not in memory, the store is asked once. Errors are not remembered.

    Other servers may delete a key, and create another of its name. So a key in use is read again in the background once
    per `KeyStore.check_interval`. A key that has not been used for two intervals is read before it is used. Only an
    answer of the store changes what is in memory: while the store fails or hangs, keys are used as `CacheExpiry` says.
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
        """Put a cache in front of `store`, which it closes when it is closed itself.

        Args:
            store: Where the keys are.
            expiry: How long they stay in memory.
            clock: Returns seconds that only grow.
            health_interval: Seconds between two looks at the store's health (`run`), and how long one may take, if
                not as the store itself says.
            counters: Where to count what cache and store do.
            on_change: Called with the name of a key that was created or deleted, before that is told: returns when no
                other cache in front of the same store goes by what it knew of the key.
        """
        self._store = store
        self._expiry = expiry
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._reads: dict[str, asyncio.Task[KeyVersion]] = {}
        """The read that later requests for a key may join."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """Calls to the store that go on when who asked for them gives up."""
        self._health_interval = health_interval or store.health_interval or HEALTH_TIMEOUT
        self._health_timeout = health_interval or max(store.health_interval, HEALTH_TIMEOUT)
        self._check_interval = store.check_interval or float("inf")
        self._unreachable = False
        self._reason: KeyStoreReason | None = None
        self._answered_at = clock()
        """The store is known to have worked at that time."""
        self._complaint = ""
        self._counters = counters if counters is not None else StoreCounters()
        self._on_change = on_change

    def peek(self, name: str) -> KeyVersion | None:
        """Return a key if it is in memory, without asking the store. Counts as a use of it."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        now = self._clock()
        if self._expired(entry, now):
            return None
        if now >= entry.checked_at + self._check_interval and not self._check(name, entry, now):
            return None
        entry.used_at = now
        self._counters.hits += 1
        return entry.key

    def _check(self, name: str, entry: _Entry, now: float) -> bool:
        """Have a key read again; tell whether it may be used in the meantime."""
        if self._unreachable or (entry.check is not None and not entry.check.done()):
            return True
        if now >= entry.checked_at + 2 * self._check_interval:
            return False
        entry.check = self._joined_read(name)
        return True

    async def get(self, name: str) -> KeyVersion:
        """Return a key, from memory or from the store.

        Raises:
            EntryNotFoundError: There is none of that name.
            KeyStoreUnreachableError: The store does not answer.
            KeyStoreError: It fails, or what it holds under the name is no key.
        """
        key = self.peek(name)
        if key is not None:
            return key
        self._counters.misses += 1
        return await self._outcome(self._joined_read(name))

    def _joined_read(self, name: str) -> asyncio.Task[KeyVersion]:
        """Return the read of a key that is under way, or begin one."""
        read = self._reads.get(name)
        if read is None:
            read = self._reads[name] = self._start(self._read(name))
        return read

    async def create(self, name: str, key: KeyVersion) -> None:
        """Store a new key, and see that the store gives it back. It is read once more when it is first used.

        Raises:
            EntryExistsError: The name is taken.
            KeyStoreError: The store fails, or has lost the key.
        """
        value = key.encode()
        try:
            await self._watched("create", self._store.create(name, value))
            self._entries.pop(name, None)  # of a key that another server has deleted
            await self._verify(name, value)
        finally:
            # Who asks from now on must not be given the answer of a read that may have been too early.
            self._reads.pop(name, None)
            if self._on_change is not None:
                await self._on_change(name)

    async def _verify(self, name: str, value: bytes) -> None:
        """See that the store holds what it was given: data encrypted under a key that it lost would be lost too."""
        try:
            stored = await self._watched("get", self._store.get(name))
        except EntryNotFoundError:
            stored = b""
        if not hmac.compare_digest(stored, value):
            raise KeyStoreError(f"the key store has taken the key {name!r} but does not give it back")

    def forget(self, name: str) -> None:
        """Drop a key that somebody else has created or deleted."""
        self._entries.pop(name, None)
        # A read that began before must not bring back what it was too early for.
        self._reads.pop(name, None)

    def forget_all(self) -> None:
        """Drop all keys, for whatever was created or deleted without this cache being told."""
        self._entries.clear()
        self._reads.clear()

    async def delete(self, name: str) -> None:
        """Delete a key. Once this returns, or fails, it is no longer in memory.

        A deletion that was begun is carried out, also if the caller gives up.

        Raises:
            EntryNotFoundError: There is none, as far as the store can tell.
            KeyStoreError: The store fails.
        """
        await self._outcome(self._start(self._delete(name)))

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        """List names as `KeyStore.list` does."""
        return await self._watched("list", self._store.list(prefix, start=start, limit=limit))

    async def status(self) -> float:
        """Ask the store for a sign of life; return the seconds it took to give one.

        Raises:
            KeyStoreUnreachableError: It does not answer.
            KeyStoreError: It answers, but can't serve.
        """
        started = self._clock()
        await self._watched("status", self._store.status())
        return self._clock() - started

    def sweep(self) -> None:
        """Drop what has expired, so that no key stays in memory longer than it may."""
        now = self._clock()
        for name in [name for name, entry in self._entries.items() if self._may_drop(entry, now)]:
            del self._entries[name]

    async def run(self) -> None:
        """Look after the cache until cancelled: drop what expires, and notice when the store comes and goes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep_regularly())
            tasks.create_task(self._watch())

    async def close(self) -> None:
        """Forget all keys and close the store. Whoever waits for a key is told so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._entries.clear()
        await self._store.close()

    async def _sweep_regularly(self) -> None:
        rules = (self._expiry.any, self._expiry.unused, self._expiry.offline)
        interval = min([self._health_interval, *(max(rule / 2, 0.1) for rule in rules if rule)])
        while True:
            self.sweep()
            await asyncio.sleep(interval)

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(self._health_interval)

    async def _look(self) -> None:
        complaint = ""
        try:
            # A file system or a connection can hang for ever.
            async with asyncio.timeout(self._health_timeout):
                await self.status()
        except TimeoutError:
            error = KeyStoreUnreachableError(f"no answer within {self._health_timeout:g} s")
            self._count_error("status", error)
            self._note_outage(error)
        except KeyStoreUnreachableError:
            pass  # noted and logged
        except KeyStoreError as error:
            complaint = str(error)
        except Exception as error:  # a faulty back end must not end the watch
            complaint = f"the back end is faulty: {type(error).__name__}"
        self._log_once(complaint)

    def _log_once(self, complaint: str) -> None:
        """Log why the store can't serve though it answers, unless that is what was logged last."""
        if complaint and complaint != self._complaint:
            logger.warning("the key store is unavailable: %s", complaint)
        self._complaint = complaint

    def _start(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Make a call to the store that goes on when who asked for it gives up."""
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # maybe nobody waits for it any more, which is no reason for a warning

    async def _outcome(self, task: asyncio.Task[T]) -> T:
        await asyncio.wait({task})
        if task.cancelled():
            raise KeyStoreError("the key store has been closed")
        return task.result()

    async def _read(self, name: str) -> KeyVersion:
        asked_at = self._clock()
        try:
            value = await self._watched("get", self._store.get(name))
            key = KeyVersion.decode(value)
        except EntryNotFoundError:
            self._put(name, None)
            raise
        except StoredKeyError as error:
            self._put(name, None)
            raise KeyStoreError(f"the entry {name!r} in the key store is damaged: {error}") from None
        except KeyStoreError:
            # The outage may have been noticed only now: for its time other rules apply.
            kept = self._entries.get(name)
            if kept is None or self._expired(kept, self._clock()):
                raise
            kept.checked_at = self._clock()
            return kept.key
        else:
            self._put(name, _Entry(key, self._clock(), asked_at))
            return key
        finally:
            if self._reads.get(name) is asyncio.current_task():
                del self._reads[name]

    def _put(self, name: str, entry: _Entry | None) -> None:
        """Take over what was read, unless the key has been created or deleted in the meantime."""
        if self._reads.get(name) is not asyncio.current_task():
            return
        if entry is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = entry

    async def _delete(self, name: str) -> None:
        try:
            await self._watched("delete", self._store.delete(name))
        finally:
            self.forget(name)
            if self._on_change is not None:
                await self._on_change(name)

    async def _watched(self, operation: str, call: Awaitable[T]) -> T:
        """Await a call to the store, count it, and note whether the store can be reached."""
        started = self._clock()
        try:
            result = await call
        except (EntryExistsError, EntryNotFoundError):
            self._note_answer(operation, started)
            raise
        except KeyStoreUnreachableError as error:
            self._count_error(operation, error)
            self._note_outage(error)
            raise
        except KeyStoreError as error:
            self._count_error(operation, error)
            if error.reason is not None:
                self._log_once(str(error))
            raise
        except Exception:  # which does not tell whether the store was reached
            self._count_error(operation, None)
            raise
        self._note_answer(operation, started)
        return result

    def _count_error(self, operation: str, error: KeyStoreError | None) -> None:
        reason = error.reason if error is not None else None
        self._counters.errors[operation, reason or "error"] += 1

    def _note_outage(self, error: KeyStoreUnreachableError) -> None:
        """Take note that the store can't be reached; log it when that is new, or has another reason."""
        if not self._unreachable or error.reason is not self._reason:
            logger.error("the key store is not reachable: %s", error)
        self._unreachable, self._reason = True, error.reason

    def _note_answer(self, operation: str, started: float) -> None:
        self._counters.answered(operation, self._clock() - started)
        self._answered_at = max(self._answered_at, started)
        if self._unreachable:
            self._unreachable = False
            logger.warning("the key store is reachable again")

    def _expired(self, entry: _Entry, now: float) -> bool:
        """Tell whether a key may no longer be used."""
        expiry = self._expiry
        if self._unreachable and expiry.offline:
            return now - entry.read_at >= expiry.offline
        return bool(
            (expiry.any and now - entry.read_at >= expiry.any)
            or (expiry.unused and now - entry.used_at >= expiry.unused)
        )

    def _may_drop(self, entry: _Entry, now: float) -> bool:
        """Tell whether a key may not be used, nor is needed for an outage that nobody has noticed yet."""
        return self._expired(entry, now) and (
            self._unreachable or now - entry.read_at >= self._expiry.offline or self._expired(entry, self._answered_at)
        )

"""The key cache in front of a key store (protocol section 7)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from kes_core.crypto import KeyVersion, StoredKeyError
from kes_core.keystore import (
    PAGE_SIZE,
    KeyNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
    Page,
)

__all__ = ["CacheExpiry", "KeyCache"]

T = TypeVar("T")

logger = logging.getLogger("kes.keystore")

HEALTH_INTERVAL: Final = 10.0
"""Seconds between two looks at the store's health."""


@dataclass(frozen=True, slots=True)
class CacheExpiry:
    """How long keys stay in memory, in seconds; 0 switches a rule off."""

    any: float = 300.0
    """However often they are used."""
    unused: float = 30.0
    """After their last use."""
    offline: float = 0.0
    """Instead of both, while the store is unreachable."""


class _Entry:
    __slots__ = ("key", "read_at", "used_at")

    def __init__(self, key: KeyVersion, now: float) -> None:
        self.key = key
        self.read_at = now
        self.used_at = now


class KeyCache:
    """Keys of a store, decoded, in memory. Belongs to one event loop.

    However many requests wait for a key that is not in memory, the store is asked once. Errors are not remembered.
    """

    def __init__(self, store: KeyStore, expiry: CacheExpiry, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Put a cache in front of `store`, which it closes when it is closed itself.

        Args:
            store: Where the keys are.
            expiry: How long they stay in memory.
            clock: Returns seconds that only grow.
        """
        self._store = store
        self._expiry = expiry
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._reads: dict[str, asyncio.Task[KeyVersion]] = {}
        self._unreachable = False

    def peek(self, name: str) -> KeyVersion | None:
        """Return a key if it is in memory, without asking the store. Counts as a use of it."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        now = self._clock()
        if self._expired(entry, now):
            self._entries.pop(name, None)
            return None
        entry.used_at = now
        return entry.key

    async def get(self, name: str) -> KeyVersion:
        """Return a key, from memory or from the store.

        Raises:
            KeyNotFoundError: There is none of that name.
            KeyStoreUnreachableError: The store does not answer.
            KeyStoreError: It fails, or what it holds under the name is no key.
        """
        key = self.peek(name)
        if key is not None:
            return key
        read = self._reads.get(name)
        if read is None:
            read = asyncio.create_task(self._read(name))
            self._reads[name] = read
            read.add_done_callback(lambda done: self._read_done(name, done))
        # A caller that gives up must not take the key from those who wait with it.
        return await asyncio.shield(read)

    async def create(self, name: str, key: KeyVersion) -> None:
        """Store a new key. It is read back from the store when it is first used.

        Raises:
            KeyExistsError: The name is taken.
            KeyStoreError: The store fails.
        """
        try:
            await self._watched(self._store.create(name, key.encode()))
        finally:
            # Who asks from now on must not be given the answer of a read that may have been too early.
            self._reads.pop(name, None)

    async def delete(self, name: str) -> None:
        """Delete a key. Once this returns, or fails, it is no longer in memory.

        Raises:
            KeyNotFoundError: There is none, as far as the store can tell.
            KeyStoreError: The store fails.
        """
        try:
            await self._watched(self._store.delete(name))
        finally:
            self._entries.pop(name, None)
            # A read that began before the deletion must not bring the key back.
            self._reads.pop(name, None)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        """List names as `KeyStore.list` does."""
        return await self._watched(self._store.list(prefix, start=start, limit=limit))

    async def status(self) -> float:
        """Ask the store for a sign of life; return the seconds it took to give one.

        Raises:
            KeyStoreUnreachableError: It does not answer.
            KeyStoreError: It answers, but can't serve.
        """
        started = self._clock()
        await self._watched(self._store.status())
        return self._clock() - started

    def sweep(self) -> None:
        """Drop what has expired, so that no key stays in memory longer than it may."""
        now = self._clock()
        for name in [name for name, entry in self._entries.items() if self._expired(entry, now)]:
            del self._entries[name]

    async def run(self) -> None:
        """Look after the cache until cancelled: drop what expires, and notice when the store comes and goes."""
        rules = [rule for rule in (self._expiry.any, self._expiry.unused, self._expiry.offline) if rule]
        interval = min([HEALTH_INTERVAL, *(max(rule / 2, 0.1) for rule in rules)])
        next_look = self._clock()
        while True:
            if self._clock() >= next_look:
                next_look = self._clock() + HEALTH_INTERVAL
                await self._look()
            self.sweep()
            await asyncio.sleep(interval)

    async def close(self) -> None:
        """Forget all keys and close the store."""
        for read in list(self._reads.values()):
            read.cancel()
        self._entries.clear()
        await self._store.close()

    async def _look(self) -> None:
        try:
            await self.status()
        except KeyStoreUnreachableError:
            pass  # noted and logged
        except KeyStoreError as error:
            logger.warning("the key store is unavailable: %s", error)

    async def _read(self, name: str) -> KeyVersion:
        value = await self._watched(self._store.get(name))
        try:
            key = KeyVersion.decode(value)
        except StoredKeyError as error:
            raise KeyStoreError(f"the entry {name!r} in the key store is damaged: {error}") from None
        if self._reads.get(name) is asyncio.current_task():
            self._entries[name] = _Entry(key, self._clock())
        return key

    def _read_done(self, name: str, read: asyncio.Task[KeyVersion]) -> None:
        if self._reads.get(name) is read:
            del self._reads[name]
        if not read.cancelled() and isinstance(read.exception(), KeyNotFoundError):
            self._entries.pop(name, None)

    async def _watched(self, call: Awaitable[T]) -> T:
        """Await a call to the store, and note whether the store can be reached."""
        try:
            result = await call
        except KeyStoreUnreachableError as error:
            if not self._unreachable:
                self._unreachable = True
                logger.error("the key store is not reachable: %s", error)
            raise
        if self._unreachable:
            self._unreachable = False
            logger.warning("the key store is reachable again")
        return result

    def _expired(self, entry: _Entry, now: float) -> bool:
        expiry = self._expiry
        if self._unreachable and expiry.offline:
            return now - entry.read_at >= expiry.offline
        return bool(
            (expiry.any and now - entry.read_at >= expiry.any)
            or (expiry.unused and now - entry.used_at >= expiry.unused)
        )

"""A key cache on a store that tests can cut off, with a clock that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config.sections import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion
from kes_core.keystore import EntryNotFoundError, KeyStoreUnreachableError
from kes_core.names import parse_revision_name


class Store(MemoryKeyStore):
    """A store that counts its reads; tests can cut it off or delay it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        """Reads of the first entries of keys."""
        self.looks = 0
        """Reads of the entries of later versions."""
        self.down = False
        self.gate: asyncio.Event | None = None
        self.reading = asyncio.Event()

    async def status(self) -> None:
        if self.down:
            raise KeyStoreUnreachableError("cut off")

    async def get(self, name: str) -> bytes:
        if parse_revision_name(name) is not None:
            self.looks += 1
            if self.down:
                raise KeyStoreUnreachableError("cut off")
            return await super().get(name)
        self.reads += 1
        self.reading.set()
        value = None if self.down else self._values.get(name)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise KeyStoreUnreachableError("cut off")
        if value is None:
            raise EntryNotFoundError(name)
        return value


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Setup:
    def __init__(self, **expiry: float) -> None:
        self.store = Store()
        self.clock = Clock()
        self.cache = KeyCache(self.store, CacheExpiry(**expiry), clock=self.clock)
        self.key = KeyVersion.generate("me")

    async def reads(self, name: str = "k") -> int:
        """Get a key from the cache; return the number of reads of the store so far."""
        await self.cache.get(name)
        return self.store.reads


def run(test: Callable[[Setup], Awaitable[None]], **expiry: float) -> None:
    async def start() -> None:
        await test(Setup(**expiry))

    asyncio.run(start())


async def cut_off(s: Setup) -> None:
    s.store.down = True
    with pytest.raises(KeyStoreUnreachableError):
        await s.cache.status()

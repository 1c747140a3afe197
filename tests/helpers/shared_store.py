"""A key store that several servers of a test share, and that can die at any call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config.sections import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import change_condition, with_state
from kes_core.keys.stored import Condition, KeyState, KeyVersion
from kes_core.keys.versions import StoredKey
from kes_core.keystore import KeyStoreError, KeyStoreReason


class CrashError(BaseException):
    """The process dies."""


class Store(MemoryKeyStore):
    """A store that several servers share. It records calls, and can die before or after one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self.crash_at: tuple[int, bool] | None = None
        """The number of a call, and whether it is done."""
        self.forbidden: Callable[[str], bool] = lambda _name: False
        self.before: Callable[[str, str], Awaitable[None]] | None = None

    async def _called(self, call: str, name: str, *, done: bool) -> None:
        if not done:
            self.calls.append((call, name))
            if self.forbidden(name):
                raise KeyStoreError("permission denied", reason=KeyStoreReason.FORBIDDEN)
            before, self.before = self.before, None
            if before is not None:
                await before(call, name)
                self.before = before
        if self.crash_at == (len(self.calls), done):
            raise CrashError

    async def create(self, name: str, value: bytes) -> None:
        await self._called("create", name, done=False)
        await super().create(name, value)
        await self._called("create", name, done=True)

    async def get(self, name: str) -> bytes:
        await self._called("get", name, done=False)
        return await super().get(name)

    async def delete(self, name: str) -> None:
        await self._called("delete", name, done=False)
        await super().delete(name)
        await self._called("delete", name, done=True)

    @property
    def entries(self) -> list[str]:
        return sorted(self._values)

    def server(self) -> KeyCache:
        return KeyCache(self, CacheExpiry())


def run(test: Callable[[Store], Awaitable[None]]) -> None:
    """Run a test with a new store."""

    async def start() -> None:
        await test(Store())

    asyncio.run(start())


async def made(cache: KeyCache, name: str = "k", versions: int = 1) -> None:
    """Create a key with some versions."""
    await cache.create(name, KeyVersion.generate("me"))
    for _ in range(versions - 1):
        await cache.rotate(name, "me")


async def set_state(cache: KeyCache, state: KeyState) -> None:
    """Change the state of the key `k`."""
    await set_condition(cache, with_state(state))


async def set_condition(cache: KeyCache, change: Callable[[StoredKey], Condition]) -> Condition:
    """Change what the key `k` may be used for."""
    return await cache.change("k", lambda store: change_condition(store, "k", change, "me"))


async def sealed(cache: KeyCache, text: bytes = b"text") -> bytes:
    """Encrypt with the key `k`."""
    return (await cache.get("k")).key.encrypt(text)

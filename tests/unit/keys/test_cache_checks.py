"""Keys in the cache that another server has deleted or replaced, with a clock that the tests set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion
from kes_core.keystore import EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from kes_core.names import parse_revision_name

INTERVAL = 10.0


class Shared(MemoryKeyStore):
    """A store that other servers use as well. It can fail or hang, and counts reads of keys."""

    check_interval = INTERVAL

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.error: KeyStoreError | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def get(self, name: str) -> bytes:
        self.reads += parse_revision_name(name) is None
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return await super().get(name)


class Setup:
    def __init__(self, **expiry: float) -> None:
        self.now = 1000.0
        self.store = Shared()
        self.cache = KeyCache(self.store, CacheExpiry(**{"any": 300, "unused": 0, **expiry}), clock=lambda: self.now)
        self.old, self.new = KeyVersion.generate("old"), KeyVersion.generate("new")

    async def hold(self) -> None:
        """Load the old key into memory, and replace it in the store."""
        await self.store.create("k", self.old.encode())
        assert await self.cache.get("k") == self.old
        self.store._values["k"] = self.new.encode()

    async def checked(self) -> None:
        """Wait for the reads in the background."""
        await asyncio.gather(*self.cache._tasks, return_exceptions=True)


def run(test: Callable[[Setup], Awaitable[None]], **expiry: float) -> None:
    async def start() -> None:
        await test(Setup(**expiry))

    asyncio.run(start())


def test_replaced_key_in_use_is_noticed_without_holding_up_a_request() -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        s.now += INTERVAL - 0.1
        assert s.cache.peek("k") == s.old
        assert s.store.reads == 1
        s.now += 0.2
        for _ in range(100):
            assert s.cache.peek("k") == s.old  # while the check runs
        await s.checked()
        assert s.store.reads == 2
        assert s.cache.peek("k") == s.new

    run(check)


def test_deleted_key_in_use_is_noticed() -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        await s.store.delete("k")
        s.now += INTERVAL
        assert s.cache.peek("k") == s.old
        await s.checked()
        with pytest.raises(EntryNotFoundError):
            await s.cache.get("k")

    run(check)


def test_key_that_was_not_used_for_long_is_read_before_it_is_used() -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        s.now += 2 * INTERVAL
        assert await asyncio.gather(*(s.cache.get("k") for _ in range(10))) == [s.new] * 10
        assert s.store.reads == 2

    run(check)


def test_nothing_is_used_for_two_intervals_after_it_was_replaced() -> None:
    """This holds for any distance between requests."""

    async def check(s: Setup) -> None:
        for step in (0.1, 1.0, 3.3, 9.9, 10.1, 15.0, 19.9, 25.0):
            await s.store.create("k", s.old.encode())
            assert await s.cache.get("k") == s.old
            s.store._values["k"] = s.new.encode()
            replaced = s.now
            while (key := await s.cache.get("k")) == s.old:
                assert s.now < replaced + 2 * INTERVAL
                s.now += step
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert key == s.new
            await s.cache.delete("k")

    run(check)


@pytest.mark.parametrize("error", [KeyStoreUnreachableError("down"), KeyStoreError("refused")], ids=["down", "refused"])
def test_failing_store_takes_no_key_away(error: KeyStoreError) -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        s.store.error = error
        for _ in range(10):
            s.now += 25
            for _ in range(10):
                assert await s.cache.get("k") == s.old
                await s.checked()
        assert s.store.reads <= 11  # at most one per interval
        s.store.error = None
        await s.cache.status()
        s.now += 25
        assert await s.cache.get("k") == s.new

    run(check)


def test_expiry_still_counts_from_the_last_successful_read() -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        s.store.error = KeyStoreUnreachableError("down")
        s.now += 299
        assert await s.cache.get("k") == s.old
        s.now += 2
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.get("k")

    run(check)


def test_store_that_hangs_holds_up_no_key_in_use() -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        s.store.open.clear()
        for _ in range(10):
            s.now += INTERVAL
            assert s.cache.peek("k") == s.old
        assert s.store.reads == 1  # the background read has not begun, as this test has not awaited anything
        await asyncio.sleep(0)
        assert s.store.reads == 2
        s.store.open.set()
        await s.checked()
        assert s.cache.peek("k") == s.new

    run(check)


def test_created_key_replaces_one_in_memory_that_another_server_has_deleted() -> None:
    async def check(s: Setup) -> None:
        await s.hold()
        await s.store.delete("k")
        await s.cache.create("k", s.new)
        assert await s.cache.get("k") == s.new

    run(check)


def test_refused_create_does_not_keep_a_key_from_being_checked() -> None:
    """The create discards the results of earlier reads, such as the check, which the cache must then repeat."""

    async def check(s: Setup) -> None:
        await s.hold()
        s.store.open.clear()
        s.now += INTERVAL
        assert s.cache.peek("k") == s.old
        with pytest.raises(KeyStoreError):
            await s.cache.create("k", s.old)
        s.store.open.set()
        await s.checked()
        s.now += INTERVAL
        s.cache.peek("k")
        await s.checked()
        assert await s.cache.get("k") == s.new

    run(check)


def test_store_that_only_this_process_changes_is_not_read_again() -> None:
    async def check(s: Setup) -> None:
        s.store.check_interval = 0.0
        s.cache = KeyCache(s.store, CacheExpiry(any=0, unused=0), clock=lambda: s.now)
        await s.hold()
        s.now += 1e6
        assert await s.cache.get("k") == s.old
        assert s.store.reads == 1

    run(check)

"""The key cache while its store can't be reached, and how it notices the outage."""

from __future__ import annotations

import asyncio

import pytest

from kes_core.config import CacheExpiry
from kes_core.counters import StoreCounters
from kes_core.keys.cache import KeyCache
from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from tests.helpers.cache import Setup, Store, cut_off, run


def test_outage_is_bridged_for_the_offline_time() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        s.store.down = True
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.status()
        s.clock.now += 3599
        assert s.cache.peek("k") == s.key  # long after `any` and `unused`
        await s.cache.sweep()
        assert await s.cache.get("k") == s.key
        s.clock.now += 1
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.get("k")
        s.store.down = False
        assert await s.cache.get("k") == s.key

    run(check, any=300, unused=30, offline=3600)


def test_ordinary_rules_apply_again_once_the_store_is_back() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        assert await s.reads() == 1
        s.store.down = True
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.status()
        s.clock.now += 100
        assert s.cache.peek("k") == s.key
        s.store.down = False
        await s.cache.status()
        s.clock.now += 31
        assert s.cache.peek("k") is None

    run(check, any=300, unused=30, offline=3600)


def test_without_offline_time_an_outage_is_not_bridged() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        s.store.down = True
        s.clock.now += 31
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.get("k")

    run(check, any=300, unused=30)


def test_store_that_comes_and_goes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(s: Setup) -> None:
        s.store.down = True
        for _ in range(5):
            with pytest.raises(KeyStoreUnreachableError):
                await s.cache.status()
        s.store.down = False
        for _ in range(5):
            await s.cache.status()

    run(check)
    assert [record.getMessage() for record in caplog.records] == [
        "the key store is not reachable: cut off",
        "the key store is reachable again",
    ]


def test_answer_that_a_key_is_absent_or_taken_shows_that_the_store_is_back() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        for answer, error in (
            (lambda: s.cache.get("absent"), EntryNotFoundError),
            (lambda: s.cache.create("k", s.key), EntryExistsError),
        ):
            await cut_off(s)
            s.clock.now += 100
            assert s.cache.peek("k") == s.key
            s.store.down = False
            with pytest.raises(error):
                await answer()
            assert s.cache.peek("k") is None  # the normal expiry applies again
            assert await s.cache.get("k") == s.key

    run(check, any=50, unused=30, offline=3600)


@pytest.mark.parametrize("age", [31, 301])
def test_key_that_expires_before_the_outage_is_noticed_bridges_it(age: int) -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        s.store.down = True
        s.clock.now += age
        await s.cache.sweep()
        assert s.cache.peek("k") is None  # the cache has not noticed the outage yet
        assert await s.cache.get("k") == s.key
        assert s.cache.peek("k") == s.key
        s.clock.now += 3600 - age
        await s.cache.sweep()
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.get("k")
        assert not s.cache._entries

    run(check, any=300, unused=30, offline=3600)


def test_expired_key_is_forgotten_once_the_store_has_been_seen_to_work() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        s.clock.now += 31
        await s.cache.sweep()
        assert s.cache._entries
        await s.cache.status()
        await s.cache.sweep()
        assert not s.cache._entries

    run(check, any=300, unused=30, offline=3600)


class Watched(Store):
    """A store with the health that a test sets; `done` is set when all of it was asked for."""

    def __init__(self, *health: BaseException | None) -> None:
        super().__init__()
        self.health = list(health)
        self.done = asyncio.Event()

    async def status(self) -> None:
        if not self.health:
            self.done.set()
            return
        answer = self.health.pop(0)
        if isinstance(answer, asyncio.CancelledError):  # simulates a file system that hangs
            await asyncio.Event().wait()
        if answer is not None:
            raise answer


def watched_until_healthy(*health: BaseException | None) -> StoreCounters:
    counters = StoreCounters()

    async def check() -> None:
        store = Watched(*health)
        cache = KeyCache(store, CacheExpiry(offline=3600), health_interval=0.01, counters=counters)
        task = asyncio.create_task(cache.run())
        async with asyncio.timeout(20):
            await store.done.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(check())
    return counters


def test_background_task_survives_every_failure_and_says_each_once(caplog: pytest.LogCaptureFixture) -> None:
    watched_until_healthy(
        KeyStoreError("disk full"),
        KeyStoreError("disk full"),
        RuntimeError("a secret"),
        KeyStoreUnreachableError("cut off"),
        KeyStoreUnreachableError("cut off"),
        None,
        KeyStoreError("disk full"),
    )
    assert [record.getMessage() for record in caplog.records] == [
        "the key store is unavailable: disk full",
        "the key store is unavailable: the back end is faulty: RuntimeError",
        "the key store is not reachable: cut off",
        "the key store is reachable again",
        "the key store is unavailable: disk full",
    ]


def test_store_that_hangs_is_unreachable(caplog: pytest.LogCaptureFixture) -> None:
    counters = watched_until_healthy(asyncio.CancelledError())
    assert counters.errors["status", "unreachable"] == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the key store is not reachable: no answer within 0.01 s",
        "the key store is reachable again",
    ]


def test_background_task_sweeps_while_the_store_hangs() -> None:
    class Hanging(Store):
        async def status(self) -> None:
            await asyncio.Event().wait()

    class Cache(KeyCache):
        async def sweep(self) -> None:
            await super().sweep()
            if not self._entries:
                emptied.set()

    emptied = asyncio.Event()

    async def check(s: Setup) -> None:
        cache = Cache(Hanging(), CacheExpiry(any=300, unused=30), clock=s.clock, health_interval=0.01)
        await cache.create("k", s.key)
        await cache.get("k")
        task = asyncio.create_task(cache.run())
        s.clock.now += 30
        async with asyncio.timeout(20):
            await emptied.wait()  # the key leaves the memory without a request
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(check)

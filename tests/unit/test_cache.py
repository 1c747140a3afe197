"""The key cache, with a clock that the tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kes_core.cache import CacheExpiry, KeyCache
from kes_core.crypto import KeyVersion
from kes_core.keystore import KeyExistsError, KeyNotFoundError, KeyStoreError, KeyStoreUnreachableError
from kes_core.memory import MemoryKeyStore


class Store(MemoryKeyStore):
    """A store that counts what it is asked, and can be cut off or held up."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.down = False
        self.gate: asyncio.Event | None = None
        self.reading = asyncio.Event()

    async def status(self) -> None:
        if self.down:
            raise KeyStoreUnreachableError("cut off")

    async def get(self, name: str) -> bytes:
        self.reads += 1
        self.reading.set()
        value = None if self.down else self._values.get(name)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise KeyStoreUnreachableError("cut off")
        if value is None:
            raise KeyNotFoundError(name)
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
        """Use a key and return how often the store has been read by then."""
        await self.cache.get(name)
        return self.store.reads


def run(test: Callable[[Setup], Awaitable[None]], **expiry: float) -> None:
    async def start() -> None:
        await test(Setup(**expiry))

    asyncio.run(start())


def test_key_is_read_once_while_it_is_used() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        assert s.cache.peek("k") is None
        assert await s.cache.get("k") == s.key
        for _ in range(29):
            s.clock.now += 9.9
            assert s.cache.peek("k") == s.key
        assert s.store.reads == 1

    run(check, any=300, unused=30)


def test_unused_key_is_read_again() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        assert await s.reads() == 1
        s.clock.now += 29.9
        assert await s.reads() == 1
        s.clock.now += 30
        assert s.cache.peek("k") is None
        assert await s.reads() == 2

    run(check, any=300, unused=30)


def test_any_key_is_read_again_however_often_it_is_used() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        for _ in range(10):
            assert await s.reads() == 1
            s.clock.now += 29.9
        s.clock.now += 1
        assert await s.reads() == 2

    run(check, any=300, unused=30)


def test_zero_switches_a_rule_off() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        assert await s.reads() == 1
        s.clock.now += 10**9
        assert await s.reads() == 1

    run(check, any=0, unused=0)


def test_outage_is_bridged_for_the_offline_time() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        await s.cache.get("k")
        s.store.down = True
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.status()
        s.clock.now += 3599
        assert s.cache.peek("k") == s.key  # long after `any` and `unused`
        s.cache.sweep()
        assert await s.cache.get("k") == s.key
        s.clock.now += 1
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.get("k")
        s.store.down = False
        assert await s.cache.get("k") == s.key

    run(check, any=300, unused=30, offline=3600)


def test_ordinary_rules_apply_again_once_the_store_is_back() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
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
        await s.cache.create("k", s.key)
        await s.cache.get("k")
        s.store.down = True
        s.clock.now += 31
        with pytest.raises(KeyStoreUnreachableError):
            await s.cache.get("k")

    run(check, any=300, unused=30)


def test_many_requests_for_one_key_cause_one_read() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        s.store.gate = asyncio.Event()
        waiting = [asyncio.create_task(s.cache.get("k")) for _ in range(100)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the one that began it gives up; the others do not notice
        await asyncio.sleep(0)
        s.store.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [s.key] * 99
        assert s.store.reads == 1

    run(check)


def test_errors_are_not_remembered() -> None:
    async def check(s: Setup) -> None:
        with pytest.raises(KeyNotFoundError):
            await s.cache.get("k")
        await s.cache.create("k", s.key)
        assert await s.cache.get("k") == s.key

    run(check)


def test_deleted_key_is_gone_at_once() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        await s.cache.get("k")
        await s.cache.delete("k")
        assert s.cache.peek("k") is None
        with pytest.raises(KeyNotFoundError):
            await s.cache.get("k")
        with pytest.raises(KeyNotFoundError):
            await s.cache.delete("k")

    run(check)


def test_read_under_way_does_not_bring_a_deleted_key_back() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        s.store.gate = asyncio.Event()
        reading = asyncio.create_task(s.cache.get("k"))
        await s.store.reading.wait()
        await s.cache.delete("k")
        s.store.gate.set()
        assert await reading == s.key  # it began before the deletion
        assert s.cache.peek("k") is None
        s.store.gate = None
        with pytest.raises(KeyNotFoundError):
            await s.cache.get("k")

    run(check)


def test_created_key_is_found_though_an_earlier_read_is_still_under_way() -> None:
    async def check(s: Setup) -> None:
        s.store.gate = asyncio.Event()
        early = asyncio.create_task(s.cache.get("k"))
        await s.store.reading.wait()
        await s.cache.create("k", s.key)
        late = asyncio.create_task(s.cache.get("k"))
        await asyncio.sleep(0)
        s.store.gate.set()
        with pytest.raises(KeyNotFoundError):
            await early
        assert await late == s.key

    run(check)


def test_damaged_entry_is_named_and_not_shown() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", b"c2VjcmV0IGJ1dCBubyBrZXk=")
        with pytest.raises(KeyStoreError, match="the entry 'k' in the key store is damaged") as caught:
            await s.cache.get("k")
        assert "c2Vj" not in str(caught.value)

    run(check)


def test_taken_name_and_listing_pass_through() -> None:
    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        with pytest.raises(KeyExistsError):
            await s.cache.create("k", KeyVersion.generate("other"))
        assert await s.cache.get("k") == s.key
        assert await s.cache.list("k") == (["k"], "")

    run(check)


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


def test_background_task_sweeps_and_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        await s.cache.get("k")
        entries: Any = s.cache._entries

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            s.clock.now += seconds
            if len(pauses) == 20:
                raise asyncio.CancelledError

        monkeypatch.setattr("kes_core.cache.asyncio.sleep", sleep)
        with pytest.raises(asyncio.CancelledError):
            await s.cache.run()
        assert not entries  # it is not left in memory until somebody asks for it

    run(check, any=300, unused=30)
    assert max(pauses) <= 10

"""The key cache, with a clock that the tests set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion
from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from tests.helpers.cache import Setup, Store, cut_off, run


def test_key_is_read_once_while_it_is_used() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        assert s.cache.peek("k") is None
        assert await s.cache.get("k") == s.key
        for _ in range(29):
            s.clock.now += 9.9
            assert s.cache.peek("k") == s.key
        assert s.store.reads == 1

    run(check, any=300, unused=30)


def test_unused_key_is_read_again() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        assert await s.reads() == 1
        s.clock.now += 29.9
        assert await s.reads() == 1
        s.clock.now += 30
        assert s.cache.peek("k") is None
        assert await s.reads() == 2

    run(check, any=300, unused=30)


def test_any_key_is_read_again_however_often_it_is_used() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        for _ in range(10):
            assert await s.reads() == 1
            s.clock.now += 29.9
        s.clock.now += 1
        assert await s.reads() == 2

    run(check, any=300, unused=30)


def test_zero_switches_a_rule_off() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        assert await s.reads() == 1
        s.clock.now += 10**9
        assert await s.reads() == 1

    run(check, any=0, unused=0)


def test_many_requests_for_one_key_cause_one_read() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        s.store.gate = asyncio.Event()
        waiting = [asyncio.create_task(s.cache.get("k")) for _ in range(100)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the first caller gives up; the others do not notice
        await asyncio.sleep(0)
        s.store.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [s.key] * 99
        assert s.store.reads == 1

    run(check)


def test_errors_are_not_remembered() -> None:
    async def check(s: Setup) -> None:
        with pytest.raises(EntryNotFoundError):
            await s.cache.get("k")
        await s.store.create("k", s.key.encode())
        assert await s.cache.get("k") == s.key

    run(check)


def test_deleted_key_is_gone_at_once() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        await s.cache.delete("k")
        assert s.cache.peek("k") is None
        with pytest.raises(EntryNotFoundError):
            await s.cache.get("k")
        with pytest.raises(EntryNotFoundError):
            await s.cache.delete("k")

    run(check)


def test_read_under_way_does_not_bring_a_deleted_key_back() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        s.store.gate = gate = asyncio.Event()
        reading = asyncio.create_task(s.cache.get("k"))
        await s.store.reading.wait()
        s.store.gate = None
        await s.cache.delete("k")
        gate.set()
        assert await reading == s.key  # it began before the deletion
        assert s.cache.peek("k") is None
        with pytest.raises(EntryNotFoundError):
            await s.cache.get("k")

    run(check)


def test_created_key_is_found_though_an_earlier_read_is_still_under_way() -> None:
    async def check(s: Setup) -> None:
        s.store.gate = gate = asyncio.Event()
        early = asyncio.create_task(s.cache.get("k"))
        await s.store.reading.wait()
        s.store.gate = None
        await s.cache.create("k", s.key)
        late = asyncio.create_task(s.cache.get("k"))
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(EntryNotFoundError):
            await early
        assert await late == s.key
        assert s.cache.peek("k") == s.key

    run(check)


@pytest.mark.parametrize("kept", [None, b"", KeyVersion.generate("another").encode()], ids=["lost", "empty", "other"])
def test_key_that_the_store_has_not_kept_is_not_created(kept: bytes | None) -> None:
    class Careless(Store):
        async def create(self, name: str, value: bytes) -> None:
            if kept is not None:
                await super().create(name, kept)

    async def check(s: Setup) -> None:
        cache = KeyCache(Careless(), CacheExpiry(), clock=s.clock)
        with pytest.raises(KeyStoreError, match="accepted the key 'k', but does not return it"):
            await cache.create("k", s.key)
        assert cache.peek("k") is None

    run(check)


def test_created_key_that_the_store_lost_later_is_not_served() -> None:
    """A created key enters the cache only when a request reads it from the store."""

    async def check(s: Setup) -> None:
        await s.cache.create("k", s.key)
        assert s.cache.peek("k") is None
        await s.store.delete("k")
        with pytest.raises(EntryNotFoundError):
            await s.cache.get("k")

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
        await s.store.create("k", s.key.encode())
        with pytest.raises(EntryExistsError):
            await s.cache.create("k", KeyVersion.generate("other"))
        assert await s.cache.get("k") == s.key
        assert await s.cache.list("k") == (["k"], "")

    run(check)


@pytest.mark.parametrize("damage", [None, b"c2VjcmV0IGJ1dCBubyBrZXk="])
def test_key_that_another_server_removed_or_damaged_is_dropped(damage: bytes | None) -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        await s.store.delete("k")
        if damage is not None:
            await s.store.create("k", damage)
        s.clock.now += 31
        with pytest.raises(KeyStoreError):
            await s.cache.get("k")
        await cut_off(s)
        assert s.cache.peek("k") is None  # an outage does not bring it back either

    run(check, any=300, unused=30, offline=3600)


def test_failure_reaches_all_waiting_callers_and_the_next_call_reads_again() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        s.store.down = True
        s.store.gate = asyncio.Event()
        waiting = [asyncio.create_task(s.cache.get("k")) for _ in range(20)]
        await s.store.reading.wait()
        s.store.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {KeyStoreUnreachableError}
        assert s.store.reads == 1
        s.store.down = False
        assert await s.cache.get("k") == s.key

    run(check)


def test_read_that_all_have_given_up_is_finished_and_kept() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        s.store.gate = asyncio.Event()
        reading = asyncio.create_task(s.cache.get("k"))
        await s.store.reading.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        s.store.gate.set()
        await asyncio.gather(*s.cache._tasks)
        assert s.cache.peek("k") == s.key
        assert s.store.reads == 1

    run(check)


def test_late_answer_does_not_undo_a_deletion_and_a_new_creation() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        s.store.gate = gate = asyncio.Event()
        early = asyncio.create_task(s.cache.get("k"))
        await s.store.reading.wait()
        s.store.gate = None
        await s.cache.delete("k")
        new = KeyVersion.generate("other")
        await s.cache.create("k", new)
        late = asyncio.create_task(s.cache.get("k"))
        await asyncio.sleep(0)
        gate.set()
        assert (await early, await late) == (s.key, new)
        assert s.cache.peek("k") == new

    run(check)


def test_deletion_whose_caller_gave_up_leaves_no_key_in_memory() -> None:
    class Slow(Store):
        def __init__(self) -> None:
            super().__init__()
            self.deleting, self.go_on = asyncio.Event(), asyncio.Event()

        async def delete(self, name: str) -> None:
            self.deleting.set()
            await self.go_on.wait()
            await super().delete(name)

    async def check(s: Setup) -> None:
        store = Slow()
        cache = KeyCache(store, CacheExpiry(), clock=s.clock)
        await cache.create("k", s.key)
        deleting = asyncio.create_task(cache.delete("k"))
        await store.deleting.wait()
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
        assert await cache.get("k") == s.key  # not deleted yet
        store.go_on.set()
        await asyncio.gather(*cache._tasks)
        with pytest.raises(EntryNotFoundError):
            await cache.get("k")

    run(check)


def test_callers_that_wait_for_a_key_get_an_error_when_the_cache_is_closed() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        s.store.gate = asyncio.Event()
        waiting = asyncio.create_task(s.cache.get("other"))
        s.store.reading.clear()
        await s.store.reading.wait()
        await s.cache.close()
        with pytest.raises(KeyStoreError, match="has been closed"):
            await waiting
        assert s.cache.peek("k") is None

    run(check)


class Delayed(MemoryKeyStore):
    """A store that waits a few turns of the event loop before and after each call."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance

    async def pause(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def get(self, name: str) -> bytes:
        await self.pause()
        try:
            return await super().get(name)
        finally:
            await self.pause()

    async def create(self, name: str, value: bytes) -> None:
        await self.pause()
        try:
            await super().create(name, value)
        finally:
            await self.pause()

    async def delete(self, name: str) -> None:
        await self.pause()
        try:
            await super().delete(name)
        finally:
            await self.pause()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["create", "delete", "get"]), st.sampled_from("ab")),
        st.just(("give up", "")),
        st.just(("wait", "")),
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 2**32))
def test_in_no_order_of_events_is_a_key_kept_that_is_not_stored(steps: list[tuple[str, str]], seed: int) -> None:
    """After any mixture of calls, some of them cancelled, each key in memory equals the stored one."""

    async def check() -> None:
        store = Delayed(Random(seed))
        cache = KeyCache(store, CacheExpiry())
        actions: dict[str, Callable[[str], Coroutine[Any, Any, Any]]] = {
            "create": lambda name: cache.create(name, KeyVersion.generate("me")),
            "delete": cache.delete,
            "get": cache.get,
        }
        calls: list[asyncio.Task[Any]] = []
        for step, name in steps:
            if step in actions:
                calls.append(asyncio.create_task(actions[step](name)))
            elif step == "give up" and calls:
                calls[-1].cancel()
            await store.pause()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*cache._tasks, return_exceptions=True)
        for name in "ab":
            cached = cache.peek(name)
            assert cached is None or cached == KeyVersion.decode(store._values[name])

    asyncio.run(check())

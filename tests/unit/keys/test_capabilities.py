"""The server and the migration keep to what a key store can do, and wait for a store that is busy or behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kes_core import (
    EntryExistsError,
    EntryNotFoundError,
    EntryRefusedError,
    KeyStore,
    KeyStoreBackend,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    Page,
    PluginContext,
    StoreCapabilities,
)
from kes_core.boundary import connect_store, stores
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import Section
from kes_core.config.sections import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.migration import Migration
from kes_core.keys.stored import KeyVersion
from kes_core.keys.writing import OnConflict


async def guarded(store: Any) -> KeyStore:
    async def connect(_settings: Section, _context: Any) -> Any:
        return store

    return await connect_store(
        KeyStoreBackend(name="mine", config=Section, connect=connect), Section(), PluginContext()
    )


def store_with(**capabilities: Any) -> MemoryKeyStore:
    store = MemoryKeyStore()
    store.capabilities = StoreCapabilities(**capabilities)
    return store


def test_names_and_values_that_do_not_fit_never_reach_the_store() -> None:
    async def check() -> None:
        raw = store_with(name_pattern="[a-z]+", max_value_size=3)
        store = await guarded(raw)
        await raw.create("Not-Ours", b"")
        with pytest.raises(EntryRefusedError, match=r"takes only names that match \[a-z\]\+"):
            await store.create("a-b", b"")
        with pytest.raises(EntryRefusedError, match="takes values of up to 3 bytes, and the key has 4"):
            await store.create("ab", b"1234")
        for call in (store.get("Not-Ours"), store.delete("Not-Ours")):
            with pytest.raises(EntryNotFoundError):
                await call
        await store.create("ab", b"123")
        assert await store.list() == Page(["ab"], "")

    asyncio.run(check())


def test_store_that_folds_case_gets_lower_case_only() -> None:
    """Otherwise a client evades a policy that denies `prod-*`."""

    class Folding(MemoryKeyStore):
        capabilities = StoreCapabilities(folds_case=True)

        async def get(self, name: str) -> bytes:
            return await super().get(name.lower())

    async def check() -> None:
        store = await guarded(Folding())
        await store.create("prod-1", b"key")
        with pytest.raises(EntryNotFoundError, match="use a name in lower case"):
            await store.get("PROD-1")
        with pytest.raises(EntryRefusedError, match="use a name in lower case"):
            await store.create("PROD-2", b"key")

    asyncio.run(check())


def test_unordered_listing_is_sorted_and_cut() -> None:
    class Unordered(MemoryKeyStore):
        capabilities = StoreCapabilities(ordered=False)

        async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Page:
            return Page(["b", "d", "a", "c"], "")

    async def check() -> None:
        store = await guarded(Unordered())
        assert await store.list(limit=2) == Page(["a", "b"], "c")
        assert await store.list(start="c", limit=2) == Page(["c", "d"], "")

    asyncio.run(check())


def test_no_more_calls_at_once_than_the_store_takes() -> None:
    class Narrow(MemoryKeyStore):
        capabilities = StoreCapabilities(max_concurrency=2)
        running = most = 0

        async def get(self, name: str) -> bytes:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0)
            self.running -= 1
            return b"value"

    async def check() -> None:
        raw = Narrow()
        store = await guarded(raw)
        await asyncio.gather(*(store.get("a") for _ in range(50)))
        assert raw.most == 2

    asyncio.run(check())


class Busy(MemoryKeyStore):
    """Has too many requests, `refusals` times."""

    def __init__(self, refusals: float, retry_after: float | None) -> None:
        super().__init__()
        self.refusals = refusals
        self.retry_after = retry_after
        self.calls = 0

    async def _refuse(self) -> None:
        self.calls += 1
        if self.refusals:
            self.refusals -= 1
            raise KeyStoreThrottledError("slow down", retry_after=self.retry_after)

    async def status(self) -> None:
        await self._refuse()

    async def get(self, name: str) -> bytes:
        await self._refuse()
        return await super().get(name)


@pytest.mark.parametrize("retry_after", [None, 0.01])
def test_throttled_call_is_repeated(retry_after: float | None) -> None:
    async def check() -> None:
        raw = Busy(3, retry_after)
        await raw.create("a", b"value")
        assert await (await guarded(raw)).get("a") == b"value"
        assert raw.calls == 4

    asyncio.run(check())


@pytest.mark.parametrize("retry_after", [None, 60.0, math.inf, 10**400])
def test_throttled_call_ends_with_its_request(retry_after: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "THROTTLE_TIME", 0.3)

    async def check() -> None:
        raw = Busy(math.inf, retry_after)
        with pytest.raises(KeyStoreThrottledError, match="slow down") as caught:
            await (await guarded(raw)).get("a")
        assert caught.value.reason is KeyStoreReason.THROTTLED
        assert raw.calls == (1 if retry_after else 2)

    asyncio.run(check())


def test_throttling_is_no_outage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Keys in the cache stay usable, the store counts as reachable, and the log says it once."""
    monkeypatch.setattr(stores, "THROTTLE_TIME", 0.0)

    async def check() -> None:
        raw = Busy(math.inf, None)
        cache = KeyCache(await guarded(raw), CacheExpiry())
        for _ in range(3):
            with pytest.raises(KeyStoreThrottledError):
                await cache.get("a")
        assert await cache.status() >= 0
        await cache.close()

    asyncio.run(check())
    assert caplog.messages == ["the key store can't read a key: slow down"]


class Behind(MemoryKeyStore):
    """Shows a created key only to the third read after that."""

    capabilities = StoreCapabilities(eventually_consistent=5.0)

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[str, int] = {}

    async def get(self, name: str) -> bytes:
        value = await super().get(name)
        self.reads[name] = self.reads.get(name, 0) + 1
        if self.reads[name] < 3:
            raise EntryNotFoundError("not yet")
        return value


def test_new_key_of_a_store_that_is_behind_is_waited_for() -> None:
    async def check() -> None:
        cache = KeyCache(await guarded(Behind()), CacheExpiry())
        key = KeyVersion.generate("me")
        await cache.create("a", key)
        assert await cache.get("a") == key
        await cache.close()

    asyncio.run(check())


def run_migration(
    prepare: Callable[[MemoryKeyStore, KeyStore], Awaitable[None]], target: MemoryKeyStore, **options: Any
) -> Migration:
    async def check() -> Migration:
        source = MemoryKeyStore()
        await prepare(source, target)
        migration = Migration(source, await guarded(target), **options)
        await migration.run(await migration.names("*"))
        return migration

    return asyncio.run(check())


async def two_keys(source: MemoryKeyStore, _target: KeyStore) -> None:
    for name in ("good", "Not_Good"):
        await source.create(name, KeyVersion.generate("me").encode())


@pytest.mark.parametrize("dry_run", [False, True])
def test_migration_names_keys_that_the_target_can_not_hold(dry_run: bool) -> None:
    summary = run_migration(two_keys, store_with(name_pattern="[a-z-]+"), dry_run=dry_run).summary
    assert summary.failures == {"Not_Good": "the key store takes only names that match [a-z-]+"}
    assert summary.counts["copied"] == 1  # type: ignore[index] # an Outcome is its text


def test_migration_waits_for_a_target_that_is_behind() -> None:
    assert run_migration(two_keys, Behind()).summary.failures == {}


class Keeping(MemoryKeyStore):
    """Keeps the name of a deleted key, for some attempts to create it."""

    def __init__(self, recovers_deleted: float) -> None:
        super().__init__()
        self.capabilities = StoreCapabilities(recovers_deleted=recovers_deleted)
        self._kept: dict[str, int] = {}

    async def delete(self, name: str) -> None:
        await super().delete(name)
        self._kept[name] = 2

    async def create(self, name: str, value: bytes) -> None:
        if self._kept.get(name):
            self._kept[name] -= 1
            raise EntryExistsError("the name is taken by a deleted key")
        await super().create(name, value)


async def conflict(source: MemoryKeyStore, target: KeyStore) -> None:
    for store in (source, target):
        await store.create("a", KeyVersion.generate("me").encode())


def test_migration_replaces_a_key_when_its_name_is_free_again() -> None:
    summary = run_migration(conflict, Keeping(10.0), on_conflict=OnConflict.REPLACE).summary
    assert (summary.failures, summary.counts["replaced"]) == ({}, 1)  # type: ignore[index] # as above


def test_migration_deletes_no_key_whose_name_stays_taken() -> None:
    target = Keeping(math.inf)
    summary = run_migration(conflict, target, on_conflict=OnConflict.REPLACE).summary
    assert summary.failures == {"a": "the target keeps the names of deleted keys, so --force can't replace a key there"}
    assert asyncio.run(target.get("a"))


@pytest.mark.parametrize(
    "fields",
    [{"name_pattern": "["}, {"max_value_size": 0}, {"max_concurrency": -1}, {"eventually_consistent": math.inf}],
)
def test_impossible_capabilities(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|regular expression"):
        StoreCapabilities(**fields)


def test_capabilities_of_another_type_are_refused_at_connect() -> None:
    store = MemoryKeyStore()
    store.capabilities = {"ordered": False}  # type: ignore[assignment]
    with pytest.raises(KeyStoreError, match="whose 'capabilities' are StoreCapabilities"):
        asyncio.run(guarded(store))

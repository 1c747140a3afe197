"""Copying keys between stores that fail at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.copying import Outcome
from kes_core.keys.migration import Migration
from kes_core.keys.stored import KeyVersion
from kes_core.keys.writing import OnConflict
from kes_core.keystore import EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from tests.helpers.wrapping import entry


def key() -> bytes:
    return KeyVersion.generate("me").encode()


def run(check: Callable[[MemoryKeyStore, MemoryKeyStore], Awaitable[None]]) -> None:
    async def start() -> None:
        await check(MemoryKeyStore(), MemoryKeyStore())

    asyncio.run(start())


async def fill(store: MemoryKeyStore, *names: str) -> dict[str, bytes]:
    values = {name: key() for name in names}
    for name, value in values.items():
        await store.create(name, value)
    return values


async def migrate(migration: Migration, pattern: str = "*") -> dict[str, int]:
    await migration.run(await migration.names(pattern))
    return {str(outcome): count for outcome, count in migration.summary.counts.items() if count}


async def content(store: MemoryKeyStore) -> dict[str, bytes]:
    return {name: await store.get(name) for name in (await store.list(limit=10**6)).names}


def test_every_key_is_copied_and_a_second_run_finds_them() -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        values = await fill(source, *(f"key-{number}" for number in range(3000)))
        assert await migrate(Migration(source, target)) == {"copied": 3000}
        assert await content(target) == values
        assert await migrate(Migration(source, target)) == {"identical": 3000}

    run(check)


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*", {"a", "ab", "b"}), ("a*", {"a", "ab"}), ("a", {"a"}), ("c*", set()), ("c", set())]
)
def test_pattern(pattern: str, expected: set[str]) -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        await fill(source, "a", "ab", "b")
        await migrate(Migration(source, target), pattern)
        assert set(await content(target)) == expected

    run(check)


def test_wrapping_keys_are_not_copied() -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        await fill(source, "a", "kes-wrapping-key")
        await source.create(*entry())
        assert await migrate(Migration(source, target)) == {"copied": 2}
        assert set(await content(target)) == {"a", "kes-wrapping-key"}

    run(check)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("existing", OnConflict)
def test_another_key_of_the_same_name(existing: OnConflict, dry_run: bool) -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        new = await fill(source, "free", "taken")
        old = await fill(target, "taken", "other")
        migration = Migration(source, target, on_conflict=existing, dry_run=dry_run)
        outcome = {OnConflict.FAIL: "failed", OnConflict.KEEP: "skipped", OnConflict.REPLACE: "replaced"}[existing]
        assert await migrate(migration) == {"copied": 1, outcome: 1}
        failed = existing is OnConflict.FAIL
        assert list(migration.summary.failures) == ["taken"] * failed
        if failed:
            assert "--merge keeps it, --force replaces it" in migration.summary.failures["taken"]
        taken = new["taken"] if existing is OnConflict.REPLACE else old["taken"]
        expected = old if dry_run else {"free": new["free"], "taken": taken, "other": old["other"]}
        assert await content(target) == expected

    run(check)


def test_damaged_key_is_reported_and_not_copied() -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        await fill(source, "good")
        await source.create("bad", b"a secret that is not a key")
        migration = Migration(source, target)
        assert await migrate(migration) == {"copied": 1, "failed": 1}
        assert "the source's entry is not a key" in migration.summary.failures["bad"]
        assert "secret" not in migration.summary.failures["bad"]
        assert set(await content(target)) == {"good"}

    run(check)


class Faulty(MemoryKeyStore):
    """Fails each call in `faults` once, before or after it does its work."""

    def __init__(self, *faults: tuple[str, str, KeyStoreError]) -> None:
        super().__init__()
        self.faults = list(faults)

    def _fail(self, call: str, moment: str) -> None:
        for fault in self.faults:
            if fault[:2] == (call, moment):
                self.faults.remove(fault)
                raise fault[2]

    async def create(self, name: str, value: bytes) -> None:
        self._fail("create", "before")
        await super().create(name, value)
        self._fail("create", "after")

    async def delete(self, name: str) -> None:
        self._fail("delete", "before")
        await super().delete(name)
        self._fail("delete", "after")

    async def get(self, name: str) -> bytes:
        self._fail("get", "before")
        return await super().get(name)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", ["create", "delete", "get"])
def test_outage_is_waited_out(call: str, moment: str) -> None:
    async def check(source: MemoryKeyStore, _target: MemoryKeyStore) -> None:
        target = Faulty()
        new = await fill(source, "k")
        await fill(target, "k")
        target.faults = [(call, moment, KeyStoreUnreachableError("cut off"))]
        migration = Migration(source, target, on_conflict=OnConflict.REPLACE)
        assert await migrate(migration) == {"replaced": 1}
        assert await content(target) == new

    run(check)


def test_key_that_can_not_be_replaced_is_put_back() -> None:
    async def check(source: MemoryKeyStore, _target: MemoryKeyStore) -> None:
        target = Faulty()
        await fill(source, "k")
        old = await fill(target, "k")

        calls = 0
        create = target.create

        async def full(name: str, value: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:  # the first call finds the old key
                raise KeyStoreError("no space left")
            await create(name, value)

        target.create = full  # type: ignore[method-assign] # fails at one moment only
        migration = Migration(source, target, on_conflict=OnConflict.REPLACE)
        assert await migrate(migration) == {"failed": 1}
        assert migration.summary.failures == {"k": "no space left"}
        assert await content(target) == old

    run(check)


def test_write_that_is_lost_is_noticed() -> None:
    class Forgetful(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value[:-4] + b"AAAA")

    async def check(source: MemoryKeyStore, _target: MemoryKeyStore) -> None:
        await fill(source, "k")
        migration = Migration(source, Forgetful())
        assert await migrate(migration) == {"failed": 1}
        assert "does not return what was written" in migration.summary.failures["k"]

    run(check)


def test_stop_finishes_what_is_under_way() -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        values = await fill(source, *(f"key-{number}" for number in range(500)))
        migration = Migration(source, target)
        names = await migration.names("*")

        def stop(_name: str, _outcome: Outcome) -> None:
            if migration.summary.done >= 100:
                migration.stop()

        await migration.run(names, stop)
        copied = await content(target)
        assert 100 <= len(copied) == migration.summary.done < 500
        again = Migration(source, target)
        await again.run(names)
        assert again.summary.counts[Outcome.IDENTICAL] == len(copied)
        assert await content(target) == values

    run(check)


def test_key_that_is_kept_has_to_be_a_key() -> None:
    """If no key failed, the target can read every matching key."""

    async def check() -> None:
        for dry_run in (False, True):
            source, target = MemoryKeyStore(), MemoryKeyStore()
            await source.create("k", KeyVersion.generate("me").encode())
            await target.create("k", b"not a key")
            migration = Migration(source, target, on_conflict=OnConflict.KEEP, dry_run=dry_run)
            await migration.run(["k"])
            assert migration.summary.failures["k"].startswith("the target's entry is not a key: ")

    asyncio.run(check())


def test_key_that_the_source_lists_and_does_not_return_is_a_failure() -> None:
    class Forgetful(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            raise EntryNotFoundError(name)

    async def check() -> None:
        source = Forgetful()
        await source.create("k", b"v")
        migration = Migration(source, MemoryKeyStore())
        await migration.run(["k", "deleted-meanwhile"])
        assert migration.summary.failures == {"k": "the source lists the key, but does not give it back"}
        assert migration.summary.counts[Outcome.SKIPPED] == 1

    asyncio.run(check())


async def rotated(store: MemoryKeyStore, name: str, versions: int) -> KeyCache:
    cache = KeyCache(store, CacheExpiry())
    await cache.create(name, KeyVersion.generate("me"))
    for _ in range(versions - 1):
        await cache.rotate(name, "me")
    return cache


def test_key_is_copied_with_its_versions_and_nothing_else() -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        cache = await rotated(source, "k", 3)
        ciphertext = (await cache.get("k")).key.encrypt(b"text")
        await rotated(source, "k-r2", 2)
        await rotated(source, "gone", 2)
        del source._values["gone"]
        assert await migrate(Migration(source, target, dry_run=True)) == {"copied": 2}
        assert await content(target) == {}
        assert await migrate(Migration(source, target), "k") == {"copied": 1}
        key = await KeyCache(target, CacheExpiry()).get("k")
        assert (key.version, key.key.decrypt(ciphertext)) == (3, b"text")
        assert await migrate(Migration(source, target)) == {"copied": 1, "identical": 1}
        assert set(await content(source)) - set(await content(target)) == {
            name for name in source._values if name.startswith("gone")
        }
        await cache.rotate("k", "me")
        assert await migrate(Migration(source, target, dry_run=True)) == {"copied": 1, "identical": 1}
        assert await migrate(Migration(source, target)) == {"copied": 1, "identical": 1}
        assert await migrate(Migration(source, target)) == {"identical": 2}

    run(check)


@pytest.mark.parametrize("existing", OnConflict)
def test_rotated_key_meets_another_key_of_its_name(existing: OnConflict) -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        await rotated(source, "k", 2)
        await rotated(target, "k", 3)
        old, new = await content(target), await content(source)
        outcome = {OnConflict.FAIL: "failed", OnConflict.KEEP: "skipped", OnConflict.REPLACE: "replaced"}[existing]
        assert await migrate(Migration(source, target, on_conflict=existing)) == {outcome: 1}
        assert await content(target) == (new if existing is OnConflict.REPLACE else old)

    run(check)


@pytest.mark.parametrize("existing", OnConflict)
def test_key_that_was_rotated_in_both_stores(existing: OnConflict) -> None:
    async def check(source: MemoryKeyStore, target: MemoryKeyStore) -> None:
        cache = await rotated(source, "k", 1)
        await migrate(Migration(source, target))
        await cache.rotate("k", "me")
        await KeyCache(target, CacheExpiry()).rotate("k", "me")
        migration = Migration(source, target, on_conflict=existing)
        if existing is OnConflict.REPLACE:
            assert await migrate(migration) == {"copied": 1}
            assert await content(target) == await content(source)
        else:
            assert await migrate(migration) == {"failed": 1}
            assert "the key was rotated in both" in migration.summary.failures["k"]

    run(check)


def test_interrupted_copy_of_a_rotated_key_shows_no_half_key() -> None:
    async def check(source: MemoryKeyStore, _target: MemoryKeyStore) -> None:
        await rotated(source, "k", 3)
        for call in range(1, 4):
            target = Faulty()
            calls = 0
            create = target.create

            async def full(name: str, value: bytes, call: int = call) -> None:
                nonlocal calls
                calls += 1
                if calls >= call:
                    raise KeyStoreError("no space left")
                await create(name, value)  # noqa: B023 # called within the turn

            target.create = full  # type: ignore[method-assign] # fails from a moment on
            assert await migrate(Migration(source, target)) == {"failed": 1}
            assert "k" not in await content(target)
            target.create = create  # type: ignore[method-assign]
            assert await migrate(Migration(source, target)) == {"copied": 1}
            assert await content(target) == await content(source)

    run(check)

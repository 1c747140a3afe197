"""What the doctor finds among the keys of a store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from kes_core import KeyStoreBackend, PluginContext
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry, KeyStoreChoice, Section
from kes_core.doctor.store import examine_store
from kes_core.findings import Finding
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import change_condition
from kes_core.keys.deletion import planned
from kes_core.keys.stored import Condition, KeyVersion, Timestamp
from kes_core.keys.watched import WatchedStore
from tests.helpers.wrapping import entry, wrapping_key


class NoSettings(Section):
    """No fields."""


class Kept(MemoryKeyStore):
    """A store that outlives the doctor's connection."""

    async def close(self) -> None:
        return


def examined(fill: Callable[[Kept, KeyCache], Awaitable[None]], *, login: bool = True) -> Sequence[Finding]:
    async def start() -> Sequence[Finding]:
        store = Kept()
        await fill(store, KeyCache(store, CacheExpiry()))

        async def connect(_settings: NoSettings, _context: PluginContext) -> Kept:
            return store

        backend = KeyStoreBackend(name="mine", config=NoSettings, connect=connect)
        return await examine_store(KeyStoreChoice(backend, NoSettings()), login=login)

    found = asyncio.run(start())
    assert found[0] == Finding.ok("key store", "'mine' answers")
    return found[1:]


async def made(cache: KeyCache, name: str, versions: int) -> None:
    await cache.create(name, KeyVersion.generate("me"))
    for _ in range(versions - 1):
        await cache.rotate(name, "me")


def test_keys_in_order_are_nothing_to_report() -> None:
    async def fill(_store: Kept, cache: KeyCache) -> None:
        await made(cache, "a", 1)
        await made(cache, "b", 3)

    assert examined(fill) == []


def test_rest_of_a_deleted_key_is_found_and_the_cure_cures() -> None:
    async def fill(store: Kept, cache: KeyCache) -> None:
        await made(cache, "gone", 3)
        del store._values["gone"]

    (found,) = examined(fill)
    assert found.message == "the deleted key 'gone' has left 2 of its versions"
    assert found.cure == "kes key rm gone"
    assert examined(fill, login=False) == []

    async def cured(store: Kept, cache: KeyCache) -> None:
        await fill(store, cache)
        await cache.delete("gone")

    assert examined(cured) == []


def test_rest_of_a_key_whose_name_is_taken_again_is_found() -> None:
    async def fill(store: Kept, cache: KeyCache) -> None:
        await made(cache, "k", 2)
        del store._values["k"]
        cache.forget_all()
        await made(cache, "k", 2)

    (found,) = examined(fill)
    assert found.message.endswith(" belongs to a deleted key of the name 'k', not to the one that is there")


def test_old_and_damaged_keys_are_found() -> None:
    async def fill(store: Kept, cache: KeyCache) -> None:
        long_ago = Timestamp(int(time.time()) - 366 * 86400)
        for number in range(7):
            await cache.create(f"old-{number}", replace(KeyVersion.generate("me"), created_at=long_ago))
        await cache.rotate("old-0", "me")
        await store.create("damaged", b"no key")

    damaged, old = examined(fill)
    assert damaged.message.startswith("the entry 'damaged' in the key store is damaged: ")
    assert old.message == (
        "the newest version of 6 keys is older than a year: old-1, old-2, old-3, old-4, old-5 and 1 more"
    )


def test_keys_that_are_to_be_deleted_are_listed_with_the_time() -> None:
    """The first one comes first. They need no rotation, however old they are."""

    async def fill(_store: Kept, cache: KeyCache) -> None:
        long_ago = Timestamp(int(time.time()) - 366 * 86400)
        for number in range(7):
            await cache.create(f"key-{number}", replace(KeyVersion.generate("me"), created_at=long_ago))
            moment = 1_900_000_000 - number
            await cache.change(f"key-{number}", lambda store, n=number, at=moment: schedule(store, f"key-{n}", at))  # type: ignore[misc]

    async def schedule(store: WatchedStore, name: str, moment: int) -> Condition:
        return await change_condition(store, name, planned(moment), "me")

    (found,) = examined(fill)
    assert found.level == "warning"
    assert found.message == (
        "7 keys are scheduled for deletion: key-6 at 2030-03-17T17:46:34Z, key-5 at 2030-03-17T17:46:35Z, "
        "key-4 at 2030-03-17T17:46:36Z, key-3 at 2030-03-17T17:46:37Z, key-2 at 2030-03-17T17:46:38Z and 2 more"
    )
    assert found.cure == "`kes key undelete NAME` keeps a key"

    async def fill_one(_store: Kept, cache: KeyCache) -> None:
        await made(cache, "k", 2)
        await cache.change("k", lambda store: schedule(store, "k", 1_900_000_000))

    (found,) = examined(fill_one)
    assert found.message == "1 key is scheduled for deletion: k at 2030-03-17T17:46:40Z"
    assert found.cure == "`kes key undelete k` keeps a key"


def test_expired_or_damaged_wrapping_key_is_found_and_a_valid_one_is_not() -> None:
    expired, valid = entry(1, days_left=-1), entry(0)

    async def fill(store: Kept, cache: KeyCache) -> None:
        await made(cache, "a", 1)
        for name, value in (expired, valid):
            await store.create(name, value)

    found = examined(fill)
    assert [(each.level, each.message) for each in found] == [
        ("note", f"the wrapping key {wrapping_key(1).id} has expired: no server uses it")
    ]

    async def damage(store: Kept, _cache: KeyCache) -> None:
        await store.create(valid[0], expired[1])

    (damaged,) = examined(damage)
    assert damaged.level == "error"
    assert damaged.message.endswith("is damaged: the value is another wrapping key")

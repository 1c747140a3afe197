"""Clauses on errors, on outages, and on stores that are closed and opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from kes_core.keystore import KeyExistsError, KeyNotFoundError, KeyStore, KeyStoreError, KeyStoreUnreachableError
from kes_core.testing._concurrency import check_race
from kes_core.testing._listing import check_page
from kes_core.testing._running import BrokenError, check, described, refused, same_bytes, shown
from kes_core.testing._trial import StoreTrial, store_check
from kes_core.testing._values import MAX_VALUE_SIZE, large_value

__all__ = ["all_calls"]


@store_check("KS-ERROR-1")
async def _too_large(trial: StoreTrial) -> None:
    for name, size in (("key", MAX_VALUE_SIZE + 1), ("key2", 4 * MAX_VALUE_SIZE)):
        value = large_value(size)
        try:
            await trial.store.create(name, value)
        except KeyStoreError:
            await refused(KeyNotFoundError, trial.store.get(name), f"after a refused create, get({name!r})")
        except Exception as error:
            raise BrokenError(f"create of {size} bytes raised {described(error)}") from None
        else:
            same_bytes(await trial.store.get(name), value, f"get({name!r})")


@store_check("KS-ERROR-2")
async def _messages(trial: StoreTrial) -> None:
    await trial.store.create("key", b"value")
    for call, what in (
        (lambda: trial.store.create("key", b"value"), "a create of a key that is there"),
        (lambda: trial.store.get("absent"), "a get of an absent key"),
    ):
        error = await refused(KeyStoreError, call(), what)
        message = str(error)
        check(bool(message.strip()), f"the {type(error).__name__} of {what} has no message")
        check(message.isprintable(), f"the {type(error).__name__} of {what} says {shown(message)}")


@store_check("KS-CLOSE-1")
async def _closed_twice(trial: StoreTrial) -> None:
    await trial.store.create("key", b"value")
    for time in ("first", "second"):
        try:
            await trial.store.close()
        except Exception as error:
            raise BrokenError(f"the {time} close raised {described(error)}") from None


@store_check("KS-DURABLE-1")
async def _keys_outlive_the_store(trial: StoreTrial) -> None:
    values = {"key": b"value", "empty": b"", "large": large_value()}
    for name, value in values.items():
        await trial.store.create(name, value)
    await trial.store.close()
    again = await trial.reopen()
    check_page(await again.list(), sorted(values), "list() of the reopened store")
    for name, value in values.items():
        same_bytes(await again.get(name), value, f"after reopening, get({name!r})")


@store_check("KS-DURABLE-2")
async def _names_stay_taken(trial: StoreTrial) -> None:
    await trial.store.create("key", b"value")
    await trial.store.close()
    again = await trial.reopen()
    await refused(KeyExistsError, again.create("key", b"other"), "after reopening, create('key')")
    same_bytes(await again.get("key"), b"value", "after reopening, get('key')")


@store_check("KS-DURABLE-3")
async def _deletes_outlive_the_store(trial: StoreTrial) -> None:
    await trial.store.create("key", b"value")
    await trial.store.delete("key")
    await trial.store.close()
    again = await trial.reopen()
    await refused(KeyNotFoundError, again.get("key"), "after reopening, get('key')")
    check_page(await again.list(), [], "list() of the reopened store")


@store_check("KS-DURABLE-4")
async def _stores_see_each_other(trial: StoreTrial) -> None:
    one, other = trial.store, await trial.reopen()
    await refused(KeyNotFoundError, other.get("key"), "get('key') of the other store")
    await one.create("key", b"value")
    same_bytes(await other.get("key"), b"value", "get('key') of the other store")
    check_page(await other.list(), ["key"], "list() of the other store")
    await other.delete("key")
    await refused(KeyNotFoundError, one.get("key"), "get('key') after the other store's delete")
    check_page(await one.list(), [], "list() after the other store's delete")


@store_check("KS-DURABLE-5")
async def _one_winner_of_two_stores(trial: StoreTrial) -> None:
    stores = [trial.store, await trial.reopen()]
    for number in range(3):
        await check_race(stores, f"key{number}")


def all_calls(store: KeyStore, value: bytes) -> Mapping[str, Callable[[], Awaitable[object]]]:
    """Return a call of every method but close, on a key that is there if the method is for one."""
    return {
        "status()": store.status,
        "get('key')": lambda: store.get("key"),
        "create('new')": lambda: store.create("new", value),
        "create('key')": lambda: store.create("key", value),
        "list()": store.list,
        "delete('key')": lambda: store.delete("key"),
    }


@store_check("KS-UNREACHABLE-1")
async def _unreachable(trial: StoreTrial) -> None:
    await trial.store.create("key", b"value")
    async with trial.unreachable():
        for what, call in all_calls(trial.store, b"value").items():
            error = await refused(KeyStoreUnreachableError, call(), what)
            check(bool(str(error).strip()), f"the error of {what} has no message")


@store_check("KS-UNREACHABLE-2")
async def _works_again(trial: StoreTrial) -> None:
    store = trial.store
    await store.create("key", b"value")
    async with trial.unreachable():
        await asyncio.gather(store.get("key"), store.status(), return_exceptions=True)
    await store.status()
    same_bytes(await store.get("key"), b"value", "afterwards, get('key')")
    await store.create("later", b"value")
    check_page(await store.list(), ["key", "later"], "afterwards, list()")

"""Clauses on errors, on outages, and on stores that are closed and opened again."""

from __future__ import annotations

import asyncio

from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from kes_core.testing._clause import clause
from kes_core.testing._running import BrokenError, check, described, refused, same_bytes, shown
from kes_core.testing._store import StoreSuite, StoreTrial
from kes_core.testing._store_calls import all_calls, check_page, check_race, large_value

__all__ = ["FailureClauses"]


class FailureClauses(StoreSuite):
    """Errors, outages, and stores that are closed and opened again."""

    @clause()
    async def test_too_large_value(self, trial: StoreTrial) -> None:
        """A value over 64 KiB (or `max_value_size`) is stored exactly or refused with a `KeyStoreError`."""
        for name, size in (("key", trial.max_value_size + 1), ("key2", 4 * trial.max_value_size)):
            value = large_value(size)
            try:
                await trial.store.create(name, value)
            except KeyStoreError:
                await refused(EntryNotFoundError, trial.store.get(name), f"after a refused create, get({name!r})")
            except Exception as error:
                raise BrokenError(f"create of {size} bytes raised {described(error)}") from None
            else:
                same_bytes(await trial.store.get(name), value, f"get({name!r})")

    @clause()
    async def test_messages_of_errors(self, trial: StoreTrial) -> None:
        """The message of an error is one line of text."""
        await trial.store.create("key", b"value")
        for call, what in (
            (lambda: trial.store.create("key", b"value"), "a create of an existing key"),
            (lambda: trial.store.get("absent"), "a get of an absent key"),
        ):
            error = await refused(KeyStoreError, call(), what)
            message = str(error)
            check(bool(message.strip()), f"the {type(error).__name__} of {what} has no message")
            check(message.isprintable(), f"the {type(error).__name__} of {what} says {shown(message)}")

    @clause()
    async def test_close_twice(self, trial: StoreTrial) -> None:
        """`close` can be called twice."""
        await trial.store.create("key", b"value")
        for time in ("first", "second"):
            try:
                await trial.store.close()
            except Exception as error:
                raise BrokenError(f"the {time} close raised {described(error)}") from None

    @clause(needs="reopen")
    async def test_reopened_store_has_its_keys(self, trial: StoreTrial) -> None:
        """Keys still exist after the store was closed and opened again."""
        values = {"key": b"value", "empty": b"", "large": large_value(trial.max_value_size)}
        for name, value in values.items():
            await trial.store.create(name, value)
        await trial.store.close()
        again = await trial.reopen()
        check_page(await again.list(), sorted(values), "list() of the reopened store")
        for name, value in values.items():
            same_bytes(await again.get(name), value, f"after reopening, get({name!r})")

    @clause(needs="reopen")
    async def test_reopened_store_refuses_taken_names(self, trial: StoreTrial) -> None:
        """A store that was opened again refuses to create a key that exists."""
        await trial.store.create("key", b"value")
        await trial.store.close()
        again = await trial.reopen()
        await refused(EntryExistsError, again.create("key", b"other"), "after reopening, create('key')")
        same_bytes(await again.get("key"), b"value", "after reopening, get('key')")

    @clause(needs="reopen")
    async def test_reopened_store_lacks_deleted_keys(self, trial: StoreTrial) -> None:
        """A deleted key is gone after the store was closed and opened again."""
        await trial.store.create("key", b"value")
        await trial.store.delete("key")
        await trial.store.close()
        again = await trial.reopen()
        await refused(EntryNotFoundError, again.get("key"), "after reopening, get('key')")
        check_page(await again.list(), [], "list() of the reopened store")

    @clause(needs="reopen")
    async def test_two_stores_see_each_other(self, trial: StoreTrial) -> None:
        """If two stores are open on the same data, each sees the changes of the other at once."""
        one, other = trial.store, await trial.reopen()
        await refused(EntryNotFoundError, other.get("key"), "get('key') of the other store")
        await one.create("key", b"value")
        same_bytes(await other.get("key"), b"value", "get('key') of the other store")
        check_page(await other.list(), ["key"], "list() of the other store")
        await other.delete("key")
        await refused(EntryNotFoundError, one.get("key"), "get('key') after the other store's delete")
        check_page(await one.list(), [], "list() after the other store's delete")

    @clause(needs="reopen")
    async def test_concurrent_creates_by_two_stores(self, trial: StoreTrial) -> None:
        """Of concurrent creates of one name by two open stores exactly one succeeds."""
        stores = [trial.store, await trial.reopen()]
        for number in range(3):
            await check_race(stores, f"key{number}")

    @clause(needs="make_unreachable", patience=3)
    async def test_unreachable_store_says_so(self, trial: StoreTrial) -> None:
        """Every method raises `KeyStoreUnreachableError` while the store does not answer."""
        await trial.store.create("key", b"value")
        async with trial.unreachable():
            for what, call in all_calls(trial.store, b"value").items():
                error = await refused(KeyStoreUnreachableError, call(), what)
                check(bool(str(error).strip()), f"the error of {what} has no message")

    @clause(needs="make_unreachable")
    async def test_store_works_after_outage(self, trial: StoreTrial) -> None:
        """The store works again after an outage, with the same keys."""
        store = trial.store
        await store.create("key", b"value")
        async with trial.unreachable():
            await asyncio.gather(store.get("key"), store.status(), return_exceptions=True)
        await store.status()
        same_bytes(await store.get("key"), b"value", "afterwards, get('key')")
        await store.create("later", b"value")
        check_page(await store.list(), ["key", "later"], "afterwards, list()")

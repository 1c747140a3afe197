"""Clauses on single keys: create, get, delete and status."""

from __future__ import annotations

import asyncio
from typing import Final

from kes_core.keystore import EntryExistsError, EntryNotFoundError
from kes_core.testing._clause import clause
from kes_core.testing._running import BrokenError, check, described, refused, same_bytes, shown
from kes_core.testing._store import StoreSuite, StoreTrial

__all__ = ["KeyClauses"]

FIRST: Final = b"the first value"
SECOND: Final = b"a second value"


class KeyClauses(StoreSuite):
    """Create, get, delete and status."""

    @clause()
    async def test_create_then_get(self, trial: StoreTrial) -> None:
        """A created key can be read as soon as `create` returns."""
        await trial.store.create("key", FIRST)
        try:
            found = await trial.store.get("key")
        except EntryNotFoundError:
            check(False, "get raised EntryNotFoundError after create had returned")
        else:
            same_bytes(found, FIRST, "get('key')")

    @clause()
    async def test_create_of_taken_name_is_refused(self, trial: StoreTrial) -> None:
        """Creating a key whose name is taken raises `EntryExistsError`, even with the same value."""
        await trial.store.create("key", FIRST)
        await refused(EntryExistsError, trial.store.create("key", SECOND), "create('key') of another value")
        await refused(EntryExistsError, trial.store.create("key", FIRST), "create('key') of the same value")

    @clause()
    async def test_refused_create_changes_nothing(self, trial: StoreTrial) -> None:
        """A refused `create` does not change the stored value."""
        await trial.store.create("key", FIRST)
        for value in (SECOND, b"", FIRST + SECOND):
            await asyncio.gather(trial.store.create("key", value), return_exceptions=True)
            same_bytes(await trial.store.get("key"), FIRST, "after a second create, get('key')")

    @clause()
    async def test_get_returns_bytes(self, trial: StoreTrial) -> None:
        """`get` returns an object of type `bytes`."""
        await trial.store.create("key", FIRST)
        found = await trial.store.get("key")
        check(isinstance(found, bytes), f"get('key') returned a {type(found).__name__}")

    @clause()
    async def test_get_of_absent_key(self, trial: StoreTrial) -> None:
        """Getting a key that does not exist raises `EntryNotFoundError`."""
        await refused(EntryNotFoundError, trial.store.get("absent"), "get('absent') in an empty store")
        await trial.store.create("key", FIRST)
        await refused(EntryNotFoundError, trial.store.get("absent"), "get('absent')")

    @clause()
    async def test_get_changes_nothing(self, trial: StoreTrial) -> None:
        """Reading a key changes nothing: it can be read again and again."""
        await trial.store.create("key", FIRST)
        for time in ("first", "second", "third"):
            same_bytes(await trial.store.get("key"), FIRST, f"the {time} get('key')")

    @clause()
    async def test_deleted_key_is_not_found(self, trial: StoreTrial) -> None:
        """A deleted key can't be read."""
        await trial.store.create("key", FIRST)
        await trial.store.get("key")
        await trial.store.delete("key")
        await refused(EntryNotFoundError, trial.store.get("key"), "get('key') after delete")

    @clause()
    async def test_deleted_key_is_not_listed(self, trial: StoreTrial) -> None:
        """A deleted key is not listed."""
        await trial.store.create("key", FIRST)
        await trial.store.delete("key")
        names = (await trial.store.list()).names
        check("key" not in names, f"list() returned {shown(names)} after delete('key')")

    @clause()
    async def test_delete_of_absent_key(self, trial: StoreTrial) -> None:
        """Deleting a key that does not exist raises `EntryNotFoundError`, or returns if the store can't tell."""

        async def delete(name: str, when: str) -> None:
            try:
                await trial.store.delete(name)
            except EntryNotFoundError:
                return
            except Exception as error:
                raise BrokenError(f"delete({name!r}) {when} raised {described(error)}") from None

        await delete("absent", "in an empty store")
        await trial.store.create("key", FIRST)
        await delete("absent", "of another key")
        await trial.store.delete("key")
        await delete("key", "of a deleted key")

    @clause(excluded_by="recovers_deleted")
    async def test_create_after_delete(self, trial: StoreTrial) -> None:
        """A deleted key can be created again, and then has its new value."""
        for value in (FIRST, SECOND, b""):
            try:
                await trial.store.create("key", value)
            except EntryExistsError:
                check(False, "create('key') after delete raised EntryExistsError")
            same_bytes(await trial.store.get("key"), value, "get('key')")
            await trial.store.delete("key")

    @clause()
    async def test_delete_keeps_other_keys(self, trial: StoreTrial) -> None:
        """Deleting a key does not change any other key."""
        others = trial.usable(["ke", "key2", "key_", "k", "ykey", "key-y"])
        for name in [*others, "key"]:
            await trial.store.create(name, name.encode())
        await trial.store.delete("key")
        listed = (await trial.store.list()).names
        lost = [name for name in others if name not in listed]
        check(not lost, f"list() misses {lost} after delete('key')")
        for name in others:
            same_bytes(await trial.store.get(name), name.encode(), f"after delete('key'), get({name!r})")

    @clause()
    async def test_status_while_store_works(self, trial: StoreTrial) -> None:
        """`status` returns while the store works."""
        await trial.store.status()
        await trial.store.create("key", FIRST)
        await trial.store.status()

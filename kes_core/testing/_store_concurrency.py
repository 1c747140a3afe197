"""Clauses on concurrent calls, cancelled calls and slow calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStore
from kes_core.testing._clause import clause
from kes_core.testing._running import BrokenError, check, described, heartbeat, refused, same_bytes, settled, shown
from kes_core.testing._store import StoreSuite, StoreTrial
from kes_core.testing._store_calls import RACERS, check_race, large_value

__all__ = ["ConcurrencyClauses"]

ROUNDS: Final = 3
DELAYS: Final = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01)
"""Seconds after which calls are cancelled: before they start, at their start, and later."""
GIVE_UP: Final = 4
"""The multiple of `longest_call` after which a call is cancelled."""
ADVICE: Final = "if the service is that slow, set longest_call"
TRIES: Final = 2
"""How often a call has to block the event loop to break the clause: one block may have another cause."""


async def _whole_or_absent(store: KeyStore, name: str, value: bytes, when: str) -> bool:
    """Check the value of a key that may exist; return whether it exists."""
    try:
        found = await store.get(name)
    except EntryNotFoundError:
        return False
    same_bytes(found, value, f"{when}, get({name!r})")
    return True


async def _cancelled(call: Awaitable[object], delay: float) -> None:
    """Start a call and cancel it after `delay` seconds, or right after its start without a delay."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(delay)
    task.cancel()
    await asyncio.wait([task])


class ConcurrencyClauses(StoreSuite):
    """Concurrent calls, cancelled calls and slow calls."""

    @clause()
    async def test_concurrent_creates_have_one_winner(self, trial: StoreTrial) -> None:
        """Of many concurrent creates of one name exactly one succeeds, and its value is stored."""
        for number in range(ROUNDS):
            await check_race([trial.store], f"key{number}")

    @clause()
    async def test_get_during_create(self, trial: StoreTrial) -> None:
        """A reader during a `create` sees the complete value or no key."""
        value = large_value(trial.max_value_size)

        async def read(name: str, creating: asyncio.Task[None]) -> None:
            while not creating.done():
                await _whole_or_absent(trial.store, name, value, "during create")
                await asyncio.sleep(0)

        for number in range(ROUNDS):
            name = f"key{number}"
            creating = asyncio.create_task(trial.store.create(name, value))
            await asyncio.gather(creating, *(read(name, creating) for _ in range(4)))
            check(
                await _whole_or_absent(trial.store, name, value, "after create"),
                f"get({name!r}) finds nothing after create",
            )

    @clause()
    async def test_concurrent_creates_of_different_keys(self, trial: StoreTrial) -> None:
        """Keys that are created concurrently all have their own value."""
        values = {f"key{number}": b"value of key %d" % number for number in range(2 * RACERS)}
        await asyncio.gather(*(trial.store.create(name, value) for name, value in values.items()))
        found = await asyncio.gather(*(trial.store.get(name) for name in values))
        for name, value in zip(values, found, strict=True):
            same_bytes(value, values[name], f"get({name!r})")

    @clause(excluded_by="recovers_deleted")
    async def test_list_during_changes(self, trial: StoreTrial) -> None:
        """A listing during creates and deletes contains each key that existed all the time exactly once."""
        store = trial.store
        steady = [f"steady{number:02}" for number in range(RACERS)]
        for name in steady:
            await store.create(name, b"value")

        async def come_and_go(number: int) -> None:
            for _ in range(ROUNDS):
                await store.create(f"steady{number:02}-passing", b"value")
                await store.delete(f"steady{number:02}-passing")

        passing = asyncio.gather(*(come_and_go(number) for number in range(8)))
        while not passing.done():
            names = (await store.list()).names
            lost = [name for name in steady if names.count(name) != 1]
            check(not lost, f"during creates and deletes list() misses or doubles {shown(lost)}")
            await asyncio.sleep(0)
        await passing

    @clause()
    async def test_concurrent_deletes(self, trial: StoreTrial) -> None:
        """Concurrent deletes of one key remove it and raise no error but `EntryNotFoundError`."""
        await trial.store.create("key", b"value")
        for result in await asyncio.gather(*(trial.store.delete("key") for _ in range(RACERS)), return_exceptions=True):
            if result is not None and not isinstance(result, EntryNotFoundError):
                raise BrokenError(f"delete('key') raised {described(result)}")
        await refused(EntryNotFoundError, trial.store.get("key"), "get('key') after delete")

    @clause()
    async def test_cancelled_create(self, trial: StoreTrial) -> None:
        """A `create` that is cancelled leaves the key complete or absent."""
        value = large_value(min(5000, trial.max_value_size))
        names = [f"key{number}" for number in range(len(DELAYS))]
        for name, delay in zip(names, DELAYS, strict=True):
            await _cancelled(trial.store.create(name, value), delay)
            await _whole_or_absent(trial.store, name, value, "after a cancelled create")
        for name in names:
            # The create may still run in the store or on a worker thread; a second create waits for its result.
            result = await settled(trial.store.create(name, value))
            if result is not None and not isinstance(result, EntryExistsError):
                raise BrokenError(f"after a cancelled create, create({name!r}) ended with {shown(result)}")
            there = await _whole_or_absent(trial.store, name, value, "after a cancelled create and another")
            check(there, f"after a cancelled create and another, get({name!r}) finds nothing")

    @clause()
    async def test_store_works_after_cancelled_calls(self, trial: StoreTrial) -> None:
        """The store continues to work after calls were cancelled."""
        store = trial.store
        await store.create("key", b"value")
        calls: list[Callable[[], Awaitable[object]]] = [
            store.status,
            lambda: store.get("key"),
            store.list,
            lambda: store.create("key", b"other"),
            lambda: store.delete("absent"),
            lambda: store.get("absent"),
        ]
        for delay in DELAYS:
            await asyncio.gather(*(_cancelled(call(), delay) for call in calls for _ in range(3)))
        await store.status()
        same_bytes(await store.get("key"), b"value", "after cancelled calls, get('key')")
        await store.create("new", b"value")
        names = (await store.list()).names
        check(names == ["key", "new"], f"after cancelled calls list() holds {shown(names)}")
        await store.delete("new")

    @clause()
    async def test_calls_are_fast(self, trial: StoreTrial) -> None:
        """No call takes longer than `longest_call` while nothing else happens."""
        store, limit = trial.store, trial.longest_call
        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "status": lambda _: store.status(),
            "create": lambda number: store.create(f"key{number}", b"value"),
            "get": lambda number: store.get(f"key{number}"),
            "list": lambda _: store.list(),
            "delete": lambda number: store.delete(f"key{number}"),
        }
        for what, call in calls.items():
            seconds = []
            for number in range(TRIES):
                waited, started = store.waited, time.monotonic()
                try:
                    async with asyncio.timeout(GIVE_UP * limit + store.capabilities.eventually_consistent) as scope:
                        await call(number)
                except TimeoutError:
                    check(not scope.expired(), f"{what} took longer than {GIVE_UP * limit:g} s; {ADVICE}")
                    raise
                seconds.append(time.monotonic() - started - (store.waited - waited))
            check(min(seconds) < limit, f"{what} took {min(seconds):.2f} s, longer than {limit:g} s; {ADVICE}")

    @clause()
    async def test_calls_do_not_block(self, trial: StoreTrial) -> None:
        """No call blocks the event loop."""
        store, value = trial.store, large_value(trial.max_value_size)
        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "status": lambda _: store.status(),
            "create": lambda number: store.create(f"key{number}", value),
            "get": lambda number: store.get(f"key{number}"),
            "list": lambda _: store.list(),
            "a get of an absent key": lambda _: store.get("absent"),
            "a create of an existing key": lambda number: store.create(f"key{number}", b"value"),
            "creates at once": lambda number: asyncio.gather(
                *(store.create(f"key{number}-{other}", b"value") for other in range(RACERS))
            ),
            "delete": lambda number: store.delete(f"key{number}"),
        }
        async with heartbeat() as measure:
            for what, call in calls.items():
                gap = min([await measure(call(number)) for number in range(TRIES)])
                check(gap < trial.longest_block, f"{what} blocked it for {gap:.2f} s")

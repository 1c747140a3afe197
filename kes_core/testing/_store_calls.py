"""Values, and checks of pages and races, that clauses of several topics share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from kes_core.keystore import MAX_VALUE_SIZE, EntryExistsError, KeyStore, Page
from kes_core.testing._running import BrokenError, check, described, shown

__all__ = ["RACERS", "all_calls", "check_page", "check_race", "difference", "fill", "large_value"]

RACERS: Final = 24
"""The number of calls that race each other."""
AT_ONCE: Final = 32
"""The number of concurrent calls that create many keys."""


def large_value(size: int = MAX_VALUE_SIZE) -> bytes:
    """Return bytes; every part differs from its neighbours."""
    return b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]


async def fill(store: KeyStore, names: Iterable[str], value: bytes = b"value") -> None:
    """Create keys concurrently."""
    waiting = iter(names)

    async def create() -> None:
        for name in waiting:
            await store.create(name, value)

    await asyncio.gather(*(create() for _ in range(AT_ONCE)))


def all_calls(store: KeyStore, value: bytes) -> Mapping[str, Callable[[], Awaitable[object]]]:
    """Return a call of every method except `close`. The store must have a key named `key`."""
    return {
        "status()": store.status,
        "get('key')": lambda: store.get("key"),
        "create('new')": lambda: store.create("new", value),
        "create('key')": lambda: store.create("key", value),
        "list()": store.list,
        "delete('key')": lambda: store.delete("key"),
    }


def check_page(page: object, names: Iterable[str], what: str) -> None:
    """Check that a page contains exactly these names, in this order."""
    if not (isinstance(page, tuple) and len(page) == len(Page._fields)):
        raise BrokenError(f"{what} returned {shown(page)}, which is not a Page")
    wanted = list(names)
    if page[0] != wanted:
        raise BrokenError(f"{what} holds {shown(page[0])}, not {shown(wanted)}{difference(page[0], wanted)}")


def difference(found: list[str], wanted: list[str]) -> str:
    """Return the missing and the extra names, because long lists are hard to compare by eye."""
    parts = []
    for word, names in (("missing", sorted(set(wanted) - set(found))), ("extra", sorted(set(found) - set(wanted)))):
        if names:
            parts.append(f"{word}: {' '.join(names[:5])}{' ...' if len(names) > 5 else ''}")  # noqa: PLR2004 # enough
    return f" ({', '.join(parts)})" if parts else ""


async def check_race(stores: Sequence[KeyStore], name: str) -> None:
    """Create one key many times concurrently, with different values, in turn through each of `stores`."""
    values = [b"of racer %d" % racer for racer in range(RACERS)]
    calls = [stores[racer % len(stores)].create(name, value) for racer, value in enumerate(values)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if result is not None and not isinstance(result, EntryExistsError):
            raise BrokenError(f"a create that lost raised {described(result)} instead of EntryExistsError")
    winners = [value for value, result in zip(values, results, strict=True) if result is None]
    check(len(winners) == 1, f"{len(winners)} of {RACERS} creates of {name!r} succeeded")
    for store in stores:
        found = await store.get(name)
        check(
            found == winners[0], f"get({name!r}) returned {shown(found)}, the create of {shown(winners[0])} succeeded"
        )

"""The regular removal of expired keys from memory."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.helpers.cache import Setup, run


@pytest.mark.parametrize("expiry", [{"any": 10, "unused": 0}, {"any": 0, "unused": 10}])
def test_sweep_drops_what_has_expired_and_nothing_else(expiry: dict[str, float]) -> None:
    async def check(s: Setup) -> None:
        await s.store.create("old", s.key.encode())
        await s.store.create("new", s.key.encode())
        await s.cache.get("old")
        s.clock.now += 5
        await s.cache.get("new")
        s.clock.now += 5
        await s.cache.sweep()
        assert list(s.cache._entries) == ["new"]

    run(check, **expiry)


def test_sweep_of_many_keys_lets_requests_have_their_turn() -> None:
    async def check(s: Setup) -> None:
        await s.store.create("k", s.key.encode())
        await s.cache.get("k")
        entry = s.cache._entries["k"]
        s.cache._entries.update({f"k-{number}": entry for number in range(2000)})
        s.clock.now += 10
        sweeping = asyncio.create_task(s.cache.sweep())
        left = [len(s.cache._entries)]
        while not sweeping.done():
            await asyncio.sleep(0)
            left.append(len(s.cache._entries))
        assert left[-1] == 0
        assert max(before - after for before, after in pairwise(left)) <= 256

    run(check, any=10, unused=0)

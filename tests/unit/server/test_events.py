"""Events for many readers; some do not keep up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator

from kes_core.server.events import MAX_BACKLOG, Hub


async def started(hub: Hub, wanted: int) -> list[AsyncIterator[bytes]]:
    """Return readers that have seen one event and do not wait for the next."""
    readers = [hub.read() for _ in range(wanted)]
    first = [asyncio.ensure_future(anext(reader)) for reader in readers]
    await asyncio.sleep(0)
    hub.publish({"first": True})
    for data in await asyncio.gather(*first):
        assert json.loads(data) == {"first": True}
    return readers


def test_readers_that_read_nothing_cost_little_memory() -> None:
    """Neither many readers nor long events can fill the memory."""

    async def run() -> None:
        calls: list[int] = []
        hub = Hub(calls.append)
        await started(hub, 100)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(2000):
                hub.publish({"number": number, "path": "x" * 32_000})
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 2 * MAX_BACKLOG
        assert not hub.has_readers

    asyncio.run(run())


def test_reader_that_does_not_keep_up_gets_no_gap_but_an_end() -> None:
    async def run() -> None:
        hub = Hub(lambda _count: None)
        slow, quick = await started(hub, 2)
        event = {"path": "x" * 1000}
        for count in range(5000):
            hub.publish(event | {"number": count})
            assert json.loads(await anext(quick))["number"] == count
        got = b"".join([data async for data in slow])
        numbers = [json.loads(line)["number"] for line in got.splitlines()]
        assert numbers == list(range(len(numbers)))
        assert MAX_BACKLOG - 2000 < len(got) <= MAX_BACKLOG
        assert hub.has_readers  # the quick reader is left

    asyncio.run(run())


def test_event_longer_than_a_backlog_reaches_readers_that_keep_up() -> None:
    async def run() -> None:
        hub = Hub(lambda _count: None)
        (reader,) = await started(hub, 1)
        for _ in range(3):
            hub.publish({"long": "x" * MAX_BACKLOG})
            assert len(await anext(reader)) > MAX_BACKLOG

    asyncio.run(run())


def test_reader_that_goes_away_is_forgotten() -> None:
    async def run() -> None:
        hub = Hub(lambda _count: None)
        calls: list[bool] = []
        hub.on_readers = calls.append
        reader = hub.read()
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        assert (hub.has_readers, calls) == (True, [True])
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert (hub.has_readers, calls) == (False, [True, False])

    asyncio.run(run())

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.keystore import (
    BlockingCalls,
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    page_of,
)
from tests.helpers.vectors import vectors

LISTINGS = vectors("listing")["cases"]


def names_of(case: dict[str, Any]) -> list[str]:
    if "generate" not in case:
        return list(case["names"])
    generate = case["generate"]
    return [generate["format"] % number for number in range(generate["count"])] + list(generate["more"])


@pytest.mark.parametrize("case", LISTINGS, ids=range(len(LISTINGS)))
def test_listings_of_the_vectors(case: dict[str, Any]) -> None:
    page = page_of(names_of(case), case["prefix"], limit=case["n"])
    if "list" in case:
        assert page.names == case["list"]
    else:
        assert (page.names[0], page.names[-1], len(page.names)) == (
            case["list_first"],
            case["list_last"],
            case["list_count"],
        )
    assert page.next == case["continue_at"]


@given(st.sets(st.text("ab-_Z9", min_size=1, max_size=4)), st.text("ab", max_size=2), st.integers(1, 5))
def test_pages_hold_every_name_once_and_in_order(names: set[str], prefix: str, limit: int) -> None:
    seen: list[str] = []
    start = ""
    while True:
        page = page_of(names, prefix, start=start, limit=limit)
        assert len(page.names) <= limit
        seen += page.names
        if not page.next:
            break
        assert page.next > seen[-1]
        start = page.next
    assert seen == sorted((name for name in names if name.startswith(prefix)), key=str.encode)


def test_memory_store_keeps_its_promises() -> None:
    async def check() -> None:
        store = MemoryKeyStore()
        value = b"same object"
        await store.create("a", value)
        with pytest.raises(EntryExistsError):
            await store.create("a", value)
        await store.create("empty", b"")
        assert await store.get("empty") == b""
        await store.delete("empty")
        for operation in (store.get, store.delete):
            with pytest.raises(EntryNotFoundError):
                await operation("empty")
        assert await store.list() == (["a"], "")
        await store.status()
        assert "same object" not in repr(store)
        await store.close()
        await store.close()

    asyncio.run(check())


def test_blocking_calls_leave_the_event_loop_free() -> None:
    async def check() -> None:
        calls = BlockingCalls("test", threads=1)
        release = threading.Event()
        stuck = asyncio.create_task(calls.run(release.wait))
        turns = 0
        for _ in range(3):
            await asyncio.sleep(0)
            turns += 1
        assert not stuck.done()
        release.set()
        assert await stuck is True
        assert turns == 3
        with pytest.raises(ValueError, match="no number"):
            await calls.run(_fail, "no number")
        calls.close()

    asyncio.run(check())


def _fail(message: str) -> None:
    raise ValueError(message)


def test_blocking_call_ends_although_its_caller_gave_up() -> None:
    async def check() -> None:
        calls = BlockingCalls("test", threads=1)
        begun, release, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            release.wait()
            ended.set()

        caller = asyncio.create_task(calls.run(work))
        waiting = asyncio.create_task(calls.run(_fail, "never called"))
        await asyncio.to_thread(begun.wait)
        for task in (caller, waiting):
            task.cancel()
        results = await asyncio.gather(caller, waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        release.set()
        assert await calls.run(ended.is_set)  # the thread has finished its work and is free again
        calls.close()

    asyncio.run(check())


def test_stores_do_not_take_each_others_threads() -> None:
    async def check() -> None:
        first, second = BlockingCalls("first", threads=1), BlockingCalls("second", threads=1)
        release = threading.Event()
        stuck = asyncio.create_task(first.run(release.wait))
        name = await second.run(lambda: threading.current_thread().name)
        assert name.startswith("kes-second")
        release.set()
        await stuck
        for calls in (first, second):
            calls.close()
            calls.close()

    asyncio.run(check())


def test_call_that_never_begins_raises_an_error_in_its_caller() -> None:
    async def check() -> None:
        calls = BlockingCalls("test", threads=1)
        begun, release = threading.Event(), threading.Event()

        def work() -> str:
            begun.set()
            release.wait()
            return "done"

        under_way = asyncio.create_task(calls.run(work))
        waiting = asyncio.create_task(calls.run(_fail, "never called"))
        await asyncio.to_thread(begun.wait)
        calls.close()
        with pytest.raises(KeyStoreError, match="has been closed"):
            await waiting
        with pytest.raises(KeyStoreError, match="has been closed"):
            await calls.run(_fail, "never called")
        release.set()
        assert await under_way == "done"

    asyncio.run(check())


def test_call_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from kes_core import BlockingCalls

async def main():
    calls = BlockingCalls("test")
    stuck = asyncio.create_task(calls.run(threading.Event().wait))
    await calls.run(print, "another thread answers")
    calls.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "another thread answers\n", "")

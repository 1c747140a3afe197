"""What the kit measures: blocks of an event loop, whatever else the machine does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from kes_core.testing._running import heartbeat

STARVED = """
import asyncio, os, subprocess, time
from kes_core.testing._running import heartbeat

async def work():
    global longest
    longest, last, end = 0.0, time.monotonic(), time.monotonic() + 60
    while longest < 0.2 and last < end:
        await asyncio.sleep(0)
        now = time.monotonic()
        longest, last = max(longest, now - last), now

async def main():
    async with heartbeat() as measure:
        print(await measure(work()), longest)

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as other:
    try:
        os.nice(19)
        asyncio.run(main())
    finally:
        other.kill()
"""
"""Runs on a core that another process needs and gets. Waits for nothing, until it did not run for 0.2 seconds. Prints
what the kit has measured, and that time."""


def test_blocked_event_loop_is_noticed() -> None:
    async def block() -> None:
        time.sleep(0.05)  # noqa: ASYNC251 # what plugins must not do

    async def check() -> None:
        async with heartbeat() as measure:
            assert await measure(block()) >= 0.05

    asyncio.run(check())


@pytest.mark.slow
def test_busy_machine_does_not_count() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=True)
    measured, longest = map(float, done.stdout.split())
    assert longest > 0.2
    assert measured < longest / 2

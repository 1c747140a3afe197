"""Wait for tasks that may never end, on a machine that may stop this process at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

__all__ = ["one_ends"]

_WAITS = 5
_TURNS = 20


async def one_ends(tasks: Collection[asyncio.Future[Any]], patience: float) -> bool:
    """Wait until one of the tasks ends. Return whether one has, within `patience` seconds.

    The seconds are divided into several waits, and the event loop has turns of its own after each: if the machine gave
    this process no time for a while, that ends one wait at most.
    """
    for _wait in range(_WAITS):
        await asyncio.wait(tasks, timeout=patience / _WAITS, return_when=asyncio.FIRST_COMPLETED)
        for _turn in range(_TURNS):
            if any(task.done() for task in tasks):
                return True
            await asyncio.sleep(0)
    return False

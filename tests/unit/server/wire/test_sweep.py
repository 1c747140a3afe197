"""The regular check of all connections."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import Any

import pytest

from kes_core.server.metrics import Metrics
from kes_core.server.wire import listener
from kes_core.server.wire.listener import CHECKED_AT_ONCE, HypercornRuntime
from tests.helpers.wire import Recorder


class Connection:
    """Notes in which turn of the event loop it is checked. Each one ends the next one."""

    def __init__(self, runtime: HypercornRuntime, turn: list[int], checked: list[int], ends: object) -> None:
        self._runtime: Any = runtime
        self._turn = turn
        self._checked = checked
        self._ends = ends

    def check(self, _now: float) -> None:
        self._checked.append(self._turn[0])
        self._runtime._connections.pop(self._ends, None)

    async def start_waiting(self) -> None:
        pass


def test_requests_have_their_turn_while_many_connections_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SWEEP_INTERVAL", 0.001)
    many = 10 * CHECKED_AT_ONCE

    async def run() -> list[int]:
        runtime: Any = HypercornRuntime(Recorder(), lambda: pytest.fail("no client connects"), Metrics())
        turn, checked = [0], list[int]()
        for number in range(many):
            ends = number + 1 if number % 2 == 0 else None
            runtime._connections[number] = Connection(runtime, turn, checked, ends)
        await runtime.start([])
        while len(checked) < many // 2:  # the others were ended before their check
            turn[0] += 1
            await asyncio.sleep(0)
        runtime._connections.clear()
        await runtime.stop(grace=0)
        return checked

    checked = asyncio.run(asyncio.wait_for(run(), 30))
    assert len(checked) == many // 2
    assert max(len(list(turns)) for _turn, turns in groupby(checked)) <= CHECKED_AT_ONCE

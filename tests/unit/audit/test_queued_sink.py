"""What the metrics say of the records that a queued sink loses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kes_core import BackendError, QueuedAuditSink, hookspecs
from kes_core.counters import LOST_RECORDS


class Unreachable(QueuedAuditSink):
    max_waiting = 5

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        raise BackendError(f"{len(records)} records can't be sent")


def test_lost_records_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that found no place, those that still waited at the end, and those that came after it."""
    monkeypatch.setattr(hookspecs, "_FLUSH_TIME", 0.1)

    async def lose() -> None:
        before = LOST_RECORDS.snapshot()["plugin"]
        sink = Unreachable()
        for number in range(8):
            sink.audit({"number": number})
        assert LOST_RECORDS.snapshot()["plugin"] - before == 3
        await sink.close()
        assert LOST_RECORDS.snapshot()["plugin"] - before == 8
        sink.audit({"number": 8})
        assert LOST_RECORDS.snapshot()["plugin"] - before == 9

    asyncio.run(lose())

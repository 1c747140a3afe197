"""Audit sinks that are broken on purpose, each in one way, and the clauses that have to find it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from kes_core import AuditSink, BackendError, QueuedAuditSink, hookspecs
from kes_core.testing import AuditSinkContract, sinks
from tests.conformance.mutant_stores import PATIENT

PATIENCE = "KES_TEST_PATIENCE"
"""The environment variable with the seconds to wait for records that never come."""
hookspecs._FLUSH_TIME = 0.5  # type: ignore[misc] # the base class is not what is tested here

TOKEN = "a-token-that-nobody-may-see"


class Target:
    """The service that a sink delivers to."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.is_down = False

    async def take(self, records: Sequence[Mapping[str, Any]]) -> None:
        await asyncio.sleep(0.002)
        if self.is_down:
            raise BackendError("the log service does not answer")
        self.records += records


class Sink(QueuedAuditSink):
    def __init__(self, target: Target) -> None:
        self.target = target
        self.token = TOKEN

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        await self.target.take(records)


class Mutant(AuditSinkContract):
    """What is tested: a sink class, and the clauses that it breaks."""

    Subject: ClassVar[Any]
    breaks: ClassVar[str] = ""
    delivery_time = float(os.environ.get(PATIENCE, "0.5"))

    async def make_sink(self) -> AuditSink:
        self.target = Target()
        sink: AuditSink = self.Subject(self.target)
        return sink

    async def delivered(self) -> Sequence[Mapping[str, Any]]:
        return self.target.records

    @contextlib.asynccontextmanager
    async def make_unreachable(self) -> AsyncIterator[None]:
        self.target.is_down = True
        yield
        self.target.is_down = False

    def secrets(self) -> Sequence[str]:
        return [TOKEN]


class TestSoundSink(Mutant):
    time_limit = PATIENT
    Subject = Sink
    delivery_time = 10.0


class TestLosesWhatFails(Mutant):
    breaks = "records_of_an_outage_are_delivered"

    class Subject(Sink):
        async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            with contextlib.suppress(BackendError):
                await super().write(records)


class TestLosesWhatWaitsAtClose(Mutant):
    breaks = "records_are_delivered_at_close"

    class Subject(Sink):
        is_closing = False

        async def close(self) -> None:
            self.is_closing = True
            await super().close()

        async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            if not self.is_closing:
                await super().write(records)


class TestShuffles(Mutant):
    breaks = "records_are_delivered records_are_delivered_at_close many_records_are_delivered odd_records_are_delivered"

    class Subject(Sink):
        async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            await super().write(records[::-1])


class TestCutsPaths(Mutant):
    breaks = "odd_records_are_delivered"

    class Subject(Sink):
        async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            cut = [{**each, "request": {**each["request"], "path": each["request"]["path"][:100]}} for each in records]
            await super().write(cut)


class TestTakesOnlySome(Mutant):
    breaks = "many_records_are_delivered"

    class Subject(Sink):
        max_waiting = 100


class TestAddsToTheRecord(Mutant):
    breaks = "record_is_not_changed"

    class Subject(Sink):
        def audit(self, event: Mapping[str, Any]) -> None:
            super().audit(dict(event))
            event["response"]["server"] = "kes-1"


class TestDelivers(Mutant):
    """Twice."""

    breaks = "records_are_delivered records_are_delivered_at_close many_records_are_delivered odd_records_are_delivered"
    breaks += " records_of_an_outage_are_delivered"

    class Subject(Sink):
        async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            await super().write([*records, *records])


class TestSendsAtOnce(Mutant):
    """On the event loop."""

    breaks = "audit_does_not_block outage_delays_nothing"

    class Subject(Sink):
        count = 0

        def audit(self, event: Mapping[str, Any]) -> None:
            self.count += 1
            if self.count in {1, 21}:
                time.sleep(0.7)
            super().audit(event)


class TestRaisesWhileItsTargetIsDown(Mutant):
    breaks = "outage_delays_nothing records_of_an_outage_are_delivered"

    class Subject(Sink):
        def audit(self, event: Mapping[str, Any]) -> None:
            if self.target.is_down:
                raise BackendError("the log service does not answer")
            super().audit(event)


class TestClosesOnce(Mutant):
    breaks = "close_sink_twice"

    class Subject(Sink):
        is_open = True

        async def close(self) -> None:
            if not self.is_open:
                raise ValueError("it is closed")
            self.is_open = False
            await super().close()


class TestWaitsForItsTarget(Mutant):
    breaks = "outage_delays_nothing"

    @pytest.fixture(autouse=True)
    def _little_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sinks, "CLOSE_TIME", 0.5)

    class Subject(Sink):
        async def close(self) -> None:
            await super().close()
            await asyncio.sleep(1 if self.target.is_down else 0)


class TestShowsItsToken(Mutant):
    breaks = "sink_shows_no_credential"

    class Subject(Sink):
        async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            logging.getLogger("library").debug("POST /records Authorization: Bearer %s", self.token)
            await super().write(records)


class TestLosesTheFirst(Mutant):
    breaks = (
        "records_are_delivered records_are_delivered_at_close many_records_are_delivered odd_records_are_delivered "
        "records_of_an_outage_are_delivered"
    )

    class Subject(Sink):
        has_any = False

        def audit(self, event: Mapping[str, Any]) -> None:
            if self.has_any:
                super().audit(event)
            self.has_any = True

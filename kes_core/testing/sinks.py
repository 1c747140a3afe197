"""The contract of audit sinks, as a base class for tests."""

from __future__ import annotations

import asyncio
import copy
from typing import Final

from kes_core.testing._clause import clause
from kes_core.testing._running import BrokenError, check, described, heartbeat
from kes_core.testing._secrets import Secrets, texts_of_records
from kes_core.testing._sink import CLOSE_TIME, SinkSuite, SinkTrial, sample_record

__all__ = ["AuditSinkContract", "sample_record"]

MANY: Final = 2000
"""More records than a sink of the kit's base class delivers at once."""
SOME: Final = 20
SECONDS: Final = 1.0
"""Time of an outage, in which a sink makes several attempts."""


class DeliveryClauses(SinkSuite):
    """What arrives at the target."""

    @clause()
    async def test_records_are_delivered(self, trial: SinkTrial) -> None:
        """Every record is delivered, unchanged and in order."""
        records = [sample_record(number) for number in range(SOME)]
        for record in records:
            trial.sink.audit(record)
            await asyncio.sleep(0)
        await trial.expect(records, "after some records")

    @clause()
    async def test_records_are_delivered_at_close(self, trial: SinkTrial) -> None:
        """`close` delivers the records that wait."""
        records = [sample_record(number) for number in range(SOME)]
        for record in records:
            trial.sink.audit(record)
        await trial.sink.close()
        await trial.expect(records, "after close", at_once=True)

    @clause(patience=2)
    async def test_many_records_are_delivered(self, trial: SinkTrial) -> None:
        """Many records at once are all delivered, in order."""
        records = [sample_record(number) for number in range(MANY)]
        for record in records:
            trial.sink.audit(record)
        await trial.expect(records, f"after {MANY} records at once")

    @clause()
    async def test_odd_records_are_delivered(self, trial: SinkTrial) -> None:
        """Records with odd paths (control characters, quotes, other letters, 8000 characters) are delivered."""
        paths = ["", "/a\nb\r\x00\x1b[31m", '/"quoted" \\ <b>&amp;', "/schlüssel/鍵/\U0001f511", "/" + "x" * 8000]
        records = [sample_record(number, path) for number, path in enumerate(paths)]
        for record in records:
            trial.sink.audit(record)
        await trial.expect(records, "after odd records")

    @clause(needs="make_unreachable", patience=2)
    async def test_records_of_an_outage_are_delivered(self, trial: SinkTrial) -> None:
        """Records that are made while the target is unreachable are delivered afterwards, at least once."""
        records = [sample_record(number) for number in range(3)]
        trial.sink.audit(records[0])
        await trial.expect(records[:1], "before the outage")
        async with trial.unreachable():
            trial.sink.audit(records[1])
            await asyncio.sleep(SECONDS)
            trial.sink.audit(records[2])
        loop = asyncio.get_running_loop()
        ends = loop.time() + 2 * trial.patience
        while loop.time() < ends:
            found = await trial.delivered()
            if all(record in found for record in records):
                return
            await asyncio.sleep(SECONDS / 10)
        raise BrokenError("after the outage, records are missing")


class SinkConductClauses(SinkSuite):
    """How a sink behaves."""

    @clause()
    async def test_audit_does_not_block(self, trial: SinkTrial) -> None:
        """No call of `audit` blocks the event loop."""

        async def audit() -> None:
            for number in range(SOME):
                trial.sink.audit(sample_record(number))

        async with heartbeat() as measure:
            gap = min([await measure(audit()) for _ in range(2)])
        check(gap < trial.longest_block, f"{SOME} records blocked it for {gap:.2f} s")

    @clause()
    async def test_record_is_not_changed(self, trial: SinkTrial) -> None:
        """The sink does not change a record: other sinks get the same object."""
        record = sample_record()
        before = copy.deepcopy(record)
        trial.sink.audit(record)
        await trial.sink.close()
        check(record == before, "the record differs afterwards")

    @clause()
    async def test_close_sink_twice(self, trial: SinkTrial) -> None:
        """`close` can be called twice."""
        trial.sink.audit(sample_record())
        for time in ("first", "second"):
            try:
                await trial.sink.close()
            except Exception as error:
                raise BrokenError(f"the {time} close raised {described(error)}") from None

    @clause(needs="make_unreachable", patience=2)
    async def test_outage_delays_nothing(self, trial: SinkTrial) -> None:
        """While the target is unreachable, `audit` does not raise or block, and `close` returns within 5 seconds."""
        loop = asyncio.get_running_loop()
        problems: list[str] = []
        async with trial.unreachable():
            async with heartbeat() as measure:
                gap = await measure(_audit_some(trial, problems))
            check(not problems, "".join(problems[:1]))
            check(gap < trial.longest_block, f"records blocked the event loop for {gap:.2f} s")
            started = loop.time()
            await trial.sink.close()
            seconds = loop.time() - started
            check(seconds < CLOSE_TIME + 0.5, f"close took {seconds:.1f} s")

    @clause(needs="secrets", debug_log=True)
    async def test_sink_shows_no_credential(self, trial: SinkTrial) -> None:
        """The sink's `repr()` and its log show no credential."""
        secrets = Secrets(trial.credentials())
        await _audit_some(trial, [])
        secrets.look_in("the sink", [("repr()", repr(trial.sink)), ("str()", str(trial.sink))])
        await trial.sink.close()
        secrets.look_in("the log", texts_of_records(trial.log.records))


async def _audit_some(trial: SinkTrial, problems: list[str]) -> None:
    """Make some records; add what `audit` raises to `problems`."""
    for number in range(SOME):
        try:
            trial.sink.audit(sample_record(number))
        except Exception as error:
            problems.append(f"audit raised {described(error)}")
        await asyncio.sleep(0)


# pytest runs the tests of the last base class first.
class AuditSinkContract(SinkConductClauses, DeliveryClauses):
    """Inherit from this class in a class `Test...`; define `make_sink`, and `delivered`, which reads the target.

    Each clause gets its own instance of the class, thread, event loop and sink. To use a fixture of pytest, request it
    in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

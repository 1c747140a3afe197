"""The base class of the clauses of audit sinks, and the sink of one clause."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final

from kes_core.hookspecs import AuditSink
from kes_core.testing._clause import Suite, credentials_of, optional
from kes_core.testing._running import HookError, check, fail_hook, shown

__all__ = ["SinkSuite", "SinkTrial", "sample_record"]

CLOSE_TIME: Final = 5.0
"""Seconds that a sink has to close."""
FAILED_CLOSE_TIME: Final = 0.5
"""Seconds that it has after a clause that failed: often its target is not there."""
POLL: Final = 0.05
PATIENCE: Final = 0.7
"""The largest part of the time limit of a clause that the kit waits for records."""


def sample_record(number: int = 0, path: str = "/v1/key/generate/my-key") -> dict[str, Any]:
    """Return an audit record as the server makes them; `number` makes it unique."""
    return {
        "time": f"2026-01-01T12:00:00.{number:06}Z",
        "request": {"ip": "192.0.2.1", "path": path, "identity": "3e" * 32},
        "response": {"code": 200, "time": 1000 + number},
    }


class SinkSuite(Suite):
    """The methods that the author of an audit sink defines."""

    delivery_time: ClassVar[float] = 10.0
    """The longest time in seconds from a record to its delivery. The kit waits so long for records."""

    async def make_sink(self) -> AuditSink:
        """Return a new sink, whose target has no records. The kit calls this once per clause, and closes the sink."""
        raise NotImplementedError("define make_sink() in the test class: it returns a sink")

    async def delivered(self) -> Sequence[Mapping[str, Any]]:
        """Return the records that the target has received, in their order, as the sink got them."""
        raise NotImplementedError("define delivered() in the test class: it returns what the target has received")

    @optional
    def make_unreachable(self) -> AbstractAsyncContextManager[object]:
        """Return a context manager that makes the target of the sink unreachable while it is active. Optional."""
        raise NotImplementedError

    def _make_trial(self) -> SinkTrial:
        return SinkTrial(self)


class SinkTrial:
    """The sink that one clause tests."""

    def __init__(self, suite: SinkSuite) -> None:
        self._suite = suite
        self.log = suite.kes_log
        self.sink: AuditSink
        self.longest_block = suite.longest_block

    @property
    def subject(self) -> AuditSink:
        """The sink of the author."""
        return self.sink

    async def begin(self) -> None:
        """Create the sink."""
        try:
            sink = await self._suite.make_sink()
        except Exception as error:
            raise HookError("make_sink() failed") from error
        if not isinstance(sink, AuditSink):
            fail_hook(f"make_sink() of the test class returned a {type(sink).__name__}; expected an AuditSink")
        self.sink = sink
        found = len(await self.delivered())
        if found:
            fail_hook(f"delivered() of the test class returned {found} records before the sink got any")

    @property
    def patience(self) -> float:
        """How many seconds the kit waits for records."""
        return min(self._suite.delivery_time, PATIENCE * self._suite.time_limit)

    def check_capability(self, name: str) -> None:
        """Do nothing: a sink has no capabilities."""

    def pace(self) -> str:
        """Return nothing: the calls are not counted."""
        return ""

    async def end(self, *, kept: bool) -> None:
        """Close the sink. Ignore errors: only some clauses test `close`."""
        if hasattr(self, "sink"):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIME if kept else FAILED_CLOSE_TIME):
                    await self.sink.close()

    async def delivered(self) -> list[Any]:
        """Return the records that the target has received."""
        try:
            return list(await self._suite.delivered())
        except Exception as error:
            raise HookError("delivered() failed") from error

    async def expect(self, records: Sequence[Mapping[str, Any]], when: str, *, at_once: bool = False) -> None:
        """Wait until the target has exactly these records, in their order; or check that with `at_once`."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + (2 * POLL if at_once else self.patience)
        while (found := await self.delivered()) != list(records) and loop.time() < ends:
            if len(found) > len(records):
                break
            await asyncio.sleep(POLL)
        lost = [record for record in records if record not in found]
        check(not lost, f"{when}, {len(lost)} of {len(records)} records are not delivered")
        check(len(found) == len(records), f"{when}, {len(found)} records are delivered, not {len(records)}")
        wrong = [one for one, other in zip(found, records, strict=True) if one != other]
        check(not wrong, f"{when}, the order of the records is wrong: first {shown(wrong[:1])}")

    @contextlib.asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Make the target unreachable while the context is active."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._suite.make_unreachable())
            except Exception as error:
                raise HookError("make_unreachable() failed") from error
            yield

    def credentials(self) -> list[bytes]:
        """Return the credentials of the sink."""
        return credentials_of(self._suite)

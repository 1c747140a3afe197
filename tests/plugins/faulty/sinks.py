"""Audit sinks with one fault each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kes_core import BackendError, PluginContext, QueuedAuditSink
from tests.plugins.faulty.bases import SECRET, FaultySink, forever, stubbornly


class SinkConnectReturnsAList(FaultySink):
    """`connect` returns a list."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return [cls()]


class SinkConnectRaises(FaultySink):
    """`connect` raises an exception of another library."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        raise ConnectionError(SECRET)


class AuditIsAsynchronous(FaultySink):
    """`audit` is an `async def` method."""

    async def audit(self, event: Mapping[str, Any]) -> Any:  # type: ignore[override]
        pass


class AuditIsMissing(FaultySink):
    """`audit` is not a method."""

    audit: Any = None


class AuditIsAProperty(FaultySink):
    """`audit` is a property that raises."""

    @property
    def audit(self) -> Any:
        raise RuntimeError(SECRET)


class AuditReturnsACoroutine(FaultySink):
    """`audit` returns the coroutine of another method, which nobody awaits."""

    def audit(self, event: Mapping[str, Any]) -> Any:
        return self.close()


class AuditRaises(FaultySink):
    """`audit` raises an exception of another library."""

    def audit(self, event: Mapping[str, Any]) -> Any:
        raise ValueError(SECRET)


class AuditExits(FaultySink):
    """`audit` calls `sys.exit()`."""

    def audit(self, event: Mapping[str, Any]) -> Any:
        raise SystemExit(SECRET)


class AuditFailsInManyLines(FaultySink):
    """`audit` raises a proper error of several lines."""

    def audit(self, event: Mapping[str, Any]) -> Any:
        raise BackendError("the queue is full:\nwait")


class AuditBlocks(FaultySink):
    """`audit` sends the record on the event loop."""

    def audit(self, event: Mapping[str, Any]) -> Any:
        time.sleep(0.15)


class ChangesTheRecord(FaultySink):
    """`audit` changes the record, which other sinks get after it."""

    def audit(self, event: Any) -> Any:
        event["response"]["code"] = 0


class _Queued(QueuedAuditSink, FaultySink):
    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        await asyncio.sleep(0)

    def audit(self, event: Mapping[str, Any]) -> Any:
        QueuedAuditSink.audit(self, event)


class WriteRaises(_Queued):
    """`write` raises an exception of another library."""

    hangs = True

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        raise ValueError(SECRET)


class WriteExits(_Queued):
    """`write` calls `sys.exit()`."""

    hangs = True

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        raise SystemExit(SECRET)


class WriteHangs(_Queued):
    """`write` never returns."""

    hangs = True

    write_timeout = 0.05

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        await forever()


class WriteIgnoresCancellation(_Queued):
    """`write` never returns, and ignores that it is cancelled."""

    hangs = True

    write_timeout = 0.05

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        await stubbornly()


class WriteIsCancelled(_Queued):
    """`write` raises `CancelledError`, although nothing cancelled it."""

    hangs = True

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        raise asyncio.CancelledError(SECRET)


class QueueOverflows(_Queued):
    """`write` is too slow for the records that come."""

    hangs = True

    max_waiting = 1

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        await forever()


class DisconnectRaises(_Queued):
    """`disconnect` raises an exception of another library."""

    async def disconnect(self) -> None:
        raise ValueError(SECRET)


class SinkCloseHangs(FaultySink):
    """`close` never returns."""

    hangs = True

    async def close(self) -> None:
        await forever()


class SinkCloseRaises(FaultySink):
    """`close` raises an exception of another library."""

    async def close(self) -> None:
        raise ValueError(SECRET)

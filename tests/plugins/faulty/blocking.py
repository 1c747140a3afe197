"""Plugins that block the event loop for ever. The server's watchdog ends these calls."""

# ruff: noqa: ASYNC221, ASYNC251 # the faults

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from kes_core import FrontendContext, KeyStoreError, PluginContext, PolicyRequest
from tests.plugins.faulty.bases import FaultyEngine, FaultyFrontend, FaultySink, FaultyStore
from tests.plugins.faulty.sinks import _Queued

LONG = 10**6


def spin() -> None:
    """Never return."""
    while True:
        pass


def block() -> Any:
    """Sleep for very long."""
    time.sleep(LONG)


class _Blocks:
    hangs = True
    blocks = True
    """Whether a watchdog runs."""


# Policy engines


class AuthorizeSpins(_Blocks, FaultyEngine):
    """`authorize` has an endless loop."""

    async def authorize(self, request: PolicyRequest) -> Any:
        spin()


class AuthorizeSleeps(_Blocks, FaultyEngine):
    """`authorize` sleeps on the event loop, after it has awaited something."""

    async def authorize(self, request: PolicyRequest) -> Any:
        await asyncio.sleep(0)
        time.sleep(LONG)


class AuthorizeWaitsForAThread(_Blocks, FaultyEngine):
    """`authorize` waits for a thread that waits for the event loop."""

    async def authorize(self, request: PolicyRequest) -> Any:
        threading.Event().wait()


class AuthorizeCountsItsRules(_Blocks, FaultyEngine):
    """`authorize` returns something whose type takes for ever to find out."""

    async def authorize(self, request: PolicyRequest) -> Any:
        return _Unfathomable()


class _Unfathomable:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        block()


# Key stores


class StoreConnectBlocks(_Blocks, FaultyStore):
    """`connect` does not return."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        block()


class CapabilitiesBlock(_Blocks, FaultyStore):
    """`capabilities` is a property with no end."""

    @property
    def capabilities(self) -> Any:  # type: ignore[override]
        block()


class GetSleeps(_Blocks, FaultyStore):
    """`get` sleeps on the event loop."""

    async def get(self, name: str) -> Any:
        time.sleep(LONG)


class GetReadsASocket(_Blocks, FaultyStore):
    """`get` waits for an answer that does not come."""

    async def get(self, name: str) -> Any:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            return ours.recv(1)


class GetRunsAProgram(_Blocks, FaultyStore):
    """`get` waits for the end of a program."""

    async def get(self, name: str) -> Any:
        return subprocess.run(["sleep", str(LONG)], check=True, stdout=subprocess.PIPE).stdout


class GetBlocksInATask(_Blocks, FaultyStore):
    """`get` waits for a task with no end."""

    async def get(self, name: str) -> Any:
        return await asyncio.create_task(self._find())

    async def _find(self) -> Any:
        block()


class GetBlocksInACallback(_Blocks, FaultyStore):
    """`get` returns, and leaves a callback that does not return."""

    async def get(self, name: str) -> Any:
        asyncio.get_running_loop().call_soon(block)
        await asyncio.sleep(0.01)
        return await super().get(name)


class GetLogsAndSpins(_Blocks, FaultyStore):
    """`get` writes to the log without end."""

    context: ClassVar[Any] = None

    @classmethod
    async def connect(cls, _settings: Any, context: PluginContext) -> Any:
        cls.context = context
        return cls()

    async def get(self, name: str) -> Any:
        while True:
            self.context.logger.debug("still there")
            sum(range(1000))


class _EndlessError(KeyStoreError):
    def __str__(self) -> str:
        block()
        return ""


class TextOfErrorSpins(_Blocks, FaultyStore):
    """`get` raises an error whose text takes for ever."""

    async def get(self, name: str) -> Any:
        raise _EndlessError


class StatusSleeps(_Blocks, FaultyStore):
    """`status` sleeps on the event loop."""

    async def status(self) -> None:
        time.sleep(LONG)


class StatusTriesAgain(_Blocks, FaultyStore):
    """`status` catches each exception, the first two times."""

    async def status(self) -> None:
        for _ in range(2):
            with contextlib.suppress(BaseException):
                time.sleep(LONG)
        time.sleep(LONG)


class StoreCloseBlocks(_Blocks, FaultyStore):
    """`close` does not return."""

    async def close(self) -> None:
        block()


# Audit sinks


class AuditBlocks(_Blocks, FaultySink):
    """`audit` does not return."""

    def audit(self, event: Mapping[str, Any]) -> Any:
        block()


class WriteSleeps(_Blocks, _Queued):
    """`write` sleeps on the event loop."""

    async def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        time.sleep(LONG)


# Front ends


class FrontendConnectSleeps(_Blocks, FaultyFrontend):
    """`connect` sleeps on the event loop."""

    @classmethod
    async def connect(cls, _settings: Any, _context: FrontendContext) -> Any:
        time.sleep(LONG)


class StartBlocks(_Blocks, FaultyFrontend):
    """`start` does not return."""

    async def start(self) -> None:
        block()


class ReadySleeps(_Blocks, FaultyFrontend):
    """`ready` sleeps on the event loop."""

    async def ready(self) -> None:
        time.sleep(LONG)


class TaskSpins(_Blocks, FaultyFrontend):
    """A task has an endless loop."""

    has_task = True

    async def start(self) -> None:
        self.context.spawn(self.work())

    async def work(self) -> None:
        await asyncio.sleep(0.01)
        spin()


class TaskAsksWithoutEnd(_Blocks, FaultyFrontend):
    """A task asks for a key that is in memory, again and again, so that it never waits."""

    has_task = True

    async def start(self) -> None:
        self.context.spawn(self.work())

    async def work(self) -> None:
        await asyncio.sleep(0.01)
        while True:
            await self.context.keys.generate(self.identity, "my-key")
            sum(range(100_000))


class StopBlocks(_Blocks, FaultyFrontend):
    """`stop` does not return."""

    async def stop(self) -> None:
        block()

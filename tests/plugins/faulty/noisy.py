"""A plugin that prints wherever it is called, and that can hang wherever it is called (`KES_TEST_HANGS`)."""

# ruff: noqa: T201 # it prints

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping
from typing import Any

from kes_core import PluginContext, hookimpl
from tests.plugins.faulty.bases import FaultySink, FaultyStore

NOISE = "noise on standard output"
HANGS = "KES_TEST_HANGS" in os.environ

print(NOISE)
if HANGS:
    threading.Thread(target=threading.Event().wait).start()


async def _hang() -> None:
    """Never end, whatever happens."""
    while HANGS:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


class Noisy(FaultyStore, FaultySink):
    """It is a key store and an audit sink."""

    health_interval = 0.2

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        print(NOISE)
        return cls()

    async def status(self) -> None:
        await _hang()

    async def get(self, name: str) -> bytes:
        print(NOISE)
        await _hang()
        return await super().get(name)

    def audit(self, event: Mapping[str, Any]) -> None:
        print(NOISE, flush=True)

    async def close(self) -> None:
        print(NOISE)
        await _hang()

    @staticmethod
    @hookimpl
    def kes_server_started() -> None:
        print(NOISE)

    @staticmethod
    @hookimpl
    def kes_server_stopping() -> None:
        print(NOISE)
        if HANGS:
            threading.Event().wait()

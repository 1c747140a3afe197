"""A plugin that a server process can hardly end. The name of the key says how it blocks."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
from typing import Any

from kes_core import PluginContext
from kes_core.server import watchdog
from kes_core.server.workers import signs
from tests.plugins.faulty.bases import FaultyStore

if "KES_TEST_LIMIT" in os.environ:
    watchdog.LIMIT = float(os.environ["KES_TEST_LIMIT"])  # type: ignore[misc] # shorter
    signs.SILENCE = 3 * watchdog.LIMIT  # type: ignore[misc] # as above


class Stuck(FaultyStore):
    """A key store in memory."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        if "KES_TEST_HANGS" in os.environ:
            # A thread of the executor that does not end.
            asyncio.get_running_loop().run_in_executor(None, ctypes.CDLL(None).sleep, 10**6)
        return cls()

    async def get(self, name: str) -> bytes:
        if name == "spins":
            while True:
                pass
        while name == "catches":
            try:
                await self.get("spins")
            except BaseException:  # the fault
                continue
        if name == "compiled":
            hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)  # signals do not end it
        if name == "locked":
            ctypes.PyDLL(None).sleep(10**6)  # no other thread runs meanwhile
        return await super().get(name)

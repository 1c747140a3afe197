"""Key stores with one fault each."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, ClassVar

from kes_core import KeyStoreError, KeyStoreThrottledError, PluginContext
from kes_core.builtin.memory import MemoryKeyStore
from tests.plugins.faulty.bases import SECRET, FaultyStore, forever, stubbornly

# connect


class ConnectReturnsADictionary(FaultyStore):
    """`connect` returns a dictionary."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return {}


class ConnectReturnsNothing(FaultyStore):
    """`connect` has no `return`."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        cls()


class ConnectForgetsAwait(FaultyStore):
    """`connect` returns a coroutine, because an `await` is missing."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return cls().status()


class ConnectIsSynchronous(FaultyStore):
    """`connect` is not an `async def` function."""

    @classmethod
    def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return cls()


class _Connector:
    def __call__(self, _settings: Any, _context: PluginContext) -> MemoryKeyStore:
        return MemoryKeyStore()


class ConnectIsASynchronousObject(FaultyStore):
    """`connect` is an object that can be called, and returns a store at once."""

    connect = _Connector()  # type: ignore[assignment]


class ConnectTakesOneArgument(FaultyStore):
    """`connect` does not take the context."""

    @classmethod
    async def connect(cls, _settings: Any) -> Any:  # type: ignore[override]
        return cls()


class ConnectRaises(FaultyStore):
    """`connect` raises an exception of another library, with a secret in its text."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        raise RuntimeError(SECRET)


class ConnectExits(FaultyStore):
    """`connect` calls `sys.exit()`."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        raise SystemExit(SECRET)


class ConnectIsCancelled(FaultyStore):
    """`connect` lets the cancellation of a task of its own out."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        task = asyncio.create_task(forever())
        task.cancel()
        await task


class ConnectHangs(FaultyStore):
    """`connect` never returns."""

    hangs = True

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        await forever()


class ConnectIgnoresCancellation(FaultyStore):
    """`connect` never returns, and ignores that the server gives up."""

    hangs = True

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        await stubbornly()


class _UnprintableError(KeyStoreError):
    def __str__(self) -> str:
        raise ValueError(SECRET)


class ErrorCanNotBeShown(FaultyStore):
    """`connect` raises an error whose `__str__` raises."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        raise _UnprintableError


class CapabilitiesAreADictionary(FaultyStore):
    """`capabilities` is a dictionary."""

    capabilities: Any = {"ordered": False}  # noqa: RUF012 # as the interface has it


class CapabilitiesRaise(FaultyStore):
    """`capabilities` is a property that raises."""

    @property
    def capabilities(self) -> Any:  # type: ignore[override]
        raise RuntimeError(SECRET)


# get


class GetReturnsText(FaultyStore):
    """`get` returns text instead of bytes."""

    async def get(self, name: str) -> Any:
        return SECRET


class GetReturnsNothing(FaultyStore):
    """`get` returns None for a key that does not exist."""

    async def get(self, name: str) -> Any:
        return self._values.get(name)


class GetForgetsAwait(FaultyStore):
    """`get` returns a coroutine, because an `await` is missing."""

    async def get(self, name: str) -> Any:
        return super().get(name)


class GetIsSynchronous(FaultyStore):
    """`get` is not an `async def` method."""

    def get(self, name: str) -> Any:
        return self._values.get(name, b"")


class GetReturnsTooMuch(FaultyStore):
    """`get` returns a gigantic value."""

    async def get(self, name: str) -> Any:
        return bytes(10_000_000)


class GetRaises(FaultyStore):
    """`get` raises an exception of another library, with a secret in its text."""

    async def get(self, name: str) -> Any:
        raise ValueError(SECRET)


class GetRaisesAGroup(FaultyStore):
    """`get` lets the exceptions of a task group out."""

    async def get(self, name: str) -> Any:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(GetRaises().get(name))


class GetExits(FaultyStore):
    """`get` calls `sys.exit()`."""

    async def get(self, name: str) -> Any:
        raise SystemExit(SECRET)


class GetIsCancelled(FaultyStore):
    """`get` raises `CancelledError`, although nothing cancelled it."""

    async def get(self, name: str) -> Any:
        raise asyncio.CancelledError(SECRET)


class GetHangs(FaultyStore):
    """`get` never returns."""

    hangs = True

    async def get(self, name: str) -> Any:
        await forever()


class GetIgnoresCancellation(FaultyStore):
    """`get` never returns, and ignores that it is cancelled."""

    hangs = True

    async def get(self, name: str) -> Any:
        await stubbornly()


class GetHangsOnce(FaultyStore):
    """The first `get` never returns, as when a pool loses a connection."""

    hangs = True

    has_hung: ClassVar[bool] = False

    async def get(self, name: str) -> Any:
        if not GetHangsOnce.has_hung:
            GetHangsOnce.has_hung = True
            await forever()
        return await super().get(name)


class GetBlocks(FaultyStore):
    """`get` waits on the event loop, before it first awaits something."""

    async def get(self, name: str) -> Any:
        time.sleep(0.15)  # noqa: ASYNC251 # the fault
        return await super().get(name)


class GetBlocksLater(FaultyStore):
    """`get` waits on the event loop, after it has awaited something."""

    async def get(self, name: str) -> Any:
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 # as above
        return await super().get(name)


# create, delete, status


class CreateReturnsSomething(FaultyStore):
    """`create` returns something, which nobody needs."""

    async def create(self, name: str, value: bytes) -> Any:
        await super().create(name, value)
        return value


class CreateShowsTheKey(FaultyStore):
    """`create` raises an exception of another library that shows the key."""

    async def create(self, name: str, value: bytes) -> None:
        raise KeyError(SECRET, value)


class CreateStoresNothing(FaultyStore):
    """`create` returns, and has stored nothing."""

    async def create(self, name: str, value: bytes) -> None:
        pass


class DeleteRaises(FaultyStore):
    """`delete` raises an exception of another library."""

    async def delete(self, name: str) -> None:
        raise OSError(5, SECRET)


class StatusRaises(FaultyStore):
    """`status` raises an exception of another library."""

    async def status(self) -> None:
        raise ConnectionRefusedError(SECRET)


class StatusHangs(FaultyStore):
    """`status` never returns."""

    hangs = True

    async def status(self) -> None:
        await forever()


class ErrorHasManyLines(FaultyStore):
    """`status` raises a proper error, whose text would forge lines of the log."""

    async def status(self) -> None:
        raise KeyStoreError("the first line\n2026-01-01 INFO a forged line\x1b[2J")


class _Throttled(FaultyStore):
    retry_after: Any = None

    async def get(self, name: str) -> Any:
        raise KeyStoreThrottledError("slow down", retry_after=self.retry_after)


class RetryAfterIsNegative(_Throttled):
    """`retry_after` is a time in the past."""

    hangs = True

    retry_after = -5.0


class RetryAfterIsNoNumber(_Throttled):
    """`retry_after` is not a number (NaN)."""

    hangs = True

    retry_after = math.nan


class RetryAfterIsText(_Throttled):
    """`retry_after` is the text of a header."""

    hangs = True

    retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"


class IntervalsAreOdd(FaultyStore):
    """`health_interval` is negative and `check_interval` is text: the server uses its own."""

    health_interval = -1.0
    check_interval: Any = "often"


class CredentialsRaise(FaultyStore):
    """`credentials` raises."""

    def credentials(self) -> Any:
        raise RuntimeError(SECRET)

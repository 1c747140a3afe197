"""Policy engines with one fault each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from kes_core import BackendError, Decision, PluginContext, PolicyRequest, Verdict
from kes_core.builtin.memory import MemoryKeyStore
from tests.plugins.faulty.bases import SECRET, FaultyEngine, forever, stubbornly

ALLOWED = Verdict(Decision.ALLOW, "why not")


class EngineConnectReturnsAStore(FaultyEngine):
    """`connect` returns a key store."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return MemoryKeyStore()


class EngineConnectRaises(FaultyEngine):
    """`connect` raises an exception of another library."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        raise FileNotFoundError(SECRET)


class VerdictIsMissing(FaultyEngine):
    """`authorize` has no `return`."""

    async def authorize(self, request: PolicyRequest) -> Any:
        pass


class VerdictIsTrue(FaultyEngine):
    """`authorize` returns True."""

    async def authorize(self, request: PolicyRequest) -> Any:
        return True


class VerdictIsATuple(FaultyEngine):
    """`authorize` returns a tuple that looks like a verdict."""

    async def authorize(self, request: PolicyRequest) -> Any:
        return tuple(ALLOWED)


class DecisionIsAWord(FaultyEngine):
    """The decision is a word."""

    async def authorize(self, request: PolicyRequest) -> Any:
        return Verdict("allow", "")  # type: ignore[arg-type]


class ReasonIsNothing(FaultyEngine):
    """The reason is None."""

    async def authorize(self, request: PolicyRequest) -> Any:
        return Verdict(Decision.ALLOW, None)  # type: ignore[arg-type]


class ReasonHasManyLines(FaultyEngine):
    """The reason would forge lines of the log, and is very long."""

    async def authorize(self, request: PolicyRequest) -> Any:
        return Verdict(Decision.DENY, "no\n2026-01-01 INFO a forged line " + "x" * 10_000)


class AuthorizeIsSynchronous(FaultyEngine):
    """`authorize` is not an `async def` method."""

    def authorize(self, request: PolicyRequest) -> Any:
        return ALLOWED


class AuthorizeRaises(FaultyEngine):
    """`authorize` raises an exception of another library."""

    async def authorize(self, request: PolicyRequest) -> Any:
        raise KeyError(SECRET)


class AuthorizeRaisesLater(FaultyEngine):
    """`authorize` raises an exception after it has waited."""

    async def authorize(self, request: PolicyRequest) -> Any:
        await asyncio.sleep(0)
        raise KeyError(SECRET)


class AuthorizeExits(FaultyEngine):
    """`authorize` calls `sys.exit()`."""

    async def authorize(self, request: PolicyRequest) -> Any:
        raise SystemExit(SECRET)


class AuthorizeIsCancelled(FaultyEngine):
    """`authorize` raises `CancelledError`, although nothing cancelled it."""

    async def authorize(self, request: PolicyRequest) -> Any:
        raise asyncio.CancelledError(SECRET)


class AuthorizeFailsInManyLines(FaultyEngine):
    """`authorize` raises a proper error of several lines."""

    async def authorize(self, request: PolicyRequest) -> Any:
        raise BackendError("OPA does not answer:\nstart it")


class AuthorizeHangs(FaultyEngine):
    """`authorize` never returns."""

    hangs = True

    async def authorize(self, request: PolicyRequest) -> Any:
        await forever()


class AuthorizeTakesItsTime(FaultyEngine):
    """`authorize` ignores for a while that its time is over."""

    hangs = True

    async def authorize(self, request: PolicyRequest) -> Any:
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
        return ALLOWED


class AuthorizeIgnoresCancellation(FaultyEngine):
    """`authorize` never returns, and ignores that it is cancelled."""

    hangs = True

    async def authorize(self, request: PolicyRequest) -> Any:
        await stubbornly()


class AuthorizeIgnoresEverything(FaultyEngine):
    """`authorize` never returns, whatever happens."""

    hangs = True

    async def authorize(self, request: PolicyRequest) -> Any:
        while not self.is_over:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0.01)

    is_over = False

    async def close(self) -> None:
        self.is_over = True


class AuthorizeBlocks(FaultyEngine):
    """`authorize` waits on the event loop."""

    async def authorize(self, request: PolicyRequest) -> Any:
        time.sleep(0.15)  # noqa: ASYNC251 # the fault
        return ALLOWED


class AuthorizeBlocksLater(FaultyEngine):
    """`authorize` waits on the event loop, after it has awaited something."""

    async def authorize(self, request: PolicyRequest) -> Any:
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 # as above
        return ALLOWED


class IsNotImmediate(FaultyEngine):
    """It states `is_immediate`, and waits."""

    is_immediate = True

    async def authorize(self, request: PolicyRequest) -> Any:
        await asyncio.sleep(0.001)
        return ALLOWED


class IsNotRepeatable(FaultyEngine):
    """It states `is_repeatable`, and decides by the address."""

    is_repeatable = True

    async def authorize(self, request: PolicyRequest) -> Any:
        return ALLOWED if request.remote_address.startswith("192.0.2.") else Verdict(Decision.DENY, "not from there")


class PromiseRaises(FaultyEngine):
    """`is_immediate` is a property that raises: it promises nothing."""

    @property
    def is_immediate(self) -> bool:  # type: ignore[override]
        raise RuntimeError(SECRET)


class ChangesTheRequest(FaultyEngine):
    """`authorize` changes the request, which other engines get after it."""

    async def authorize(self, request: PolicyRequest) -> Any:
        object.__setattr__(request, "resource", "other")
        return ALLOWED


class EngineCloseHangs(FaultyEngine):
    """`close` never returns."""

    hangs = True

    async def close(self) -> None:
        await forever()


class EngineCloseRaises(FaultyEngine):
    """`close` raises an exception of another library."""

    async def close(self) -> None:
        raise ValueError(SECRET)

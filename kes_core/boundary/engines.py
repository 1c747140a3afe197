"""Policy engines behind the boundary. Private."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import types
from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kes_core.boundary.calls import (
    BLOCKING,
    TELL_AGAIN,
    Origin,
    PluginError,
    TooSlowError,
    close_plugin,
    connect_plugin,
    is_ours,
    origin_of,
)
from kes_core.faults import one_line
from kes_core.policy import Decision, PolicyEngine, Verdict

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.hookspecs import PolicyEngineType
    from kes_core.policy import PolicyRequest

__all__ = ["connect_engine"]

T = TypeVar("T")

logger = logging.getLogger("kes.plugins")

AUTHORIZE_TIMEOUT: Final = 1.0
"""Seconds that a policy engine gets for one request."""


async def connect_engine(kind: PolicyEngineType, settings: BaseModel) -> PolicyEngine:
    """Connect to a policy engine; return it behind the boundary.

    Args:
        kind: Of which kind it is.
        settings: Its section of the configuration.

    Raises:
        KeyStoreError: It can't be used.
    """
    origin = origin_of("policy engine", kind)
    # PolicyEngine is abstract, and only asked for with isinstance().
    engine = await connect_plugin(origin, kind.connect, settings, PolicyEngine)  # type: ignore[type-abstract]
    return _GuardedEngine(engine, origin)


class _GuardedEngine(PolicyEngine):
    """A plugin's policy engine. It answers in time and with a `Verdict`, or raises `PluginError`."""

    def __init__(self, engine: PolicyEngine, origin: Origin) -> None:
        self._engine = engine
        self._origin = origin
        self._told_blocking = -math.inf

    async def authorize(self, request: PolicyRequest) -> Verdict:
        """Ask the engine.

        Raises:
            PluginError: It failed, took longer than it may, or did not return a verdict.
        """
        # Most engines answer without waiting for anything. A timeout, which costs more than their answer, is set up
        # only for one that does wait.
        started = time.perf_counter()
        try:
            call: Any = self._engine.authorize(request)
            if type(call) is not types.CoroutineType:
                call = _as_coroutine(call)
            try:
                waits_for = call.send(None)
            except StopIteration as done:
                verdict = done.value
                seconds = time.perf_counter() - started
                if seconds > BLOCKING:
                    self._tell_blocking(seconds)
            else:
                verdict = await _finish(call, waits_for)
        except BaseException as error:
            if is_ours(error):
                raise
            failure = self._failure(error)
        else:
            if isinstance(verdict, Verdict):
                decision: Any
                reason: Any
                decision, reason = verdict
                if isinstance(decision, Decision) and isinstance(reason, str):
                    short = one_line(reason)
                    return verdict if short is reason else Verdict(decision, short)
            failure = PluginError(self._origin.returned("authorize", verdict, "a Verdict"))
        raise failure  # outside of the handler, as in `connect_plugin`

    async def close(self) -> None:
        await close_plugin(self._origin, self._engine.close)

    def _failure(self, error: BaseException) -> PluginError:
        if isinstance(error, TooSlowError):
            return PluginError(f"{self._origin.what} has not answered within {AUTHORIZE_TIMEOUT:g} s")
        return PluginError(self._origin.fault("authorize", error))

    def _tell_blocking(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._told_blocking >= TELL_AGAIN:
            self._told_blocking = now
            logger.warning("%s kept all requests waiting for %.1f s", self._origin.what, seconds)


async def _as_coroutine(call: Awaitable[T]) -> T:
    return await call


async def _finish(call: Any, waits_for: Any) -> Any:
    """Await a coroutine whose first step has been made, for a limited time.

    Raises:
        TooSlowError: It took longer.
        BaseException: Whatever it raised.
    """
    try:
        async with asyncio.timeout(AUTHORIZE_TIMEOUT) as limit:
            return await _go_on(call, waits_for)
    except TimeoutError:
        if limit.expired():
            raise TooSlowError from None
        raise


@types.coroutine
def _go_on(call: Any, waits_for: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine whose first step has been made, and which waits for `waits_for`."""
    while True:
        try:
            sent = yield waits_for
        except GeneratorExit:
            call.close()
            raise
        except BaseException as error:  # it is for the coroutine
            step, argument = call.throw, error
        else:
            step, argument = call.send, sent
        try:
            waits_for = step(argument)
        except StopIteration as done:
            return done.value

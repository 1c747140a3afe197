"""Policy engines behind the boundary. Private."""

from __future__ import annotations

import asyncio
import inspect
import time
import types
from typing import TYPE_CHECKING, Any, Final

from kes_core.boundary.blocking import calls_plugin
from kes_core.boundary.calls import (
    AWAITABLE,
    BLOCKING,
    CANCEL_TIMEOUT,
    BlockingWatch,
    Origin,
    PluginError,
    TooSlowError,
    attribute_of,
    close_plugin,
    connect_plugin,
    is_ours,
    origin_of_engine,
    text_of,
)
from kes_core.boundary.steps import enter_task, go_on
from kes_core.faults import kind_of, one_line
from kes_core.policy import Decision, PolicyEngine, Verdict

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.counters import Histogram
    from kes_core.hookspecs import PluginContext, PolicyEngineType
    from kes_core.policy import PolicyRequest

__all__ = ["connect_engine"]

AUTHORIZE_TIMEOUT: Final = 1.0
"""Seconds that a policy engine has to answer one request, unless the configuration states others."""


async def connect_engine(
    kind: PolicyEngineType, config: BaseModel, context: PluginContext, *, seconds: float = AUTHORIZE_TIMEOUT
) -> PolicyEngine:
    """Connect to a policy engine; return it behind the boundary.

    Args:
        kind: The kind of the engine.
        config: Its section of the configuration.
        context: What it gets to know of this process.
        seconds: How long it may take to answer a request.

    Raises:
        BackendError: The engine can't be used; the message says why.
    """
    origin = origin_of_engine(kind)
    # mypy refuses an abstract class here; it only serves for isinstance().
    engine = await connect_plugin(origin, kind.connect, config, context, PolicyEngine)  # type: ignore[type-abstract]
    return _GuardedEngine(engine, origin, context.metrics._timer("authorize"), seconds)  # noqa: SLF001 # made for this


class _ResultError(Exception):
    """The engine returned something wrong; the message says what."""


class _GuardedEngine(PolicyEngine):
    """A plugin's policy engine that answers with a `Verdict` in time, or raises `PluginError`."""

    def __init__(self, engine: PolicyEngine, origin: Origin, times: Histogram, seconds: float) -> None:
        self._engine = engine
        self._origin = origin
        self._times = times
        self._seconds = seconds
        self.is_immediate = attribute_of(engine, "is_immediate") is True
        self.is_repeatable = attribute_of(engine, "is_repeatable") is True
        self._watch = BlockingWatch(origin)

    @calls_plugin
    async def authorize(self, request: PolicyRequest) -> Verdict:
        """Ask the engine.

        Raises:
            PluginError: The engine failed, exceeded its time limit, or did not return a verdict.
        """
        # Most engines answer without waiting. Setting up a timeout takes longer than their answer, so do that only for
        # an engine that waits.
        started = time.perf_counter()
        try:
            call: Any = self._engine.authorize(request)
            if type(call) is not types.CoroutineType:
                call = _as_coroutine(call, self._origin)
            try:
                waits_for = call.send(None)
            except StopIteration as done:
                verdict = done.value
                seconds = time.perf_counter() - started
                if seconds > BLOCKING:
                    self._watch(seconds)
            else:
                self._watch(time.perf_counter() - started)
                verdict = await _finish(call, waits_for, self._seconds, self._watch)
            if isinstance(verdict, Verdict):
                decision: Any
                reason: Any
                decision, reason = verdict
                if isinstance(decision, Decision) and isinstance(reason, str):
                    short = one_line(reason)
                    return verdict if short is reason else Verdict(decision, short)
            failure = PluginError(self._wrong(verdict))
        except BaseException as error:
            if is_ours(error):
                raise
            failure = self._failure(error)
        finally:
            self._times.add(time.perf_counter() - started)
        raise failure  # outside the handler, as in `connect_plugin`

    async def close(self) -> None:
        await close_plugin(self._origin, self._engine)

    def _wrong(self, verdict: object) -> str:
        """Return a description of what `authorize` has returned, which is not a proper verdict."""
        if not isinstance(verdict, Verdict):
            return self._origin.returned("authorize", verdict, "a Verdict")
        kinds = " and ".join(kind_of(each) for each in verdict)
        return f"{self._origin.what} returned a Verdict of {kinds} from authorize, where it needs Decision and str"

    def _failure(self, error: BaseException) -> PluginError:
        if isinstance(error, _ResultError):
            return PluginError(str(error))
        if isinstance(error, TooSlowError):
            return PluginError(f"{self._origin.what} has not answered within {self._seconds:g} s")
        text = text_of(error)
        return PluginError(self._origin.fault("authorize", error) if text is None else f"{self._origin.what}: {text}")


@calls_plugin
async def _as_coroutine(call: Any, origin: Origin) -> Any:
    """Await what `authorize` has returned.

    Raises:
        _ResultError: It can't be awaited.
    """
    if not inspect.isawaitable(call):
        raise _ResultError(origin.returned("authorize", call, AWAITABLE))
    return await call


async def _finish(call: Any, waits_for: Any, seconds: float, watch: BlockingWatch) -> Any:
    """Await the rest of a coroutine that has made its first step, for a limited time.

    It has `CANCEL_TIMEOUT` to end after that, or after the request was cancelled, and is then abandoned.

    Raises:
        TooSlowError: It took longer.
        BaseException: The coroutine raised it.
    """
    await enter_task()
    try:
        async with asyncio.timeout(seconds) as limit:
            answer = await go_on(call, waits_for, watch, patience=CANCEL_TIMEOUT)
    except TimeoutError:
        if limit.expired():
            raise TooSlowError from None
        raise
    if limit.expired():  # the engine ignored its cancellation
        raise TooSlowError
    return answer

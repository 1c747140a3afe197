"""A policy engine that ignores its cancellation keeps nobody waiting, and other engines do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kes_core import Decision, PluginContext, PolicyEngine, PolicyEngineType, PolicyRequest, Verdict
from kes_core.boundary import PluginError, connect_engine, engines
from kes_core.config import Section
from tests.plugins.faulty.bases import FaultyEngine, forever, stubbornly

ALLOWED = Verdict(Decision.ALLOW, "why not")


class Engine(FaultyEngine):
    """Runs `work`."""

    work: Callable[[], Coroutine[Any, Any, None]]

    async def authorize(self, request: PolicyRequest) -> Any:
        await self.work()
        return ALLOWED


def run(work: Callable[[], Coroutine[Any, Any, None]], check: Callable[[PolicyEngine], Any], seconds: float) -> None:
    async def connect(_settings: Any, _context: PluginContext) -> Any:
        engine = Engine()
        engine.work = work
        return engine

    async def main() -> None:
        kind = PolicyEngineType("faulty", Section, connect)
        async with asyncio.timeout(10):
            await check(await connect_engine(kind, Section(), PluginContext(), seconds=seconds))

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CANCEL_TIMEOUT", 0.1)


async def authorize(engine: PolicyEngine) -> Any:
    return await engine.authorize(None)  # type: ignore[arg-type] # it does not look


def test_end_of_the_request_ends_an_engine_that_ignores_it() -> None:
    async def check(engine: PolicyEngine) -> None:
        request = asyncio.create_task(authorize(engine))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait({request})
        assert request.cancelled()

    run(stubbornly, check, 10)


def test_cancellation_while_it_is_patient() -> None:
    async def check(engine: PolicyEngine) -> None:
        request = asyncio.create_task(authorize(engine))
        await asyncio.sleep(0.05)  # now the time of the engine is over, and it ignores that
        request.cancel()
        await asyncio.wait({request})
        assert request.cancelled()

    run(stubbornly, check, 0.02)


def test_engine_may_take_a_moment_to_end() -> None:
    """It cleans up, with steps of all kinds, and its timeouts still belong to the task of the request."""
    steps: list[str] = []

    async def work() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await asyncio.create_task(asyncio.sleep(0.001))
            try:
                async with asyncio.timeout(0.01):
                    await forever()
            except (TimeoutError, asyncio.CancelledError):  # the second in Python 3.11.2, in a task that is cancelled
                steps.append("its own timeout")
            failing = asyncio.get_running_loop().create_future()
            failing.set_exception(ValueError())
            try:
                await failing
            except ValueError:
                steps.append("its own error")
            raise

    async def check(engine: PolicyEngine) -> None:
        with pytest.raises(PluginError, match=r"has not answered within 0\.02 s"):
            await authorize(engine)

    run(work, check, 0.02)
    assert steps == ["its own timeout", "its own error"]


def test_abandoned_engine_is_closed() -> None:
    closed = []

    async def work() -> None:
        try:
            await stubbornly()
        finally:
            closed.append(True)

    async def check(engine: PolicyEngine) -> None:
        with pytest.raises(PluginError, match=r"has not answered within 0\.02 s"):
            await authorize(engine)
        assert closed == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(work, check, 0.02)

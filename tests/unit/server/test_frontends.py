"""The life of front ends in a server: broken plugins harm nobody, and a reload never leaves less than before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kes_core import Frontend, FrontendBackend, FrontendContext, FrontendError, KeysUnavailableError
from kes_core.boundary import frontends as guarded
from kes_core.config import FrontendChoice, Section
from kes_core.server import frontends
from kes_core.server.frontends import Frontends
from kes_core.server.metrics import frontend_problems
from kes_core.server.process import ConfigRejectedError
from kes_core.testing import FrontendHost

CANARY = "canary-77b0"
EVENTS: list[str] = []
RUNNING: list[Probe] = []


class Settings(Section):
    """`how` says what is wrong with the front end."""

    address: str = "a"
    how: str = ""


class Probe(Frontend):
    """Notes what is called."""

    def __init__(self, settings: Settings, context: FrontendContext) -> None:
        self.settings, self.context = settings, context

    async def start(self) -> None:
        how = self.settings.how
        EVENTS.append(f"start {self.settings.address}{how and ' ' + how}")
        if how == "refuses":
            raise FrontendError("the port is in use")
        if how == "breaks":
            raise ValueError(CANARY)
        if how == "exits":
            raise SystemExit(CANARY)
        if how == "hangs":
            await asyncio.Event().wait()
        RUNNING.append(self)

    async def stop(self) -> None:
        EVENTS.append(f"stop {self.settings.address}")
        if self in RUNNING:
            RUNNING.remove(self)
        if self.settings.how == "does not stop":
            await asyncio.Event().wait()

    async def ready(self) -> None:
        how = self.settings.how
        if how == "is busy":
            raise FrontendError("it is busy")
        if how == "is never ready":
            await asyncio.Event().wait()
        if how == "breaks later":
            raise ValueError(CANARY)

    async def crash(self, error: BaseException) -> None:
        raise error


async def connect(settings: Settings, context: FrontendContext) -> Any:
    if settings.how == "is another thing":
        return {}
    return Probe(settings, context)


BACKEND = FrontendBackend(name="probe", config=Settings, connect=connect, origin="plugin 'probe' of kes-probe 1.0")
TAKES_OVER = FrontendBackend(name="probe", config=Settings, connect=connect, takes_over=True)


def config_of(*fields: dict[str, Any], backend: FrontendBackend = BACKEND) -> Any:
    choices = tuple(FrontendChoice(backend, Settings(**each)) for each in fields)
    return SimpleNamespace(frontends=choices)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    EVENTS.clear()
    RUNNING.clear()
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(guarded, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(guarded, "READY_TIMEOUT", 0.05)
    monkeypatch.setattr(guarded, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(frontends, "CHECK_INTERVAL", 0.02)
    monkeypatch.setattr(frontends, "FIRST_PAUSE", 0.01)


def on(directory: Path, work: Callable[[Frontends, Any], Awaitable[None]]) -> None:
    """Run `work` with the front ends of a process, and its metrics."""

    async def main() -> None:
        async with FrontendHost(directory) as host:
            found = Frontends(host._app)
            try:
                await work(found, host._app.metrics)
            finally:
                await found.stop()
        assert [each for each in RUNNING if each.settings.how != "does not stop"] == []

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("refuses", "frontends.probe: the port is in use"),
        ("breaks", "the front end 'probe' (plugin 'probe' of kes-probe 1.0) failed in start: ValueError"),
        ("exits", "failed in start: SystemExit"),
        ("hangs", "the front end 'probe' (plugin 'probe' of kes-probe 1.0) has not answered start within 0.2 s"),
        ("is another thing", "returned dict from connect, which has to return Frontend"),
    ],
)
def test_front_end_that_can_not_start_is_refused_and_stopped(tmp_path: Path, how: str, message: str) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        with pytest.raises(ConfigRejectedError) as caught:
            await found.use(config_of({"how": how}))
        assert message in str(caught.value)
        assert CANARY not in str(caught.value)
        assert found.problems() == {}
        assert EVENTS[-1:] == ([] if how == "is another thing" else ["stop a"])

    on(tmp_path, work)


def test_reload_starts_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        await found.use(config_of({"address": "a"}))
        await found.use(config_of({"address": "a"}))
        assert EVENTS == ["start a"]
        await found.use(config_of({"address": "b"}))
        assert EVENTS == ["start a", "stop a", "start b"]
        await found.use(config_of())
        assert EVENTS[3:] == ["stop b"]

    on(tmp_path, work)


def test_failed_reload_brings_the_old_one_back(tmp_path: Path) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        await found.use(config_of({"address": "a"}))
        with pytest.raises(ConfigRejectedError):
            await found.use(config_of({"address": "b", "how": "refuses"}))
        assert EVENTS == ["start a", "stop a", "start b refuses", "stop b", "start a"]
        assert found.problems() == {"probe": ""}

    on(tmp_path, work)


def test_one_that_takes_over_starts_first(tmp_path: Path) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        await found.use(config_of({"address": "a"}, backend=TAKES_OVER))
        await found.use(config_of({"address": "b"}, backend=TAKES_OVER))
        assert EVENTS == ["start a", "start b", "stop a"]
        with pytest.raises(ConfigRejectedError):
            await found.use(config_of({"address": "c", "how": "refuses"}, backend=TAKES_OVER))
        assert EVENTS[3:] == ["start c refuses", "stop c"]  # nothing happened to b
        assert found.problems() == {"probe": ""}

    on(tmp_path, work)


def test_old_one_that_can_not_start_again_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        await found.use(config_of({"address": "a"}))

        async def fail(_self: Probe) -> None:
            raise FrontendError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Probe, "start", fail)
            with pytest.raises(ConfigRejectedError):
                await found.use(config_of({"address": "b"}))
            assert found.problems() == {"probe": "the disk is full"}
        await until(lambda: found.problems() == {"probe": ""})
        assert [each.settings.address for each in RUNNING] == ["a"]

    on(tmp_path, work)


@pytest.mark.parametrize("error", [ValueError(CANARY), SystemExit(CANARY), asyncio.CancelledError(CANARY)])
def test_crash_is_logged_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async def work(found: Frontends, metrics: Any) -> None:
        await found.use(config_of({}))
        (probe,) = RUNNING
        for _ in range(3):
            probe.context.spawn(probe.crash(error))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        problem = found.problems()["probe"]
        assert f"failed in a task: {type(error).__name__}" in problem
        assert frontend_problems(metrics.snapshot(), ["probe"]) == {"probe": problem}
        await until(lambda: found.problems() == {"probe": ""})
        assert [probe] != RUNNING
        # The old one is locked out.
        with pytest.raises(KeysUnavailableError):
            await probe.context.keys.encrypt("3e" * 32, "my-key", b"")

    on(tmp_path, work)
    assert caplog.text.count("failed in a task") == 1
    assert "the front end 'probe' has started again" in caplog.text
    assert CANARY not in caplog.text


def test_task_that_ends_or_fails_while_it_stops_is_not_a_crash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        await found.use(config_of({}))
        (probe,) = RUNNING

        async def end() -> None:
            return

        async def fail_at_the_end() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ConnectionError(CANARY)

        await probe.context.spawn(end())
        probe.context.spawn(fail_at_the_end())
        await asyncio.sleep(0)
        assert found.problems() == {"probe": ""}

    on(tmp_path, work)
    assert "ERROR" not in caplog.text


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("is busy", "it is busy"),
        ("is never ready", "has not answered ready within 0.05 s"),
        ("breaks later", "failed in ready: ValueError"),
    ],
)
def test_one_that_is_not_ready_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, problem: str
) -> None:
    async def work(found: Frontends, metrics: Any) -> None:
        await found.use(config_of({"how": how}))
        await until(lambda: found.problems()["probe"])
        assert problem in found.problems()["probe"]
        assert metrics.snapshot()["frontends"]["probe"]["ready"] == 0
        assert len(RUNNING) == 1
        RUNNING[0].settings = Settings()
        await until(lambda: found.problems() == {"probe": ""})

    on(tmp_path, work)
    assert "the front end 'probe' is not ready: " in caplog.text
    assert "the front end 'probe' is ready again" in caplog.text
    assert CANARY not in caplog.text


def test_stop_does_not_wait_for_a_plugin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        await found.use(config_of({"how": "does not stop"}))
        async with asyncio.timeout(5):
            await found.stop()

    on(tmp_path, work)
    assert "the front end 'probe' could not be stopped and is left as it is: " in caplog.text
    assert "has not answered stop within 0.1 s" in caplog.text


def test_stop_ends_a_start_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(found: Frontends, _metrics: Any) -> None:
        monkeypatch.setattr(guarded, "CONNECT_TIMEOUT", 60.0)
        starting = asyncio.ensure_future(found.use(config_of({"how": "hangs"})))
        await until(lambda: EVENTS)
        async with asyncio.timeout(5):
            await found.stop()
        await asyncio.gather(starting, return_exceptions=True)
        assert starting.cancelled()
        assert EVENTS == ["start a hangs", "stop a"]

    on(tmp_path, work)


def test_only_the_first_worker_runs_it(tmp_path: Path) -> None:
    shared = FrontendBackend(name="shared", config=Settings, connect=connect, per_worker=True)

    async def work(found: Frontends, metrics: Any) -> None:
        metrics.worker = 2
        config = config_of({"address": "a"})
        config.frontends += config_of({"address": "b"}, backend=shared).frontends
        await found.use(config)
        assert [each.settings.address for each in RUNNING] == ["b"]
        problems = frontend_problems(metrics.snapshot(), ["probe", "shared"])
        assert problems == {"probe": "it does not run", "shared": ""}

    on(tmp_path, work)

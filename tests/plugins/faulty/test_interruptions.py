"""The watchdog may interrupt a plugin at any line: each request still has one answer and one audit record."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from kes_core import PolicyRequest
from kes_core.boundary.blocking import BlockedError, find_moment, is_callback
from kes_core.config import load
from kes_core.plugins import load_plugins
from kes_core.server.metrics import Metrics
from kes_core.server.server import ServerProcess
from kes_core.server.workers.peers import LocalPeers
from tests.helpers.certificates import make_credentials
from tests.helpers.server import write_config
from tests.plugins.faulty.bases import FaultyEngine, FaultySink, FaultyStore
from tests.plugins.faulty.stages import OWN, Stage, entry_point

REQUEST = ("GET", "/v1/key/describe/my-key")


async def _work() -> int:
    """Do a bit of everything that a plugin may do."""
    lock = asyncio.Lock()
    async with lock:
        await asyncio.sleep(0)
    try:
        with contextlib.suppress(ValueError):
            int("x")
        return await asyncio.create_task(_rest())
    finally:
        await asyncio.sleep(0)


async def _rest() -> int:
    return len([each for each in range(3) if each])


class Everything(FaultyStore, FaultyEngine, FaultySink):
    """Has no fault."""

    @classmethod
    async def connect(cls, _settings: Any, _context: Any) -> Any:
        return cls()

    async def authorize(self, request: PolicyRequest) -> Any:
        await _work()
        return await super().authorize(request)

    async def get(self, name: str) -> bytes:
        await _work()
        return await super().get(name)

    def audit(self, event: Mapping[str, Any]) -> Any:
        return len(event)


def _may_interrupt(frame: FrameType) -> bool:
    moment = find_moment(frame)
    return moment.may_interrupt and (is_callback(moment.frame) or moment.frame.f_globals is globals())


class Interruptions:
    """Raises `BlockedError` at one of the lines at which the watchdog may do so."""

    def __init__(self) -> None:
        self.places: list[int] = []
        """The number of each such line, if `wanted` is None."""
        self.has_raised = False
        self._count = 0
        self._wanted: int | None = None

    @contextlib.contextmanager
    def at(self, wanted: int | None) -> Iterator[None]:
        self._count, self._wanted, self.has_raised = 0, wanted, False
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self._count += 1
            if self._wanted is None:
                if _may_interrupt(frame):
                    self.places.append(self._count)
            elif self._count >= self._wanted and not self.has_raised and _may_interrupt(frame):
                self.has_raised = True
                raise BlockedError(30)
        return self._trace


def test_each_request_is_answered_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A trace also interrupts coroutines that wait for others, which are then not ended properly. A signal does not.
    monkeypatch.setattr(sys, "unraisablehook", lambda _error: None)
    identity = make_credentials(tmp_path, "admin").identity
    plugins = load_plugins([*OWN, entry_point("tests.plugins.faulty.test_interruptions:Everything")])
    log = tmp_path / "audit.log"
    sections: dict[str, Any] = {name: {"faulty": {}} for name in ("keystore", "policy_engines", "audit_sinks")}
    settings = sections | {"log": {"audit": "off"}, "audit": {"file": {"path": str(log)}}}
    config = load(write_config(tmp_path, identity, settings), plugins=plugins).config
    stage = Stage("test_interruptions.Everything", tmp_path, identity, list)
    interruptions, statuses = Interruptions(), []

    async def main() -> None:
        metrics = Metrics()
        server = ServerProcess(plugins, metrics, LocalPeers(metrics))
        await server.connect(config)
        assert (await stage._answer(server, "PUT", "/v1/key/create/my-key")).startswith("200")
        for place in _places(interruptions):
            server.app.server_state.cache.forget_all()
            with interruptions.at(place):
                answer = await stage._answer(server, *REQUEST)
            assert interruptions.has_raised == (place is not None)
            statuses.append(int(answer[:3]))
            assert metrics.active == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}
        server.app.server_state.cache.forget_all()
        assert (await stage._answer(server, *REQUEST)).startswith("200")
        await stage._stop(server)

    asyncio.run(main())
    gc.collect()
    assert len(statuses) > 50
    assert statuses[0] == 200
    assert set(statuses[1:]) == {200, 403, 502}  # 200: a sink was interrupted
    records = [json.loads(line)["response"]["code"] for line in log.read_text().splitlines()]
    assert records == [200, *statuses, 200]
    assert "internal error" not in caplog.text


def _places(interruptions: Interruptions) -> Iterator[int | None]:
    yield None
    yield from interruptions.places

"""A reload does not stop the server: neither a large configuration nor a worker that hangs while it starts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_core.config import Config, ConfigSource, load_config
from kes_core.plugins import load_plugins
from kes_core.server import main
from kes_core.server.metrics import Metrics
from kes_core.server.server import Serving
from kes_core.server.workers.peers import LocalPeers
from tests.helpers.server import make_credentials, start_server, write_config

POLICIES = 2_000
IDENTITIES = 10_000
LIMIT = 0.050
"""Seconds for which a reload may hold up requests."""


def policies() -> dict[str, Any]:
    identities = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(IDENTITIES)]
    each = IDENTITIES // POLICIES
    return {
        f"app-{number}": {
            "allow": [f"/v1/key/{verb}/app-{number}*" for verb in ("create", "generate", "decrypt")],
            "identities": identities[number * each : (number + 1) * each],
        }
        for number in range(POLICIES)
    }


class _Process:
    """What `kes server` runs in one process, without its listeners."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.reloaded = asyncio.Event()

    async def start(self, _sockets: Any) -> None:
        await self._serving.start([], [])

    async def reload(self, config: Config, _text: str) -> None:
        self._serving.apply(await self._serving.prepare(config))
        self.reloaded.set()

    async def stop(self) -> None:
        await self._serving.stop()


async def longest_turn(until: asyncio.Event) -> float:
    """Return the longest time for which the event loop worked on one thing.

    Counted is the processor time of the loop's own thread: other processes take the processor away for longer. Another
    thread of this process takes Python's lock away for 5 ms at a time (`sys.getswitchinterval`).
    """
    longest, last = 0.0, time.thread_time()
    while not until.is_set():
        await asyncio.sleep(0.001)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    return longest


def test_reload_of_a_large_configuration_holds_up_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kes_core.server.log.set_level", lambda _level: None)
    longest = asyncio.run(_reload_large_configuration(tmp_path))
    assert longest < LIMIT


async def _reload_large_configuration(tmp_path: Path) -> float:
    """Reload once; return the longest turn of the loop meanwhile."""
    path = write_config(tmp_path, make_credentials(tmp_path).identity, {"policy": policies()})
    plugins, metrics = load_plugins(), Metrics()
    config = load_config(path, plugins=plugins)
    serving = Serving(plugins, metrics, LocalPeers(metrics))
    await serving.connect(config)
    process, wanted = _Process(serving), asyncio.Event()
    await process.start(None)
    before = serving.app.server_state
    wanted.set()
    reloading = asyncio.create_task(main._reload_on(wanted, process, config, plugins, ConfigSource(path)))
    try:
        longest = await longest_turn(process.reloaded)
        assert serving.app.server_state is not before
        assert len(serving.app.server_state.policy_of) == IDENTITIES
        return longest
    finally:
        reloading.cancel()
        await asyncio.gather(reloading, return_exceptions=True)
        await process.stop()


def test_worker_that_hangs_while_it_starts_does_not_block_reloads(tmp_path: Path) -> None:
    server = start_server(tmp_path, {"workers": 2, "keystore": {"fs": {"path": str(tmp_path / "keys")}}})
    try:
        key, moved = tmp_path / "server.key", tmp_path / "moved.key"
        key.rename(moved)
        os.mkfifo(key)  # who opens it waits for a writer, and there is none
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        server.wait_for_log("has died")
        config = yaml.safe_load(server.config_path.read_text())
        config["tls"]["key"] = str(moved)
        server.config_path.write_text(yaml.safe_dump(config | {"keys": [{"name": "new"}]}))
        server.signal(signal.SIGHUP)
        server.wait_for_log("the configuration is reloaded")
        with server.client() as client:
            assert client.get("/v1/key/describe/new").status_code == 200
    finally:
        server.stop()

"""Neither a large configuration nor a worker that hangs at its start makes a reload delay the server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import threading
import time
import weakref
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_core.config import load
from kes_core.server import startup
from kes_core.server.main import reload_when_wanted
from kes_core.server.single import SingleProcess
from kes_core.server.wire.sockets import Sockets
from tests.helpers.certificates import make_credentials
from tests.helpers.server import start_server, write_config

POLICIES = 2_000
IDENTITIES = 10_000
LIMIT = 0.050
"""The most seconds that a reload may delay requests."""
INTERVAL = 0.001
"""Seconds between two measurements of the event loop."""


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


async def watch(until: asyncio.Event) -> tuple[float, float]:
    """Return the event loop's longest turn and longest delay, in seconds.

    The turn is CPU time of the loop's thread. The delay is CPU time of the whole process: that of another thread which
    holds Python's lock counts, and the time that other processes take does not.
    """
    turn = lag = 0.0
    worked, woke = time.thread_time(), time.process_time()
    while not until.is_set():
        await asyncio.sleep(INTERVAL)
        now, clock = time.thread_time(), time.process_time()
        turn, lag = max(turn, now - worked), max(lag, clock - woke - INTERVAL)
        worked, woke = now, clock
    return turn, lag


async def reload_once(process: SingleProcess, wanted: asyncio.Event) -> int:
    """Reload, and wait until the old state is freed; return the thread that freed it."""
    loop = asyncio.get_running_loop()
    freed_by: asyncio.Future[int] = loop.create_future()

    def on_freed() -> None:
        loop.call_soon_threadsafe(freed_by.set_result, threading.get_ident())

    weakref.finalize(process.server.app.server_state.config, on_freed)
    wanted.set()
    return await freed_by


async def while_watching(work: Coroutine[Any, Any, Any]) -> tuple[float, float, Any]:
    """Return the results of `watch` while `work` ran, and the result of `work`."""
    done = asyncio.Event()
    watching = asyncio.create_task(watch(done))
    result = await work
    done.set()
    return *await watching, result


def test_reload_of_a_large_configuration_holds_up_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither loading the new state nor freeing the old one delays requests."""
    monkeypatch.setattr("kes_core.server.log.set_level", lambda _level: None)
    monkeypatch.setattr("kes_core.server.server.GRACE", 0.1)
    asyncio.run(_reload_large_configuration(tmp_path))


async def _reload_large_configuration(tmp_path: Path) -> None:
    path = write_config(tmp_path, make_credentials(tmp_path).identity, {"policy": policies()})
    loaded = load(path)
    process, wanted = SingleProcess(loaded), asyncio.Event()
    load_again = partial(load, path, plugins=loaded.plugins)
    with contextlib.closing(Sockets(loaded.config)) as sockets:
        await process.start(sockets)
        startup.end()
        await process.reload(load_again())  # `loaded` keeps the first state in memory
        reloading = asyncio.create_task(reload_when_wanted(wanted, process, loaded.config, load_again))
        try:
            assert len(process.server.app.server_state.policy_of) == IDENTITIES
            lags = []
            for _attempt in range(3):  # on a busy machine, the loop may get its turn late
                turn, lag, freed_by = await while_watching(reload_once(process, wanted))
                assert turn < LIMIT
                assert freed_by != threading.get_ident()
                lags.append(lag)
                if lag < LIMIT:
                    break
            assert min(lags) < LIMIT
        finally:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await process.stop()


def test_worker_that_hangs_while_it_starts_does_not_block_reloads(tmp_path: Path) -> None:
    server = start_server(tmp_path, {"workers": 2, "keystore": {"fs": {"path": str(tmp_path / "keys")}}})
    try:
        key, moved = tmp_path / "server.key", tmp_path / "moved.key"
        key.rename(moved)
        os.mkfifo(key)  # opening it waits for a writer that never comes
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

"""Server processes with a plugin that blocks: they go on, or end and are started again. No audit record is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kes_core.server.watchdog import BLOCKED, SIGNAL
from tests.helpers.server import Server, start_server, write_config

ROOT = Path(__file__).parents[3]
STUCK = "the key store 'faulty' (plugin 'faulty' of kes-faulty 1.0)"


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """Install the plugin; return the environment in which Python finds it."""
    info = tmp_path / "site" / "kes_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kes-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kes]\nfaulty = tests.plugins.faulty.stuck:Stuck\n")
    return {"PYTHONPATH": f"{info.parent}:{ROOT}", "KES_TEST_LIMIT": "1"}


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, site: dict[str, str]) -> Iterator[Server]:
    """A server whose limit is a second. The parameter is the number of workers."""
    sections: dict[str, Any] = {
        "keystore": {"faulty": {}},
        "keys": [{"name": "my-key"}],
        "log": {"audit": "on"},
        "audit": {"file": {"path": str(tmp_path / "audit.log"), "chain": "on"}},
        "workers": getattr(request, "param", 1),
    }
    server = start_server(tmp_path, sections, environment=site)
    try:
        yield server
    finally:
        server.kill()


def describe(server: Server, key: str) -> int | str:
    """Return the status of the answer, or what went wrong."""
    with server.client(http2=False) as client:
        try:
            return client.get(f"/v1/key/describe/{key}").status_code
        except httpx.RemoteProtocolError:
            return "closed"


@pytest.mark.slow
def test_server_ends_the_call_and_goes_on(server: Server) -> None:
    found: list[int | str] = []
    blocking = threading.Thread(target=lambda: found.append(describe(server, "spins")))
    blocking.start()
    server.wait_for_log(f"{STUCK} has kept all requests waiting for 1 s, at ")
    blocking.join()
    assert found == [502]
    assert describe(server, "my-key") == 200
    server.process.send_signal(SIGNAL)  # of somebody else: without effect
    assert describe(server, "my-key") == 200
    assert server.stop() == 0
    records = [json.loads(server.audit.get(timeout=5)) for _ in range(3)]
    assert [record["response"]["code"] for record in records] == [502, 200, 200]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["catches", "compiled"])
def test_process_ends_if_the_call_does_not(how: str, server: Server, tmp_path: Path) -> None:
    assert describe(server, "my-key") == 200
    assert describe(server, how) == "closed"
    assert server.process.wait(timeout=30) == BLOCKED
    server.wait_for_log(f"{STUCK} has kept all requests waiting for 1 s, at ")
    server.wait_for_log(f"{STUCK} can't be interrupted, so the server process ends with exit code 4")
    lines = (tmp_path / "audit.log").read_text().splitlines()
    assert [json.loads(line)["response"]["code"] for line in lines] == [200]
    assert server.next_audit_record()["response"]["code"] == 200


@pytest.mark.slow
def test_stop_ends_a_call_that_blocks(server: Server) -> None:
    blocking = threading.Thread(target=describe, args=(server, "spins"))
    blocking.start()
    time.sleep(0.5)  # nothing shows that it has begun
    assert server.stop() == 0
    blocking.join()


@pytest.mark.slow
@pytest.mark.parametrize("server", [2], indirect=True)
def test_blocked_worker_is_replaced(server: Server) -> None:
    assert describe(server, "catches") == "closed"
    server.wait_for_log(f"{STUCK} can't be interrupted, so the server process ends with exit code 4")
    server.wait_for_log("has died, with exit code 4, and is replaced")
    for _ in range(10):
        assert describe(server, "my-key") == 200
    assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("server", [2], indirect=True)
def test_worker_that_gives_no_sign_of_life_is_replaced(server: Server) -> None:
    assert describe(server, "locked") == "closed"
    server.wait_for_log("does not answer and is killed")
    server.wait_for_log("has died, killed by signal 9, and is replaced")
    for _ in range(10):
        assert describe(server, "my-key") == 200
    assert server.stop() == 0


@pytest.mark.slow
def test_stopped_process_has_not_blocked(server: Server) -> None:
    """A process that is stopped (SIGSTOP), as with its virtual machine, goes on as if nothing had happened."""
    assert describe(server, "my-key") == 200
    server.signal(signal.SIGSTOP)
    time.sleep(3)
    server.signal(signal.SIGCONT)
    assert describe(server, "my-key") == 200
    assert server.stop() == 0
    assert "waiting" not in "".join(server.errors)


RECORD = """
import asyncio, sys, time
from pathlib import Path
from kes_core.audit.log import open_audit_log
from kes_core.boundary.calls import within
from kes_core.config import load
from kes_core.plugins import load_plugins
from kes_core.server import log, watchdog
from kes_core.server.loop import run_loop

async def block():
    # A request is answered, its record waits for the end of the turn, and then a plugin blocks in the same turn.
    audit.record(ip="127.0.0.1", path="/v1/status", identity="", code=200, seconds=0.1)
    while sys.argv[2] == "block":
        try:
            time.sleep(1000)
        except BaseException:
            pass

async def main():
    global audit
    audit = await open_audit_log(config, plugins)
    await within(block(), None, "the key store 'x'")
    await asyncio.sleep(0)

plugins = load_plugins()
config = load(Path(sys.argv[1]), plugins=plugins).config
watchdog.LIMIT = 1.0
log.set_up(0)
run_loop(main())
"""
"""A process whose arguments are a configuration and whether it blocks."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(
        tmp_path,
        "0" * 64,
        {"log": {"audit": "on"}, "audit": {"file": {"path": str(tmp_path / "audit.log"), "chain": "on"}}},
    )


def test_waiting_records_are_written_before_the_process_ends(config: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RECORD, config, "block"], capture_output=True, text=True, timeout=60, check=False
    )
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert [message.partition(", ")[0] for message in messages] == [
        "the key store 'x' has kept all requests waiting for 1 s",
        "the key store 'x' can't be interrupted",
    ]
    assert done.returncode == BLOCKED
    for records in (done.stdout, (config.parent / "audit.log").read_text()):
        (record,) = records.splitlines()
        assert json.loads(record)["request"]["path"] == "/v1/status"


@pytest.mark.slow
def test_output_that_nobody_reads_is_waited_for(config: Path) -> None:
    """Standard output is full: the server waits on purpose. It says so, does not end, and loses no record."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b" " * 1024)
    os.set_blocking(writing, True)
    with (
        os.fdopen(reading, "rb") as output,
        subprocess.Popen(
            [sys.executable, "-c", RECORD, config, "go on"], stdout=writing, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        os.close(writing)
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())["message"]
        assert line.startswith("the server has answered no request for 1 s: it waits at ")
        assert line.endswith(" in StreamSink._write")
        time.sleep(1)
        assert process.poll() is None
        assert b"/v1/status" in output.read()
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_server_stops_in_spite_of_a_thread_of_the_executor(tmp_path: Path, site: dict[str, str]) -> None:
    server = start_server(tmp_path, {"keystore": {"faulty": {}}}, environment=site | {"KES_TEST_HANGS": "yes"})
    try:
        assert server.stop() == 0
    finally:
        server.kill()
    assert "a thread did not end within 5 s and is abandoned" in "\n".join(server.errors)

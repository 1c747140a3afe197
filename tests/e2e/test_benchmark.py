"""The benchmark runs: with the shortest measurements, which say nothing about the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.loads import BUILT, Load, Runner
from benchmarks.servers import Servers

ROOT = Path(__file__).parents[2]
PARTS = ["requests", "latency", "bulk", "policies", "keys", "audit", "idle", "workers", "starts"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get(BUILT) and not shutil.which("cargo"), reason="the load generator needs Rust"),
]


def failures(value: object) -> float:
    """Add up the failed requests of all measurements."""
    if isinstance(value, dict):
        return float(value.get("failures", 0)) + sum(map(failures, value.values()))
    return sum(map(failures, value)) if isinstance(value, list) else 0.0


def test_goals_are_measured_and_no_request_fails(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "goals.py"),
        "--runtimes",
        "hypercorn",
        "--output",
        str(tmp_path),
    ]
    small = ["--rounds", "1", "--seconds", "0.05", "--scale", "0.001", "--parts", *PARTS]
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "goals.json").read_text())
    assert results.keys() == {"machine", "connections", "half load", *PARTS} - {"latency"}
    assert failures(results) == 0
    assert (tmp_path / "performance.svg").exists()
    page = (tmp_path / "performance.md").read_text()
    assert "| 10 policies and 100 identities: instructions | not measured |" in page


def test_comparison_prints_a_peer() -> None:
    peer = f"peer={sys.executable} -m kes_core.cli server --config {{config}},https://{{address}}"
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--rounds", "1", "--seconds", "0.05", "--only-kes"]
    options = ["--at-once", "2", "--new-connections", "--open-loop", "--peer", peer]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CPU time, to kes-core" in done.stdout
    assert "generate, HTTP/2, half load" in done.stdout
    assert "peer: " in done.stdout


@pytest.mark.parametrize("http2", [False, True])
def test_an_error_is_not_measured_as_an_answer(tmp_path: Path, http2: bool) -> None:
    with Servers(tmp_path) as servers:
        target = servers.runtime("hypercorn")
        runner = Runner(servers, 0.05)
        target.requests["missing"] = "/v1/key/generate/missing", "{}"
        assert runner.measure(target, Load("generate", http2, 2))["failures"] == 0
        with pytest.raises(SystemExit, match=r"404 .*does not exist"):
            runner.measure(target, Load("missing", http2, 2))


def test_starts_are_measured() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "starts.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = [float(line.split("|")[2]) for line in done.stdout.splitlines()[2:]]
    assert len(numbers) == 3
    assert 0 < numbers[0] < numbers[1] < numbers[2]

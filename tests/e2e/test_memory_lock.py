"""`--mlock` keeps all memory out of swap space, or explains why it can't."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.server import Server, write_config

PROBE = "import ctypes; raise SystemExit(ctypes.CDLL(None).mlockall(3) != 0)"


@pytest.mark.root
def test_memory_is_locked(run_server: Callable[..., Server], tmp_path: Path) -> None:
    """The server locks its memory if the machine allows it; otherwise it does not start, and says what it needs."""
    if subprocess.run([sys.executable, "-c", PROBE], check=False).returncode == 0:
        server = run_server(arguments=("--mlock",))
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(status.partition("VmLck:")[2].split()[0]) > 10_000
        with server.client() as client:
            assert client.put("/v1/key/create/locked").status_code == 200
    else:
        config = write_config(tmp_path, "disabled")
        command = [sys.executable, "-m", "kes_core.cli", "server", "--config", str(config), "--mlock"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert "can't lock memory: " in done.stderr
        assert "CAP_IPC_LOCK" in done.stderr

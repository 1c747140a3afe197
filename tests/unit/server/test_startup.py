"""What the start of a server costs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"fastapi", "starlette", "hypercorn", "h2", "h11", "prometheus_client"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_server_listens_before_it_imports_what_answers_requests() -> None:
    """Until it does, a restart refuses connections. And a supervisor of workers needs none of it."""
    modules = "kes_core.cli.server, kes_core.config, kes_core.server.main, kes_core.server.workers.supervisor"
    assert run(f"import sys, {modules}; print({HEAVY} & set(sys.modules))") == "set()\n"


def test_running_server_builds_no_models_for_its_documentation() -> None:
    code = "import sys, kes_core.server.single; print('kes_core.server.api.openapi' in sys.modules)"
    assert run(code) == "False\n"


def test_start_collects_no_garbage() -> None:
    """But afterwards it is collected as usual, and what the start made is not visited again."""
    code = """
import gc
from kes_core.server import startup
usual = gc.get_threshold()
startup.begin()
before = gc.get_stats()
import kes_core.server.single
print(before == gc.get_stats())
startup.end()
print(gc.get_threshold() == usual, gc.get_freeze_count() > 100_000, gc.isenabled())
"""
    assert run(code) == "True\nTrue True True\n"

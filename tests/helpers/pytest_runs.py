"""Run pytest in another process, on a project that a test has written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FEW_PLUGINS = ("-p", "no:anyio", "-p", "no:schemathesis")
"""Options that leave out plugins of pytest that no test uses: importing them takes 1.3 s."""


def run_pytest(*arguments: str, directory: Path = ROOT) -> str:
    """Return pytest's output. Without coverage, which would double the time: other tests cover the same code."""
    command = [sys.executable, "-m", "pytest", *FEW_PLUGINS, "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False, cwd=directory
    )
    return result.stdout + result.stderr


SETTINGS = "[pytest]\naddopts = --import-mode=importlib\nfilterwarnings = error\n"

"""`python3 scripts/test.py --again`: what CI does with a test that fails by chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.pytest_runs import FEW_PLUGINS, SETTINGS

SCRIPTS = Path(__file__).parents[3] / "scripts"
RUN_TWICE = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
command = [sys.executable, "-m", "pytest", *sys.argv[2:]]
sys.exit(runpy.run_path(sys.argv[1] + "/test.py")["run_twice"](command, command))
"""
TESTS = """
import pathlib, pytest

@pytest.mark.parametrize("number", range({unstable}))
def test_unstable(number):
    done = pathlib.Path(f"done-{{number}}")
    failed, _ = not done.exists(), done.touch()
    assert not failed

def test_wrong():
    assert not {wrong}
"""


@pytest.mark.parametrize(
    ("unstable", "wrong", "code", "named"),
    [(3, 0, 0, True), (4, 0, 1, False), (1, 1, 1, False)],
    ids=["few pass the second time", "many fail", "one fails twice"],
)
def test_failed_tests_run_once_more(unstable: int, wrong: int, code: int, named: bool, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_it.py").write_text(TESTS.format(unstable=unstable, wrong=wrong))
    command = [sys.executable, "-c", RUN_TWICE, str(SCRIPTS), *FEW_PLUGINS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "UNSTABLE" in done.stdout) == (code, named), done.stdout + done.stderr
    assert done.stdout.count("test_it.py::test_unstable[2]\n") == (1 if named else 0)

"""The project's environment where Python can't create virtual environments, as on Debian without python3-venv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT

WITHOUT_ENSUREPIP = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "ensurepip" else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, "scripts")
import quickstart
quickstart.main()
"""


@pytest.mark.parametrize("half_made", [False, True])
def test_missing_module_is_named_and_nothing_is_left(half_made: bool, tmp_path: Path) -> None:
    """This also holds if an upgrade of Python or another program has left a broken environment."""
    venv = tmp_path / "venv"
    if half_made:
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").symlink_to("/nowhere/python3")
        (venv / "bin/pip").touch()
    places = {"KES_VENV": str(venv), "KES_DEMO": str(tmp_path / "demo")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENSUREPIP],
        cwd=ROOT,
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("apt install python3-venv\n")
    assert list(tmp_path.iterdir()) == [venv] * half_made


def test_native_runtime_needs_rust_or_a_wheel(tmp_path: Path) -> None:
    code = "import pathlib, sys; sys.path.insert(0, 'scripts'); import environment; here = pathlib.Path(sys.argv[1]); "
    code += "environment.ROOT = here; environment.add_native(here / 'bin')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "kes-native needs Rust 1.85 (on Debian 12: apt install cargo-web), or a wheel in the folder dist\n"
    )
    assert list(tmp_path.iterdir()) == []

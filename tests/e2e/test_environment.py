"""The environment of the project's own commands: without what it needs, and with kes-native."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT
from tests.helpers.native_wheel import copy_with_wheel
from tests.helpers.programs import free_port

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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quickstart_uses_a_wheel_of_the_native_runtime(tmp_path: Path) -> None:
    copy = copy_with_wheel(tmp_path)
    environment = {name: value for name, value in os.environ.items() if "KES_" not in name}
    environment["KES_DEMO_ADDRESS"] = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(copy / "scripts" / "quickstart.py")]
    for says_so in (True, False):  # the second start finds it
        with subprocess.Popen(
            command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as started:
            assert started.stderr is not None
            lines = []
            for line in started.stderr:
                lines.append(line)
                if "listening on" in line:
                    started.send_signal(signal.SIGINT)
        assert "the native runtime is listening on" in "".join(lines)
        assert any("kes-native" in line and "from dist/" in line for line in lines) is says_so

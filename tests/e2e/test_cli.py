"""The command line together with a server of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_development_server_in_any_temporary_folder(tmp_path: Path) -> None:
    """The server finds its certificate in a folder of any name, and removes the private key when it stops."""
    folder = tmp_path / "a #b: ${NOT_A_VARIABLE}"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "kes_core.cli", "server", "--dev", "--addr", "127.0.0.1:0"],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("-k because") for line in process.stdout)  # the line that it prints when it is ready
        assert len(list(folder.iterdir())) == 1
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert list(folder.iterdir()) == []

"""A clone of the repository with a wheel of kes-native in dist/. The real wheel takes minutes to build."""

from __future__ import annotations

import subprocess
import zipfile
from importlib.metadata import version
from pathlib import Path

from tests.helpers.documents import ROOT

__all__ = ["clone_with_wheel"]

_VERSION = version("kes-core")
_FILES = {
    "kes_native/__init__.py": "",
    "kes_native/_native.py": "",
    "{info}/METADATA": f"Metadata-Version: 2.1\nName: kes-native\nVersion: {_VERSION}\n",
    "{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "{info}/entry_points.txt": "[kes.runtimes]\nnative = kes_core.server.wire.listener:HypercornRuntime\n",
    "{info}/RECORD": "",
}
"""Of a kes-native that is the core's own runtime."""


def clone_with_wheel(directory: Path) -> Path:
    """Clone the repository into a new folder in `directory`, put the wheel there, and return the folder."""
    clone, name = directory / "clone", f"kes_native-{_VERSION}"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    (clone / "dist").mkdir()
    with zipfile.ZipFile(clone / "dist" / f"{name}-py3-none-any.whl", "w") as wheel:
        for file, text in _FILES.items():
            wheel.writestr(file.format(info=f"{name}.dist-info"), text)
    return clone

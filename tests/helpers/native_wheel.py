"""A copy of the sources with a wheel of kes-native in dist/. The real wheel takes minutes to build."""

from __future__ import annotations

import shutil
import zipfile
from importlib.metadata import version
from pathlib import Path

from tests.helpers.documents import ROOT

__all__ = ["copy_with_wheel"]

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
_MADE = (".git", ".venv", ".hypothesis", ".*_cache", "__pycache__", "dist", "target", "*.so")
"""Not sources."""


def copy_with_wheel(directory: Path) -> Path:
    """Copy the sources into a new folder in `directory`, put the wheel there, and return the folder."""
    copy, name = directory / "copy", f"kes_native-{_VERSION}"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_MADE))
    (copy / "dist").mkdir()
    with zipfile.ZipFile(copy / "dist" / f"{name}-py3-none-any.whl", "w") as wheel:
        for file, text in _FILES.items():
            wheel.writestr(file.format(info=f"{name}.dist-info"), text)
    return copy

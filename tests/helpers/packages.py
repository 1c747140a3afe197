"""Plugin packages, installed and tested as their authors do it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.helpers.pytest_runs import FEW_PLUGINS


def install(folder: Path) -> None:
    """Write the metadata of an installed package, for a folder that is on Python's path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = "".join(f"{key} = {value}\n" for key, value in project["entry-points"]["kes"].items())
    (info / "entry_points.txt").write_text(f"[kes]\n{points}")


def install_module(directory: Path, module: Path) -> dict[str, str]:
    """Install a plugin of one module into a folder as pip would; return the environment in which Python finds it."""
    folder = directory / "site"
    folder.mkdir()
    shutil.copy(module, folder / "hostile_plugin.py")
    info = folder / "kes_hostile-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kes-hostile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kes]\nhostile = hostile_plugin\n")
    return {"PYTHONPATH": str(folder)}


def run_tests(folder: Path, *packages: str, libraries: str = "") -> tuple[set[str], str]:
    """Run the tests of the package, or of several in `folder`; return which failed, and the output.

    `libraries` is another folder that Python searches.
    """
    path = [*(str(folder / package) for package in packages or ["."]), *filter(None, [libraries])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    # Python's own tracebacks: for others pytest parses the source, and Python 3.11 sometimes fails to do so while a
    # clause of the kit is tested ("AST constructor recursion depth mismatch").
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=native", "--import-mode=importlib"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *FEW_PLUGINS, *options, f"--rootdir={folder}", *packages],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)), done.stdout


def check_types_and_style(folder: Path, cache: Path | None = None) -> None:
    """Check a package as its CI does. Packages with the same `cache` share the types of kes-core."""
    cache = cache or folder / ".mypy_cache"
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        environment = {**os.environ, "MYPYPATH": str(folder), "MYPY_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

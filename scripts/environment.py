"""Creates and updates the virtual environment of the project's own commands."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("", "plugins/cedar", "plugins/fs", "plugins/vault")
"""The folders of the project's packages, relative to the root."""


def prepare(*, dev: bool) -> Path:
    """Create the environment and install the project's packages as editable; return its `bin` folder.

    The folder is `.venv` in the project's root, or that of the environment variable KES_VENV. All other packages come
    from the lock files in requirements/, with their hashes. The packages are installed again only if a lock file or a
    pyproject.toml has changed.
    """
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    folder = Path(os.environ.get("KES_VENV", ROOT / ".venv"))
    programs = folder / "bin"
    locks = [ROOT / "requirements" / f"{name}.txt" for name in (["dev"] if dev else ["image", "build"])]
    files = [*locks, *(ROOT / package / "pyproject.toml" for package in PACKAGES)]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = folder / "kes-installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return programs
    if not (programs / "pip").exists():
        _make(folder)
    print(f"Installing the packages of {', '.join(lock.name for lock in locks)} into {folder} ...", file=sys.stderr)
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    pinned = [option for lock in locks for option in ("--requirement", str(lock))]
    subprocess.run([*pip, "--require-hashes", *pinned], check=True)
    ours = [option for package in PACKAGES for option in ("--editable", str(ROOT / package))]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", *ours], check=True)
    stamp.write_text(wanted)
    return programs


def _make(folder: Path) -> None:
    """Create an empty virtual environment. Leave nothing behind on failure."""
    print(f"Creating the virtual environment {folder} ...", file=sys.stderr)
    try:
        venv.create(folder, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder)
        sys.exit("The virtual environment can't be created. On Debian and Ubuntu: apt install python3-venv")

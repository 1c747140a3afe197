"""The virtual environment that the project's own commands work in: made when it is missing, kept up to date."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("", "plugins/cedar", "plugins/fs", "plugins/vault")
"""The folders of the project's packages, from the root."""


def prepare(*, dev: bool) -> Path:
    """Make the environment and install the project's packages into it, editable; return its `bin` folder.

    It is `.venv` in the project's root, or what the environment variable KES_VENV names. Nothing is installed again
    unless a pyproject.toml has changed.
    """
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    folder = Path(os.environ.get("KES_VENV", ROOT / ".venv"))
    programs = folder / "bin"
    files = [ROOT / package / "pyproject.toml" for package in PACKAGES]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files) + bytes([dev])).hexdigest()
    stamp = folder / "kes-installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return programs
    if not (programs / "python").exists():
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            sys.exit("the virtual environment can't be made; on Debian and Ubuntu: apt install python3-venv")
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
    command = [*pip, "install"]
    for package in PACKAGES:
        command += ["--editable", str(ROOT / package)]
    if dev:
        command += ["--group", f"{ROOT / 'pyproject.toml'}:dev"]
    subprocess.run(command, check=True)
    stamp.write_text(wanted)
    return programs

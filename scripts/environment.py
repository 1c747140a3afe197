"""Creates and updates the virtual environment of the project's own commands."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("", "plugins/aws", "plugins/backup", "plugins/cedar", "plugins/fs", "plugins/kubernetes", "plugins/vault")
"""The folders of the project's packages that need no compiler, relative to the root."""
NATIVE = ("plugins/native",)
"""Those that need one."""


def prepare(*, dev: bool) -> Path:
    """Create the environment and install the project's packages as editable; return its `bin` folder.

    The folder is `.venv` in the project's root, or that of the environment variable KES_VENV. All other packages come
    from the lock files in requirements/, with their hashes. The packages are installed again only if a lock file, a
    pyproject.toml, the version of Python or the path of the project has changed. A run that fails or is interrupted
    leaves nothing that stops the next one. Exits with one message if the environment can't be created.
    """
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    folder = Path(os.environ.get("KES_VENV", ROOT / ".venv"))
    locks = [ROOT / "requirements" / f"{name}.txt" for name in (["dev"] if dev else ["image", "build"])]
    files = [*locks, *(ROOT / package / "pyproject.toml" for package in PACKAGES)]
    place = f"{sys.version_info[:2]} {ROOT} {folder}".encode()
    wanted = hashlib.sha256(place + b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = folder / "kes-installed"
    try:
        if not (stamp.exists() and stamp.read_text() == wanted):
            _fill(folder, locks)
            stamp.write_text(wanted)
    except OSError as error:
        sys.exit(f"Cannot create the virtual environment {folder}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Run the same command again to continue.")
    return folder / "bin"


def add_native(programs: Path) -> None:
    """Install kes-native into the environment of `programs`: a wheel in dist/, or what cargo builds. Say which.

    Without both, and if that fails, Hypercorn serves.
    """
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check"]
    fits = "import kes_native._native, importlib.metadata as m; assert m.version('kes-native') == m.version('kes-core')"
    if subprocess.run([programs / "python", "-c", fits], capture_output=True, check=False).returncode == 0:
        return
    steps = [[*pip, "install", "--quiet", "--no-deps", "--no-index", "--find-links", ROOT / "dist", "kes-native"]]
    if list((ROOT / "dist").glob("kes_native-*.whl")):
        _say("Installing kes-native, which serves with less CPU time, from dist/")
    elif shutil.which("cargo"):
        _say("Building kes-native, which serves with less CPU time. It takes minutes; KES_RUNTIME=hypercorn avoids it.")
        maturin = ["--require-hashes", "--requirement", ROOT / "requirements/maturin.txt"]
        package = ["--no-deps", "--no-build-isolation", *(ROOT / folder for folder in NATIVE)]
        lock = [programs / "python", ROOT / "scripts/crates.py"]
        steps = [[*pip, "install", "--quiet", *maturin], lock, [*pip, "install", "--quiet", *package]]
    else:
        _say("Hypercorn serves: dist/ has no wheel of kes-native, and cargo, which builds one, is not installed.")
        return
    # The build calls maturin, which calls cargo.
    tools = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "MATURIN_PEP517_ARGS": "--locked"}
    if any(subprocess.run(step, check=False, env=tools).returncode for step in steps):
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", "kes-native"], capture_output=True, check=False)
        _say("kes-native can't be installed: see above. Hypercorn serves.")


def _fill(folder: Path, locks: list[Path]) -> None:
    """Install everything into `folder`, and print each step to stderr."""
    if not _has_pip(folder):
        _make(folder)
    _say(f"Downloading and installing the packages of {', '.join(lock.name for lock in locks)}:")
    pinned = [option for lock in locks for option in ("--requirement", str(lock))]
    _install(folder, "--require-hashes", *pinned)
    _say("Installing this project:")
    ours = [option for package in PACKAGES for option in ("--editable", str(ROOT / package))]
    _install(folder, "--no-deps", "--no-build-isolation", *ours)


def _has_pip(folder: Path) -> bool:
    """Return whether pip runs with the environment's Python. It does not after an upgrade of the system's Python."""
    try:
        version = f"import sys, pip; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        return subprocess.run([folder / "bin/python", "-c", version], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _make(folder: Path) -> None:
    """Create an empty virtual environment. Leave nothing behind on failure."""
    cure = "On Debian and Ubuntu, install it as root, then run this command again: apt install python3-venv"
    if importlib.util.find_spec("ensurepip") is None:  # a package of its own in Debian
        sys.exit(f"This Python can't create virtual environments: its module ensurepip is missing. {cure}")
    _say(f"Creating the virtual environment {folder}")
    try:
        venv.create(folder, with_pip=True, clear=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder)
        sys.exit(f"Python can't install pip into a virtual environment: {error}. {cure}")


def _install(folder: Path, *arguments: str) -> None:
    """Install with uv, in a fifth of the time of pip; with pip where pip has settings that uv does not read."""
    pip = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check"]
    settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    if not any(word in settings for word in ("index", "proxy", "trusted-host")):
        uv = folder / "bin/uv"
        if not uv.exists():
            lock = str(ROOT / "requirements/uv.txt")
            subprocess.run([*pip, "install", "--quiet", "--require-hashes", "--requirement", lock], check=False)
        command = [uv, "pip", "install", "--python", folder / "bin/python", *arguments]
        if uv.exists() and subprocess.run(command, check=False).returncode == 0:
            return
        _say("uv failed. Trying pip:")
    _pip(folder, *arguments)


def _pip(folder: Path, *arguments: str) -> None:
    """Run `pip install`; name each package when pip fetches it, and show pip's errors."""
    command = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    count = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pip:
        for line in pip.stdout or ():
            words = line.split()
            if line.startswith(("Collecting", "Obtaining")):
                count += 1
                _say(f"  {count:3} {words[1].partition('://')[2] or words[1]}")
            elif line.startswith("Installing collected"):
                _say("  Writing the files")
    if pip.returncode:
        sys.exit(f"pip failed with exit code {pip.returncode}: see above. Fix the cause, then run this command again.")


def _say(text: str) -> None:
    """Print what happens, as the user may wait for a minute."""
    print(text, file=sys.stderr, flush=True)

"""Write the lock files in requirements/: every package with its version and hashes, for all supported Pythons.

`python3 scripts/lock.py` changes only what the pyproject.toml files require. `--upgrade` upgrades all packages, and
`--upgrade-package NAME` one package. `--lowest FILE` instead writes the lowest versions that the pyproject.toml files
allow to FILE, to run the tests with them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from environment import NATIVE, PACKAGES, ROOT, prepare

COMMAND = "python3 scripts/lock.py"
OUR_OWN = {"kes-core", "kes-aws", "kes-backup", "kes-cedar", "kes-fs", "kes-kubernetes", "kes-vault"}
OPTIONS = ("--universal", "--python-version", "3.11", "--no-annotate", "--quiet")
# Keep addresses and paths of this machine out of the files.
NO_TRACE = ("--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", COMMAND)


def requirements() -> dict[str, list[str]]:
    """Return the requirements of each lock file, from the pyproject.toml files."""
    projects = [tomllib.loads((ROOT / package / "pyproject.toml").read_text()) for package in PACKAGES]
    run = [line for project in projects for line in project["project"]["dependencies"] if not is_our_own(line)]
    build = [line for project in projects for line in project["build-system"]["requires"]]
    native = [tomllib.loads((ROOT / package / "pyproject.toml").read_text()) for package in NATIVE]
    groups: dict[str, Any] = projects[0]["dependency-groups"]
    testing = projects[0]["project"]["optional-dependencies"]["testing"]
    return {
        "dev": [*run, *build, *testing, *groups["dev"]],
        "image": run,
        "build": build,
        "docs": groups["docs"],
        "maturin": [line for project in native for line in project["build-system"]["requires"]],
        "native": groups["native"],
        "release": groups["release"],
        "uv": [line for line in groups["dev"] if re.match(r"uv\b", line)],
    }


def is_our_own(requirement: str) -> bool:
    """Return whether a requirement is one of this repository's packages."""
    return re.split(r"[^a-z-]", requirement, maxsplit=1)[0] in OUR_OWN


def compile_lock(lines: list[str], output: Path, options: list[str]) -> None:
    """Write the lock file `output` for the requirements `lines`, with uv."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        uv = prepare(dev=True) / "uv"
    command = [str(uv), "pip", "compile", *OPTIONS, *NO_TRACE, *options]
    subprocess.run(
        [*command, "--output-file", str(output), "-"],
        input="\n".join(lines),
        text=True,
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """Write the lock files."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--lowest"]:
        (output,) = arguments[1:]
        compile_lock(requirements()["dev"], Path(output), ["--resolution", "lowest-direct"])
        return
    for name, lines in requirements().items():
        # All files have the same versions.
        same = [] if name == "dev" else ["--constraint", "requirements/dev.txt"]
        compile_lock(lines, ROOT / "requirements" / f"{name}.txt", ["--generate-hashes", *same, *arguments])


if __name__ == "__main__":
    main()

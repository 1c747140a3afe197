"""Counting instructions with Callgrind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def control(option: str, pid: int) -> None:
    """Ask Callgrind, which obeys between two steps of the process."""
    command = ["callgrind_control", option, str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def dump(pid: int, directory: Path, work: Callable[[], object]) -> set[Path]:
    """Return the files with the instructions of a process during some work, one for each of its threads."""
    before = set(directory.glob("callgrind.out.*"))
    control("--zero", pid)
    work()
    control("--dump", pid)
    deadline = time.monotonic() + 60
    while not (new := set(directory.glob("callgrind.out.*")) - before) or not all(map(_is_complete, new)):
        if time.monotonic() > deadline:
            sys.exit("Callgrind wrote no dump")
        time.sleep(0.1)
    return new


def _is_complete(file: Path) -> bool:
    """Return whether Callgrind has written all of a dump."""
    return "totals:" in file.read_text()[-200:]


def by_library(profile: Path) -> Counter[str]:
    """Return the instructions of each library in a profile of Callgrind, without those of the functions that it calls.

    The format is in Callgrind's manual, "Callgrind Format Specification".
    """
    names: dict[str, str] = {}
    found: Counter[str] = Counter()
    library, is_call = "", False
    with profile.open() as lines:
        for line in lines:
            if line.startswith("ob="):
                number, _, name = line[3:].strip().partition(" ")
                library = names.setdefault(number, name)
            elif line.startswith("cob="):
                number, _, name = line[4:].strip().partition(" ")
                names.setdefault(number, name)
            elif line.startswith("calls="):
                is_call = True  # the next line has the instructions of the called function
            elif line[:1].isdigit() or line[:1] in "+-*":
                if not is_call:
                    found[library] += int(line.split()[1])
                is_call = False
    return found

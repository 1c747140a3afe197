"""Count the instructions that the server executes for a request, by Callgrind. Other work of the machine has no effect.

    python3 benchmarks/instructions.py [--runtimes hypercorn native] [--requests 400] [--check] [--profile DIRECTORY]

This needs Go for the load generator, and valgrind. Each runtime serves under Callgrind, about fifty times slower than
without, so that its requests always arrive 16 at once. The count has everything that the server's process does in user
space: TLS, HTTP, checks, cryptography. It does not have the work of the kernel.

`--check` fails if a count is more than 5 % above `benchmarks/instructions.json`. `--write` changes that file: do that
with a change that is worth it, and say so. The counts belong to a version of Python and a kind of processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.run import (  # noqa: E402 # from the project's root
    STARTED,
    Load,
    Runner,
    Target,
    build_load,
    make_client,
    start_kes,
)

BUDGETS: Final = ROOT / "benchmarks" / "instructions.json"
TOLERANCE: Final = 1.05
AT_ONCE: Final = 16
LOADS: Final = [Load(operation, http2, AT_ONCE) for operation in ("generate", "decrypt") for http2 in (False, True)]
STEADY: Final = 100
"""Requests of the short measurement."""

Counts = dict[str, int]


def environment() -> str:
    """Return what the counts depend on."""
    return f"Python {platform.python_version()}, {platform.machine()}"


def control(option: str, target: Target) -> str:
    """Ask Callgrind, which obeys between two steps of the server."""
    command = ["callgrind_control", option, str(target.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def total(file: Path) -> int:
    """Return the instructions of a dump."""
    with file.open() as lines:
        for line in lines:
            if line.startswith("totals:"):
                return int(line.split()[1])
    sys.exit(f"{file} has no total")


def count(target: Target, runner: Runner, load: Load, requests: int, directory: Path) -> tuple[int, Path]:
    """Return the instructions of one request, and the profile.

    A measurement begins with new connections, which take many times as much as a request. So this is the difference
    between a long measurement and a short one.
    """
    control("--instr=on", target)
    runner.measure(target, load, count=STEADY)  # caches are warm after that
    short, _profile = instructions(target, runner, load, STEADY, directory)
    long, profile = instructions(target, runner, load, STEADY + requests, directory)
    control("--instr=off", target)
    return (long - short) // requests, profile


def instructions(target: Target, runner: Runner, load: Load, requests: int, directory: Path) -> tuple[int, Path]:
    """Return the instructions of a measurement, and the profile."""
    time.sleep(1)  # what the end of the last connections causes
    before = set(directory.glob("callgrind.out.*"))
    control("--zero", target)
    runner.measure(target, load, count=requests)
    control("--dump", target)
    deadline = time.monotonic() + 60
    while not (new := set(directory.glob("callgrind.out.*")) - before) or not all(map(is_complete, new)):
        if time.monotonic() > deadline:
            sys.exit("Callgrind wrote no dump")
        time.sleep(0.1)
    return sum(map(total, new)), max(new, key=total)


def is_complete(file: Path) -> bool:
    return "totals:" in file.read_text()[-200:]


def measure(runtime: str, directory: Path, client: httpx.Client, identity: str, runner: Runner, options: Any) -> Counts:
    """Return the instructions of a request by load."""
    own = directory / runtime
    own.mkdir()
    valgrind = f"valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file={own}/callgrind.out.%p --quiet"
    server = f"{sys.executable} -m kes_core.cli server --config {{config}} --runtime {runtime}"
    environ = os.environ | {"PYTHONHASHSEED": "0"}
    target = start_kes(directory, client, identity, f"{runtime}-server", f"{valgrind} {server}", env=environ)
    counts = {}
    for load in LOADS:
        name = f"{load.operation} {'h2' if load.http2 else 'h1'}"
        counts[name], profile = count(target, runner, load, options.requests, own)
        print(f"{runtime:10} {name:12} {counts[name]:>10,} instructions")
        if options.profile is not None:
            options.profile.mkdir(exist_ok=True)
            shutil.copy(profile, options.profile / f"{runtime}-{name.replace(' ', '-')}.callgrind")
    target.process.terminate()
    target.process.wait()
    return counts


def exceeded(found: dict[str, Counts]) -> list[str]:
    """Compare with the budgets; return what exceeds them."""
    budgets = json.loads(BUDGETS.read_text()).get(environment())
    if budgets is None:
        print(f"There is no budget for {environment()}: not checked.")
        return []
    return [
        f"{runtime} {name}: {number:,} instructions; the budget is {budgets[runtime][name]:,}, and 5 % more"
        for runtime, counts in found.items()
        for name, number in counts.items()
        if number > budgets[runtime][name] * TOLERANCE
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", default=["hypercorn", "native"], choices=["hypercorn", "native"])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--check", action="store_true", help="fail if a count exceeds its budget")
    parser.add_argument("--write", action="store_true", help="make the counts the budgets")
    parser.add_argument(
        "--profile", type=Path, metavar="DIRECTORY", help="keep the profiles there, for callgrind_annotate"
    )
    options = parser.parse_args()
    for program in ("go", "valgrind"):
        if shutil.which(program) is None:
            sys.exit(f"this needs {program}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        client, credentials, files = make_client(directory)
        runner = Runner(build_load(directory), files, 0)
        try:
            found = {
                runtime: measure(runtime, directory, client, credentials.identity, runner, options)
                for runtime in options.runtimes
            }
        finally:
            for process in STARTED:
                process.terminate()
                process.wait()
    if options.write:
        budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
        budgets[environment()] = budgets.get(environment(), {}) | found
        BUDGETS.write_text(json.dumps(budgets, indent=2) + "\n")
    if options.check and (problems := exceeded(found)):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

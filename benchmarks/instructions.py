"""Count the instructions that the server executes for a request, by Callgrind. Other work of the machine has no effect.

    python3 benchmarks/instructions.py [--runtimes hypercorn native] [--requests 400] [--check] [--profile DIRECTORY]

This needs Rust for the load generator, and valgrind. Each runtime serves under Callgrind, about fifty times slower than
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
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.callgrind import by_library, control, dump  # noqa: E402 # from the project's root
from benchmarks.growth import Sizes, many_policies  # noqa: E402
from benchmarks.loads import Load, Runner  # noqa: E402
from benchmarks.servers import COMMAND, Servers, Target  # noqa: E402

BUDGETS: Final = ROOT / "benchmarks" / "instructions.json"
TOLERANCE: Final = 1.05
AT_ONCE: Final = 16
LOADS: Final = {
    f"{operation} {'h2' if http2 else 'h1'}": Load(operation, http2, AT_ONCE)
    for operation in ("generate", "decrypt")
    for http2 in (False, True)
}
AUDITED: Final = {f"{name}, audit file": load for name, load in LOADS.items() if load.operation == "generate"}
"""With an audit log in a file."""
STEADY: Final = 100
"""Requests of the short measurement."""

Counts = dict[str, int]


def environment() -> str:
    """Return what the counts depend on."""
    return f"Python {platform.python_version()}, {platform.machine()}"


def count(target: Target, runner: Runner, load: Load, requests: int, directory: Path) -> tuple[Counter[str], Path]:
    """Return the instructions of one request by library, and the profile.

    A measurement begins with new connections, which take many times as much as a request. So this is the difference
    between a long measurement and a short one.
    """
    control("--instr=on", target.process.pid)
    runner.measure(target, load, count=STEADY)  # caches are warm after that
    short, _profile = instructions(target, runner, load, STEADY, directory)
    long, profile = instructions(target, runner, load, STEADY + requests, directory)
    control("--instr=off", target.process.pid)
    long.subtract(short)
    return Counter({name: number // requests for name, number in long.items()}), profile


def instructions(
    target: Target, runner: Runner, load: Load, requests: int, directory: Path
) -> tuple[Counter[str], Path]:
    """Return the instructions of a measurement by library, and the profile."""
    time.sleep(1)  # what the end of the last connections causes
    files = dump(target.process.pid, directory, lambda: runner.measure(target, load, count=requests))
    return sum(map(by_library, files), Counter()), max(files, key=lambda file: file.stat().st_size)


def measure(
    runtime: str,
    servers: Servers,
    runner: Runner,
    requests: int,
    profiles: Path | None = None,
    policies: dict[str, Any] | None = None,
) -> dict[str, Counter[str]]:
    """Return the instructions of a request by load and library. Keep the profiles in a directory.

    If there are more `policies`, this does not measure with an audit log.
    """
    own = servers.directory / f"callgrind-{runtime}{'-policies' if policies else ''}"
    own.mkdir()
    valgrind = f"valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file={own}/callgrind.out.%p --quiet"
    environ = os.environ | {"PYTHONHASHSEED": "0"}
    # The server reads a key in use again every second; from files, that would be a part of a slow request's count.
    changes: dict[str, Any] = {"keystore": {"memory": {}}}
    command = f"{valgrind} {COMMAND} --runtime {runtime}"
    name = f"{runtime} under Callgrind"
    audit = {"audit": {"file": {"path": str(own / "audit.log")}}}
    found = {}
    for loads, more in ((LOADS, {}), *([] if policies else [(AUDITED, audit)])):
        target = servers.kes(name, command, changes=changes | more, policies=policies, env=environ)
        for title, load in loads.items():
            found[title], profile = count(target, runner, load, requests, own)
            print(f"{runtime:10} {title:23} {found[title].total():>10,} instructions", flush=True)
            if profiles is not None:
                profiles.mkdir(exist_ok=True)
                shutil.copy(profile, profiles / f"{runtime}-{title.replace(' ', '-')}.callgrind")
        servers.stop(target)
    return found


def totals(found: dict[str, Counter[str]]) -> Counts:
    """Return the instructions of a request by load."""
    return {name: counts.total() for name, counts in found.items()}


def exceeded(found: dict[str, Counts]) -> list[str]:
    """Compare with the budgets; return what exceeds them."""
    budgets = json.loads(BUDGETS.read_text()).get(environment())
    if budgets is None:
        print(f"{BUDGETS.name} has no budget for {environment()}, so nothing is checked.")
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
    parser.add_argument("--policies", action="store_true", help="with 10,000 more policies of 100,000 identities")
    parser.add_argument("--check", action="store_true", help="fail if a count exceeds its budget")
    parser.add_argument("--write", action="store_true", help="make the counts the budgets")
    parser.add_argument(
        "--profile", type=Path, metavar="DIRECTORY", help="keep the profiles there, for callgrind_annotate"
    )
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("this needs valgrind")
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        runner = Runner(servers, 0)
        policies = many_policies(Sizes()) if options.policies else None
        found = {
            runtime: totals(measure(runtime, servers, runner, options.requests, options.profile, policies))
            for runtime in options.runtimes
        }
    if options.write and not options.policies:
        budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
        budgets[environment()] = budgets.get(environment(), {}) | found
        BUDGETS.write_text(json.dumps(budgets, indent=2) + "\n")
    if options.check and (problems := exceeded(found)):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

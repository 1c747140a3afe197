"""Run the tests, with two processes for each processor. The arguments are those of pytest.

`python3 scripts/test.py` runs the tests that protect a change. `--all` adds the tests that take long, need a container
engine, or measure time and memory. `python3 scripts/test.py tests/unit -k names` runs some tests. With `--again`, up to
three tests that fail run once more, one at a time; those that pass then are listed at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environment import ROOT, prepare

FAILED = 1
"""The exit code of pytest if tests fail."""
NO_TESTS = 5
"""The exit code of pytest if it finds no tests."""
MOST_AGAIN = 3
"""The most failed tests that `--again` runs once more."""


def main() -> None:
    """Run pytest, and exit with its exit code."""
    arguments = sys.argv[1:]
    python = str(prepare(dev=True) / "python")
    os.chdir(ROOT)
    # The tests start hundreds of servers and commands: the first one compiles the modules for all.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Each process takes neighbouring tests, so that it creates the fixtures of a module only once. A process that is
    # done takes tests from another one. Most tests wait for servers, so there are two processes for each processor.
    pytest = [python, "-m", "pytest"]
    parallel = [*pytest, f"--numprocesses={2 * (os.cpu_count() or 1)}", "--dist=worksteal"]
    if "--again" in arguments:
        arguments.remove("--again")
        sys.exit(run_twice([*parallel, *arguments], pytest))
    if "--all" not in arguments:
        os.execv(python, [*parallel, *arguments])
    arguments.remove("--all")
    codes = [
        subprocess.run([*parallel, "-m", "not measured", *arguments], check=False).returncode,
        subprocess.run([*pytest, "-m", "measured", *arguments], check=False).returncode,  # one at a time
    ]
    sys.exit(max(code for code in codes if code != NO_TESTS) if set(codes) != {NO_TESTS} else NO_TESTS)


def run_twice(first: Sequence[str], second: Sequence[str]) -> int:
    """Run pytest, and the tests that failed once more by another command, if they are few. Return the exit code.

    A busy machine fails one test of thousands now and then. A test that passes alone is reported, and fails nothing.
    """
    code = subprocess.run(first, check=False).returncode
    failures = Path(".pytest_cache/v/cache/lastfailed")
    failed = list(json.loads(failures.read_bytes())) if code == FAILED and failures.exists() else []
    if not 0 < len(failed) <= MOST_AGAIN:
        return code
    print("\nOnce more, one at a time:", flush=True)
    code = subprocess.run([*second, "-q", *failed], check=False).returncode
    if code == 0:
        print("UNSTABLE, failed and then passed:", *failed, sep="\n  ", flush=True)
    return code


if __name__ == "__main__":
    main()

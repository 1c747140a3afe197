"""Run the tests, with two processes for each processor. The arguments are those of pytest.

`python3 scripts/test.py` runs the tests that protect a change. `--all` adds the tests that take long, need a container
engine, or measure time and memory. `python3 scripts/test.py tests/unit -k names` runs some tests.
"""

from __future__ import annotations

import os
import subprocess
import sys

from environment import ROOT, prepare

NO_TESTS = 5
"""The exit code of pytest if it finds no tests."""


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
    if "--all" not in arguments:
        os.execv(python, [*parallel, *arguments])
    arguments.remove("--all")
    codes = [
        subprocess.run([*parallel, "-m", "not measured", *arguments], check=False).returncode,
        subprocess.run([*pytest, "-m", "measured", *arguments], check=False).returncode,  # one at a time
    ]
    sys.exit(max(code for code in codes if code != NO_TESTS) if set(codes) != {NO_TESTS} else NO_TESTS)


if __name__ == "__main__":
    main()

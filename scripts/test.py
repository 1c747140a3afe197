"""Run the tests, in as many processes as there are processors. Arguments go to pytest.

`python3 scripts/test.py` runs what protects a change. `--all` adds the tests that take long, need a container engine or
measure time and memory. `python3 scripts/test.py tests/unit -k names` runs some.
"""

from __future__ import annotations

import os
import subprocess
import sys

from environment import ROOT, prepare

NO_TESTS = 5
"""pytest's exit code when it finds none."""


def main() -> None:
    """Run pytest, once or for all markers, and exit as it does."""
    arguments = sys.argv[1:]
    python = str(prepare(dev=True) / "python")
    os.chdir(ROOT)
    # A process of its own for each processor. Each takes the tests in their order, so that what the tests of a module
    # share is made once, and takes over from another one when it is done.
    pytest = [python, "-m", "pytest"]
    parallel = [*pytest, "--numprocesses=auto", "--dist=worksteal"]
    if "--all" not in arguments:
        os.execv(python, [*parallel, *arguments])
    arguments.remove("--all")
    codes = [
        subprocess.run([*parallel, "-m", "not measured", *arguments], check=False).returncode,
        subprocess.run([*pytest, "-m", "measured", *arguments], check=False).returncode,  # one at a time, on its own
    ]
    sys.exit(max(code for code in codes if code != NO_TESTS) if set(codes) != {NO_TESTS} else NO_TESTS)


if __name__ == "__main__":
    main()

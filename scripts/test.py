"""Run all tests. Arguments go to pytest: `python3 scripts/test.py tests/unit -k names`."""

from __future__ import annotations

import os
import sys

from environment import ROOT, prepare


def main() -> None:
    programs = prepare(dev=True)
    os.chdir(ROOT)
    python = str(programs / "python")
    os.execv(python, [python, "-m", "pytest", *sys.argv[1:]])


if __name__ == "__main__":
    main()

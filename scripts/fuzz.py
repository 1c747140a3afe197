"""Search for inputs that break a parser, guided by coverage: `python3 scripts/fuzz.py TARGET --seconds N`.

The targets are those of `tests/helpers/fuzz_targets.py`. The fuzzer is atheris, which the script installs if needed.
An input that breaks the target ends the run; the fuzzer shows it and writes it to the file `crash-...` in the current
directory.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import ROOT, prepare

_INSIDE = "KES_FUZZ"


def main() -> None:
    parser = argparse.ArgumentParser(description="Search for inputs that break a parser.")
    parser.add_argument("target", help="a name in tests/helpers/fuzz_targets.py")
    parser.add_argument("--seconds", type=int, default=60, help="the length of the run (default: 60)")
    arguments = parser.parse_args()
    if os.environ.get(_INSIDE):
        fuzz(arguments.target, arguments.seconds)
        return
    python = str(prepare(dev=True) / "python")
    if subprocess.run([python, "-c", "import atheris"], check=False, capture_output=True).returncode:
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "--group", f"{ROOT / 'pyproject.toml'}:nightly"], check=True)
    os.execve(python, [python, *sys.argv], {**os.environ, _INSIDE: "1"})


def fuzz(name: str, seconds: int) -> None:
    """Run atheris in this process. atheris exits the process."""
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris does not support this Python or processor")
    import atheris  # only installed in the project's environment

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["kes_core", "h2", "h11", "hpack", "hyperframe", "msgpack"]):
        from tests.helpers.fuzz_targets import TARGETS

    if name not in TARGETS:
        sys.exit(f"unknown target {name}; expected one of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", "-timeout=20", "-print_final_stats=1", corpus],
            TARGETS[name].run,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()

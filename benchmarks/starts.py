"""What a start costs: the CPU time of `kes server`, user and system, of all of its processes.

    python3 benchmarks/starts.py [--rounds 9] [--runtime hypercorn]

It prints the rows of the table in docs/performance.md. The server has its keys in files, and Python has the bytecode of
the modules. One process and four workers take turns; each number is the median.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.servers import COMMAND  # from the project's root
from tests.helpers.certificates import make_credentials, make_server_certificate
from tests.helpers.programs import free_port

WORKERS: Final = 4
ROWS: Final = {
    "listens": "until the server listens: connections wait from here on",
    "answers": "until it answers",
    "workers": f"with `workers: {WORKERS}`, all processes together",
}
_PAUSE: Final = 0.001


def prepare(directory: Path) -> None:
    """Make what a server needs, but for its configuration."""
    make_credentials(directory)
    make_server_certificate(directory)
    (directory / "keys").mkdir(mode=0o700)


def start(directory: Path, runtime: str, workers: int) -> tuple[float, float]:
    """Start a server and stop it. Return the seconds of CPU time until it listened, and until it answered."""
    port = free_port()
    settings = {
        "address": f"127.0.0.1:{port}",
        "workers": workers,
        "admin": {"identity": "disabled"},
        "tls": {"key": str(directory / "server.key"), "cert": str(directory / "server.crt")},
        "keystore": {"fs": {"path": str(directory / "keys")}},
    }
    config = directory / "config.yml"
    config.write_text(json.dumps(settings))
    command = [*COMMAND.format(config=config).split(), "--runtime", runtime]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(port, process)
            listens = total(process.pid)
            for line in process.stderr or ():
                if "listening on" in line:  # all workers answer by then
                    return listens, total(process.pid)
        finally:
            process.terminate()
    sys.exit("the server did not start: see above")


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until a server listens, or ends."""
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(_PAUSE)


def total(pid: int) -> float:
    """Return the CPU time of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    clocks = [(~number << 3) | 2 for number in (pid, *map(int, children))]  # as clock_getcpuclockid(3) makes them
    return sum(map(time.clock_gettime, clocks))


def measure(runtime: str, rounds: int, directory: Path) -> dict[str, float]:
    """Return the seconds of CPU time, by the names of `ROWS`."""
    prepare(directory)
    start(directory, runtime, 1)  # writes bytecode
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name, seconds in zip(("listens", "answers"), start(directory, runtime, 1), strict=True):
            found[name].append(seconds)
        found["workers"].append(start(directory, runtime, WORKERS)[1])
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def rows(found: Mapping[str, float]) -> Sequence[tuple[str, str]]:
    """Return the lines of the table: what, and how many seconds."""
    return [(label, f"{found[name]:.2g}") for name, label in ROWS.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runtime", default="hypercorn", choices=["hypercorn", "native"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(options.runtime, options.rounds, Path(name))
    print("| | seconds of CPU |\n|---|---|")
    for label, seconds in rows(found):
        print(f"| {label} | {seconds} |")


if __name__ == "__main__":
    main()

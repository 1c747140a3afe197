"""The load: which requests to send, and the load generator, which measures them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.servers import LOAD_CORE, ROOT, SERVER_CORE, Servers, Target, pinned, set_urgent

BUILT: Final = "KES_LOAD_GENERATOR"
"""The environment variable that names the load generator if it was built elsewhere."""
_PATIENCE: Final = 60.0
"""Seconds that a measurement may take beyond its time."""
_LONGEST: Final = 900.0
"""Seconds for a number of requests: Callgrind and reading many keys are slow."""

_BURST: Final = 0.4
"""Seconds of a measurement with real-time priority. After almost a second without a turn, the kernel gives all others
their share at once: some milliseconds, in which no request is served."""
_REST: Final = 0.3
"""Seconds before it, in which the others have their turn."""

Result = dict[str, float]
"""Of one measurement: `rate` per second, `cpu` of the server's processes in seconds per request, `p50`, `p99` and
`p999` in seconds, the number of `failures`, and `load`: the share of the time in which the
load generator had something to do, where 1 means that a faster server would not get more requests. `unseen`: the share
of requests without a latency: the load generator was interrupted before it could send them, or read their answers."""
Rows = dict[str, dict[str, list[Result]]]
"""The results of all rounds, by load and by target."""


@dataclass(frozen=True)
class Load:
    """How to send requests."""

    operation: str
    http2: bool
    at_once: int
    new_connection: bool = False
    rate: float = 0.0
    """Requests per second, independent of the answers; 0: each request follows an answer."""

    def __str__(self) -> str:
        kind = "new connections" if self.new_connection else "half load" if self.rate else f"{self.at_once} at once"
        return f"{self.operation}, {'HTTP/2' if self.http2 else 'HTTP/1.1'}, {kind}"


class Runner:
    """Runs the load generator."""

    def __init__(self, servers: Servers, seconds: float) -> None:
        self.directory = servers.directory
        self._servers = servers
        self._is_urgent = False
        self._program = _build()
        self._credentials = ["--key", str(servers.credentials.key), "--cert", str(servers.credentials.cert)]
        self._seconds = seconds

    def measure(
        self, target: Target, load: Load, *, count: int = 0, keys: int = 1, core: int | None = LOAD_CORE
    ) -> Result:
        """Send requests: for the time that is set, or `count` of them; to `keys` keys in turn, the path has `{n}`."""
        self._servers.use(target)
        command = [*self._command(target, load), f"--pids={target.pids}", f"--rate={load.rate}"]
        command += [f"--duration={self._seconds}", f"--count={count}", f"--keys={keys}"]
        if load.new_connection:
            command.append("--new-connection")
        if core is not None and len(os.sched_getaffinity(0)) > 1:
            command.append("--spin")
        return self._run(target.name, command, core, self._seconds + (_LONGEST if count else _PATIENCE))

    def echo(self, rate: float, busy: float = 0.0) -> Result:
        """Measure how long messages take from one core to the other and back, without TLS and HTTP.

        Args:
            rate: Messages per second.
            busy: The share of the time in which the other side works.
        """
        core = sorted(os.sched_getaffinity(0))[SERVER_CORE]
        command = [str(self._program), f"--echo={core}", f"--rate={rate}", f"--duration={self._seconds}"]
        command.append(f"--work={busy / rate}")
        return self._run("echo", command, LOAD_CORE, self._seconds + _PATIENCE)

    @contextmanager
    def urgently(self, targets: Sequence[Target]) -> Iterator[None]:
        """Give the servers and the load generator real-time priority: other processes do not interrupt them.

        Measurements are short meanwhile. Only root may do that. Others measure without it.
        """
        threads = [int(path.name) for target in targets for path in Path(f"/proc/{target.process.pid}/task").iterdir()]
        try:
            for thread in threads:
                set_urgent(thread)
        except PermissionError:
            print("only root can keep other processes from interrupting: latencies have their time slices in them")
            yield
            return
        self._is_urgent, seconds = True, self._seconds
        self._seconds = min(_BURST, seconds)
        try:
            yield
        finally:
            self._is_urgent, self._seconds = False, seconds
            for thread in threads:
                set_urgent(thread, urgent=False)

    @contextmanager
    def connections(self, target: Target, load: Load) -> Iterator[None]:
        """Keep connections open, on each of which there was one request."""
        command = [*self._command(target, load), "--hold"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=pinned(LOAD_CORE)
        ) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                sys.exit(f"{target.name}: the connections did not open")
            yield
            process.communicate()

    def _command(self, target: Target, load: Load) -> list[str]:
        path, body = target.requests[load.operation]
        command = [str(self._program), *self._credentials, f"--url={target.url}{path}", f"--body={body}"]
        command += [f"--header={target.header}", f"--at-once={load.at_once}"]
        return [*command, "--http2"] if load.http2 else command

    def _run(self, name: str, command: list[str], core: int | None, limit: float) -> Result:
        pin = pinned(core)

        def prepare() -> None:
            if pin is not None:
                pin()
            if self._is_urgent:
                set_urgent(0)

        if self._is_urgent:
            time.sleep(_REST)
        done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=prepare, timeout=limit)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        sys.stderr.write(done.stderr)  # why requests failed
        result: Result = json.loads(done.stdout)
        return result


def _build() -> Path:
    """Build the load generator, unless that is done; return the program."""
    if built := os.environ.get(BUILT):
        return Path(built)
    source = ROOT / "benchmarks" / "load"
    command = ["cargo", "build", "--quiet", "--release"]
    try:
        subprocess.run(command, cwd=source, check=True)
    except FileNotFoundError:
        sys.exit(f"the load generator needs Rust's cargo, or {BUILT}=PROGRAM if it was built elsewhere")
    return Path(source, os.environ.get("CARGO_TARGET_DIR", "target"), "release", "load")


def in_rounds(
    rounds: int, loads: Sequence[Load], targets: Sequence[Target], measure: Callable[[Target, Load], Result]
) -> Rows:
    """Measure each load on each target in each round. The order of the targets changes with each round."""
    rows: Rows = {str(load): {target.name: [] for target in targets} for load in loads}
    for number in range(rounds):
        for load in loads:
            for target in targets[:: -1 if number % 2 else 1]:
                rows[str(load)][target.name].append(measure(target, load))
    return rows


def tail(results: list[Result]) -> float:
    """Return how many times as high as p50 p99 is: the median over the rounds."""
    return statistics.median(result["p99"] / result["p50"] for result in results)


def median(results: list[Result], field: str) -> float:
    """Return the median over the rounds."""
    return statistics.median(result[field] for result in results)


def ratio(results: list[Result], others: list[Result], field: str) -> float:
    """Return how many times as high a field is, compared with `others`: the median over the rounds."""
    return statistics.median(
        result[field] / max(other[field], 1e-12) for result, other in zip(results, others, strict=True)
    )

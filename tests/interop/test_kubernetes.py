"""The code of Kubernetes' API server, unchanged, with the KMS plugin of a running server.

Needs Go. The modules `k8s.io/apiserver` and `k8s.io/kms` come through Go's module proxy. Compiling them takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.certificates import make_credentials
from tests.helpers.documents import ROOT
from tests.helpers.kms import IDENTITY, encryption_of_the_page
from tests.helpers.server import Server, start_server

MODULE = Path(__file__).parent / "kubernetes"
GO = shutil.which("go")
KEY = "cluster-secrets"

pytestmark = [
    pytest.mark.skipif(GO is None, reason="Go is not installed: Kubernetes' own code is not run"),
    pytest.mark.slow,
    pytest.mark.timeout(3000),  # compiling takes minutes, more on a busy machine
]


class Cluster:
    """The server with the plugin, and what may happen to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.admin = make_credentials(directory, "admin")
        self.config: dict[str, Any] = {
            "frontends": {"kubernetes": {"socket": "run/kms.sock", "key": KEY, "identity": IDENTITY}},
            "policy": {
                "kubernetes": {
                    "allow": [f"/v1/key/{operation}/{KEY}" for operation in ("encrypt", "decrypt")],
                    "identities": [IDENTITY],
                }
            },
            "keys": [{"name": KEY}],
            "keystore": {"fs": {"path": str(directory / "keys")}},
            "cache": {"expiry": {"any": "1s", "unused": "1s"}},
        }
        self.server: Server
        self.start()
        self.actions: dict[str, Callable[[], object]] = {
            "calls": self.calls,
            "rotate": lambda: self.ask("PUT", "rotate"),
            "disable": lambda: self.ask("PUT", "disable"),
            "enable": lambda: self.ask("PUT", "enable"),
            "replace the key": self.replace_key,
            "stop": self.stop,
            "start": self.start,
            "break the store": lambda: (self.directory / "keys").rename(self.directory / "away"),
            "repair the store": lambda: (self.directory / "away").rename(self.directory / "keys"),
        }

    def start(self) -> None:
        self.server = start_server(self.directory, self.config, admin=self.admin)

    def stop(self) -> None:
        assert self.server.stop() == 0, "\n".join(self.server.errors)

    def replace_key(self) -> None:
        self.ask("DELETE", "delete")
        self.ask("PUT", "create")

    def ask(self, method: str, operation: str) -> None:
        with self.server.client() as client:
            client.request(method, f"/v1/key/{operation}/{KEY}").raise_for_status()

    def calls(self) -> int:
        with self.server.client() as client:
            metrics = client.get("/v1/metrics").text
        return int(
            float(re.findall(r"^kes_plugin_kubernetes_requests_total(?:\{.*\})? (\S+)$", metrics, re.MULTILINE)[0])
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    tmp_path.chmod(0o700)
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


def serve_control(listener: socket.socket, actions: dict[str, Callable[[], object]]) -> None:
    """Carry out what the Go tests ask for, one line for each connection."""
    while True:
        try:
            connection, _address = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rw") as stream:
            try:
                result = actions[stream.readline().strip()]()
                stream.write(f"ok {result if isinstance(result, int) else ''}\n")
            except Exception as error:  # the Go test shows it
                stream.write(f"{error!r}\n")


def run_go(environment: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Run all Go tests; return each one's result and output."""
    assert GO is not None
    done = subprocess.run(
        [GO, "test", "-count=1", "-json", "-timeout=1500s", "./..."],
        cwd=MODULE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=2700,
        check=False,
    )
    outputs: dict[str, str] = {}
    actions: dict[str, str] = {}
    for line in done.stdout.splitlines():
        event = json.loads(line)
        name = event.get("Test", "")
        outputs[name] = outputs.get(name, "") + event.get("Output", "")
        if event["Action"] in {"pass", "fail", "skip"}:
            actions[name] = event["Action"]
    assert actions, done.stdout + done.stderr
    wanted = re.findall(r"^func (Test\w+)\(", (MODULE / "kubernetes_test.go").read_text(), re.MULTILINE)
    return {name: (actions.get(name, "missing"), outputs.get(name, "") or done.stderr) for name in wanted}


def test_api_server(cluster: Cluster) -> None:
    """All Go tests pass. They are one test here, so that only one process compiles the API server."""
    endpoint = f"unix://{cluster.directory}/run/kms.sock"
    encryption, control = cluster.directory / "encryption.yaml", cluster.directory / "control"
    encryption.write_text(encryption_of_the_page(endpoint))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control))
        listener.listen()
        serving = threading.Thread(target=serve_control, args=(listener, cluster.actions))
        serving.start()
        try:
            results = run_go(
                {
                    "KES_TEST_ENDPOINT": endpoint,
                    "KES_TEST_ENCRYPTION": str(encryption),
                    "KES_TEST_CONTROL": str(control),
                }
            )
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()
    failed = {name: output for name, (action, output) in results.items() if action != "pass"}
    assert not failed, "\n".join(failed.values())


def test_messages_are_those_of_kubernetes() -> None:
    """Each message has the fields of the original: type, name and number."""
    assert GO is not None
    found = subprocess.run(
        [GO, "mod", "download", "-json", "k8s.io/kms"], cwd=MODULE, capture_output=True, text=True, check=True
    )
    original = Path(json.loads(found.stdout)["Dir"]) / "apis" / "v2" / "api.proto"
    ours = ROOT / "plugins" / "kubernetes" / "kes_kubernetes" / "kms_v2.proto"
    assert messages(ours.read_text()) == messages(original.read_text())
    assert len(messages(ours.read_text())) == 8


def messages(proto: str) -> dict[str, list[str]]:
    """Return the fields of each message, the methods of each service, and the package."""
    text = re.sub(r"//.*", "", proto.partition("*/")[2] or proto)
    found = {
        name: sorted(" ".join(line.split()) for line in re.split(r"[;\n]", body) if line.strip())
        for name, body in re.findall(r"\b(?:message|service) (\w+) \{((?:[^{}]|\{\})*)\}", text)
    }
    return found | {"": re.findall(r"^(?:package|syntax) .*;", text, re.MULTILINE)}

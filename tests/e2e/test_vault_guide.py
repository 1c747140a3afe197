"""The guide for Vault as a key store: its commands in its order, with `bao` for `vault`, on a real OpenBao.

What differs from the page: addresses and ports, and that output is piped, so that `dek` prints JSON. The page's own
`vault-config.json` has its storage in files, which the newest OpenBao no longer knows: one case runs it on the last
that does, all others have raft on the newest.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.command import on_a_terminal
from tests.helpers.openbao import KV1_POLICY, KV2_POLICY, OpenBao, bao_program, old_bao_program
from tests.helpers.programs import free_port

VAULT_CONFIG = """\
{
  "api_addr": "https://127.0.0.1:8200",
  "backend": {
    "file": {
      "path": "vault/file"
    }
  },

  "default_lease_ttl": "168h",
  "max_lease_ttl": "720h",

  "listener": {
    "tcp": {
      "address": "0.0.0.0:8200",
      "tls_cert_file": "vault.crt",
      "tls_key_file": "vault.key",
      "tls_min_version": "tls12"
    }
  }
}
"""
CONFIG = """\
address: 127.0.0.1:{port}

admin:
  identity: disabled  # We disable the admin identity since we don't need it in this guide

tls:
  key: private.key    # The KES server TLS private key
  cert: public.crt    # The KES server TLS certificate

policy:
  my-app:
    allow:
    - /v1/key/create/my-key*
    - /v1/key/generate/my-key*
    - /v1/key/decrypt/my-key*
    identities:
    - {identity} # Use the identity of your client.crt

keystore:
   vault:
     endpoint: {vault}
     version:  {version} # The K/V engine version - either "v1" or "v2".
     {tenant}
     approle:
       id:     "{role_id}" # Your AppRole ID
       secret: "{secret_id}" # Your AppRole Secret
       retry:  15s
     status:
       ping: 10s
     tls:
       ca: vault.crt # Manually trust the vault certificate since we use self-signed certificates
"""
SAMPLE = (
    "eyJhZWFkIjoiQUVTLTI1Ni1HQ00tSE1BQy1TSEEtMjU2IiwiaWQiOiIxMTc1ZjJjNDMyMjNjNjNmNjY1MDk5ZDExNmU3Yzc4NCIsIml2IjoiVHBt"
    "bHpWTDh5a2t4VVREV1RSTU5Tdz09Iiwibm9uY2UiOiJkeGl0R3A3bFB6S21rTE5HIiwiYnl0ZXMiOiJaaWdobEZrTUFuVVBWSG0wZDhSYUNBY3pn"
    "RWRsQzJqWFhCK1YxaWl2MXdnYjhBRytuTWx0Y3BGK0RtV1VoNkZaIn0="
)


class Guide:
    """The two terminals of a reader who follows the guide."""

    def __init__(self, directory: Path, bao: str) -> None:
        self.directory = directory
        self.bao = bao
        self.environment = {name: value for name, value in os.environ.items() if not re.search("KES|VAULT|BAO", name)}
        self.processes: list[subprocess.Popen[bytes]] = []

    def kes(self, *arguments: str) -> str:
        return self.run([sys.executable, "-m", "kes_core.cli", *arguments])

    def vault(self, *arguments: str) -> str:
        return self.run([self.bao, *arguments])

    def environment_of_kes(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if name.startswith("KES_")}

    def run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, command: list[str], until: str) -> None:
        """Start a server and wait for a line in its log."""
        log = self.directory / f"{len(self.processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.directory, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        with log.open() as reader:
            text = ""
            while until not in text:
                assert process.poll() is None, text
                text += reader.readline()


@pytest.fixture
def guide(tmp_path: Path) -> Iterator[Guide]:
    guide = Guide(tmp_path, bao_program())
    yield guide
    for process in guide.processes:
        process.kill()
        process.wait()


def set_up_vault(guide: Guide, version: str, policy: str, namespace: str = "") -> tuple[str, str, str]:
    """Follow the first half of the guide; return the address of Vault, and the ID and secret of the role."""
    made = guide.kes("identity", "new", "--key", "vault.key", "--cert", "vault.crt", "--ip", "127.0.0.1", "localhost")
    files = r"\n  Private key:  vault.key\n  Certificate:  vault.crt\n"
    assert re.fullmatch(files + r"  API key:      kes:v1:\S+\n  Identity:     [0-9a-f]{64}\n", made)
    server = OpenBao(guide.directory, certificate=False)
    if guide.bao == bao_program():
        guide.start([guide.bao, "server", "-config=config.json"], "server started")
    else:
        text = VAULT_CONFIG.replace("0.0.0.0", "127.0.0.1").replace("8200", str(server.port))
        (guide.directory / "vault-config.json").write_text(text)
        guide.start([guide.bao, "server", "-config", "vault-config.json"], "server started")
    guide.environment |= {"VAULT_ADDR": server.url, "VAULT_SKIP_VERIFY": "true"}
    printed = guide.vault("operator", "init")
    keys = re.findall(r"Unseal Key \d: (\S+)", printed)
    assert len(keys) == 5
    (token,) = re.findall(r"Initial Root Token: (\S+)", printed)
    guide.environment["VAULT_TOKEN"] = token
    for key in keys[:3]:
        guide.vault("operator", "unseal", key)
    server.wait_for(lambda code: code == 200)
    if namespace:
        guide.vault("namespace", "create", namespace)
        guide.environment["VAULT_NAMESPACE"] = namespace
    guide.vault("secrets", "enable", f"-version={version[1:]}", "kv")
    (guide.directory / "kes-policy.hcl").write_text(policy)
    guide.vault("policy", "write", "kes-policy", "kes-policy.hcl")
    guide.vault("auth", "enable", "approle")
    role = "auth/approle/role/kes-server"
    guide.vault("write", role, "token_num_uses=0", "secret_id_num_uses=0", "period=5m")
    guide.vault("write", role, "policies=kes-policy")
    role_id = json.loads(guide.vault("read", "-format=json", f"{role}/role-id"))["data"]["role_id"]
    secret_id = json.loads(guide.vault("write", "-format=json", "-f", f"{role}/secret-id"))["data"]["secret_id"]
    return server.url, role_id, secret_id


CASES = {
    "v1": ("v1", KV1_POLICY.format(engine="kv"), "", ""),
    "v1 on files": ("v1", KV1_POLICY.format(engine="kv"), "", ""),
    "v2": ("v2", KV2_POLICY.format(engine="kv"), "", ""),
    "v1 prefix": ("v1", KV1_POLICY.format(engine="kv/tenant"), "prefix: tenant", ""),
    "v2 prefix": (
        "v2",
        KV2_POLICY.replace("/data/*", "/data/tenant/*")
        .replace("/metadata/*", "/metadata/tenant/*")
        .format(engine="kv"),
        "prefix: tenant",
        "",
    ),
    "v2 namespace": ("v2", KV2_POLICY.format(engine="kv"), "namespace: team", "team"),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in {"v1", "v2"} else pytest.mark.slow) for case in CASES],
)
def test_guide(guide: Guide, case: str) -> None:
    version, policy, tenant, namespace = CASES[case]
    if "files" in case:
        guide.bao = old_bao_program()
    vault, role_id, secret_id = set_up_vault(guide, version, policy, namespace)
    guide.kes("identity", "new", "--ip", "127.0.0.1", "localhost")
    made = guide.kes("identity", "new", "--key=client.key", "--cert=client.crt", "MyApp")
    identity = made.split()[-1]
    assert guide.kes("identity", "of", "client.crt") == f"{identity}\n"
    port = free_port()
    text = CONFIG.format(
        port=port,
        identity=identity,
        vault=vault,
        version=version,
        tenant=tenant,
        role_id=role_id,
        secret_id=secret_id,
    )
    (guide.directory / "config.yml").write_text(text)
    command = [sys.executable, "-m", "kes_core.cli", "server", "--config", "config.yml", "--auth", "off"]
    guide.start(command, "listening on")
    guide.environment |= {
        "KES_SERVER": f"https://127.0.0.1:{port}",
        "KES_CLIENT_CERT": "client.crt",
        "KES_CLIENT_KEY": "client.key",
    }
    assert guide.kes("key", "create", "my-key-1", "-k") == ""
    dek = json.loads(guide.kes("key", "dek", "my-key-1", "-k"))
    assert json.loads(guide.kes("key", "decrypt", "my-key-1", dek["ciphertext"], "-k")) == {
        "plaintext": dek["plaintext"]
    }
    shown = on_a_terminal("key", "dek", "my-key-1", "-k", cwd=guide.directory, environment=guide.environment_of_kes())
    assert re.fullmatch(r"\{\n  plaintext : \S{44}\n  ciphertext: \S{104}\n\}\n", shown)
    again = subprocess.run(
        [sys.executable, "-m", "kes_core.cli", "key", "create", "my-key-1", "-k"],
        cwd=guide.directory,
        env=guide.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stderr) == (1, 'Error: failed to create key "my-key-1": key already exists\n')
    # The guide's sample ciphertext has the right format, but it belongs to another key and is not authentic.
    refused = subprocess.run(
        [sys.executable, "-m", "kes_core.cli", "key", "decrypt", "my-key-1", SAMPLE, "-k"],
        cwd=guide.directory,
        env=guide.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    what = 'failed to decrypt with key "my-key-1"'
    assert refused.stderr == f"Error: {what}: decryption failed: ciphertext is not authentic\n"
    entry = "kv/tenant/my-key-1" if "prefix" in tenant else "kv/my-key-1"
    stored = json.loads(guide.vault("kv", "get", "-format=json", entry))["data"]
    stored = stored["data"] if version == "v2" else stored
    assert list(stored) == ["my-key-1"]

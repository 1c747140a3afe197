"""Mistakes that operators make: what the server says, its exit code, and what `kes doctor` finds.

Each row of the table is one mistake in an otherwise good set-up. The server names the fault and does not start, or
starts and warns. The doctor reports it once, under one name, and says what to do.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from kes_core.identity import APIKey
from tests.helpers.certificates import Pair, make_certificate, write_pair
from tests.helpers.command import run_kes
from tests.helpers.server import start_server

pytestmark = pytest.mark.slow

ADMIN: Final = APIKey.generate()
Settings = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """One row of the table."""

    make: Callable[[Path, Settings], Any]
    """Make the mistake in a folder and in the configuration for it. Text that it returns becomes the file."""
    server: str
    """What the server says."""
    doctor: str
    """What the doctor says, as `subject: message`, or a part of that."""
    cure: str
    """A part of what the doctor proposes."""
    starts: bool = False
    """Whether the server starts all the same. Otherwise its exit code is 1."""


def _set(path: str, value: Any) -> Callable[[Path, Settings], None]:
    """Set a field of the configuration. `{}` in a value stands for the folder."""

    def make(directory: Path, config: Settings) -> None:
        *sections, field = path.split("/")
        for section in sections:
            config = config.setdefault(section, {})
        config[field] = value.replace("{}", str(directory)) if isinstance(value, str) else value

    return make


def _pair(pair: Callable[[], Pair], *chain: Callable[[], Pair]) -> Callable[[Path, Settings], None]:
    return lambda directory, _config: void(write_pair(directory, pair(), *(part() for part in chain)))


def void(_value: object) -> None:
    """Drop a value."""


def _rename_field(_directory: Path, config: Settings) -> None:
    config["adress"] = config.pop("address")


def _bad_indentation(_directory: Path, config: Settings) -> str:
    return yaml.safe_dump(config).replace("admin:\n", "admin:\n      port: 1\n")


def _remove_file(_directory: Path, _config: Settings) -> str:
    return ""


def _remove_key(directory: Path, _config: Settings) -> None:
    (directory / "server.key").unlink()


def _other_key(directory: Path, config: Settings) -> None:
    config["tls"]["key"] = write_pair(directory, make_certificate("other"), name="other")["key"]


def _swap(_directory: Path, config: Settings) -> None:
    tls = config["tls"]
    tls["key"], tls["cert"] = tls["cert"], tls["key"]


def _encrypt_key(directory: Path, _config: Settings) -> None:
    key, _certificate = pair = make_certificate("kes")
    write_pair(directory, pair)
    secret = BestAvailableEncryption(b"a passphrase")
    (directory / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))


def _reverse_chain(directory: Path, _config: Settings) -> None:
    ca = make_certificate("A CA", ca=True, names=(), usages=None)
    server = make_certificate("kes", issuer=ca)
    write_pair(directory, server)
    certificates = [pair[1].public_bytes(Encoding.PEM) for pair in (ca, server)]
    (directory / "server.crt").write_bytes(b"".join(certificates))


def _take_port(_directory: Path, config: Settings) -> socket.socket:
    """Listen, and close each connection at once, as a server that does not speak TLS may."""
    listener = socket.create_server(("127.0.0.1", 0))
    config["address"] = f"127.0.0.1:{listener.getsockname()[1]}"
    return listener


def _file_for_directory(directory: Path, config: Settings) -> None:
    (directory / "file").touch()
    config["keystore"] = {"fs": {"path": str(directory / "file")}}


def _vault(endpoint: str) -> Settings:
    return {"vault": {"endpoint": endpoint, "approle": {"id": "a", "secret": "b"}, "start_timeout": "1s"}}


MISTAKES: Final[Mapping[str, Mistake]] = {
    "no such file": Mistake(
        _remove_file, "config.yml: can't be read: No such file", "configuration: ", "--config names the file"
    ),
    "misspelled field": Mistake(
        _rename_field,
        "adress: unknown field; did you mean 'address'?",
        "adress: unknown field",
        "did you mean 'address'",
    ),
    "wrong indentation": Mistake(_bad_indentation, "not valid YAML: ", "configuration: ", "correct line "),
    "variable that is not set": Mistake(
        _set("admin/identity", "${KES_TEST_NOT_SET}"),
        "the environment variable 'KES_TEST_NOT_SET' is not set",
        "the environment variable 'KES_TEST_NOT_SET' is not set",
        "correct admin.identity in line ",
    ),
    "API key as the admin": Mistake(
        _set("admin/identity", str(ADMIN)),
        f"an API key is a secret: write its identity instead, {ADMIN.identity}",
        f"an API key is a secret: write its identity instead, {ADMIN.identity}",
        "correct admin.identity in line ",
    ),
    "identity that is cut off": Mistake(
        _set("admin/identity", ADMIN.identity[:-1]),
        "it has 63 hex digits, an identity has 64",
        "it has 63 hex digits, an identity has 64",
        "correct admin.identity in line ",
    ),
    "rule that matches nothing": Mistake(
        _set("policy", {"app": {"allow": ["/v1/key/generate"], "identities": ["1" * 64]}}),
        "'/v1/key/generate' matches no API",
        "policies: allow rule '/v1/key/generate' of policy 'app' matches no API",
        "/v1/key/generate/*",
        starts=True,
    ),
    "name in place of an identity": Mistake(
        _set("policy", {"app": {"allow": ["/v1/key/generate/*"], "identities": ["MyApp"]}}),
        "'MyApp' is not 64 hex digits",
        "policies: 'MyApp' in policy 'app' is not an identity",
        "kes identity of",
        starts=True,
    ),
    "key store that is not installed": Mistake(
        _set("keystore", {"redis": {}}),
        "no installed plugin provides it",
        "keystore.redis: no installed plugin provides it",
        "installed: ",
    ),
    "two key stores": Mistake(
        _set("keystore/vault", {"endpoint": "https://127.0.0.1:8200"}),
        "more than one key store",
        "keystore: more than one key store",
        "keep one",
    ),
    "private key that is missing": Mistake(
        _remove_key, "server.key' can't be read: No such file", "certificate: the private key ", "check tls.key"
    ),
    "key of another pair": Mistake(
        _other_key, "does not belong to the certificate", "certificate: the private key ", "use both files of one pair"
    ),
    "key and certificate swapped": Mistake(
        _swap,
        "are tls.key and tls.cert swapped?",
        "certificate: tls.key and tls.cert are swapped",
        "write tls.key: ",
    ),
    "encrypted key": Mistake(
        _encrypt_key, "is encrypted: set tls.password", "certificate: the private key ", "write tls.password: ${"
    ),
    "expired certificate": Mistake(
        _pair(lambda: make_certificate("kes", begins=-9, days=-1)),
        "until then clients refuse this server",
        "server.crt' has expired",
        "put a new one in its place",
        starts=True,
    ),
    "certificate without names": Mistake(
        _pair(lambda: make_certificate("kes", names=())),
        "has no names (subject alternative names)",
        "certificate: it has no subject alternative name",
        "kes identity new ",
        starts=True,
    ),
    "chain in the wrong order": Mistake(
        _reverse_chain,
        "does not belong to the certificate",
        "is in the wrong order",
        "put the server's certificate first",
    ),
    "CA that is missing": Mistake(
        _set("tls/ca", "{}/none.crt"), "none.crt' can't be read", "client CA: tls.ca ", "set tls.ca to a PEM file"
    ),
    "port in use": Mistake(
        _take_port, "is another server running there?", "address: address: ", "see which program it is"
    ),
    "address of another machine": Mistake(
        _set("address", "192.0.2.1:7373"),
        "the machine has no such address",
        "address: address: this machine does not have the address 192.0.2.1",
        "ip -brief address",
    ),
    "host that is not known": Mistake(
        _set("address", "kes.invalid:7373"),
        "can't listen on kes.invalid:7373",
        "address: address: the host 'kes.invalid' is not known",
        "set address to an IP address",
    ),
    "file where a directory should be": Mistake(
        _file_for_directory, "the key directory ", "key store: the key directory ", "has to be a directory"
    ),
    "directory of the audit log that is missing": Mistake(
        _set("audit", {"file": {"path": "{}/none/audit.log"}}), "audit.log", "audit log: the directory ", "install -d "
    ),
    "Vault that does not run": Mistake(
        _set("keystore", _vault("https://127.0.0.1:9")),
        "can't be reached: connection refused",
        "Vault: ",
        "see what is in the way: curl ",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    config: Settings = {
        "address": "127.0.0.1:0",
        "admin": {"identity": ADMIN.identity},
        "tls": dict(write_pair(tmp_path, make_certificate("kes"))),
        "keystore": {"fs": {"path": str(tmp_path / "keys")}},
    }
    made = mistake.make(tmp_path, config)
    text = made if isinstance(made, str) else yaml.safe_dump(config).replace("{}/", f"{tmp_path}/")
    file = tmp_path / "config.yml"
    if text:
        file.write_text(text)
    try:
        if mistake.starts:
            server = start_server(tmp_path, config)
            assert server.stop() == 0
            said = "\n".join(server.errors)
            file.write_text(text)
        else:
            done = run_kes("server", "--config", file)
            said = done.stderr
            assert done.returncode == 1
            assert said.splitlines()[-1].startswith("Error: ") or "\n" in said
        assert mistake.server in said
        assert "Traceback" not in said

        done = run_kes("doctor", "--config", file, "--json")
    finally:
        if isinstance(made, socket.socket):
            made.close()
    findings = json.loads(done.stdout)["findings"]
    bad = [finding for finding in findings if finding["level"] in {"error", "warning"}]
    assert len(bad) == 1, bad
    (found,) = bad
    assert mistake.doctor in f"{found['subject']}: {found['message']}"
    assert mistake.cure in found["cure"]
    assert done.returncode == (1 if found["level"] == "error" else 0)

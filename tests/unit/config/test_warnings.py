"""Warnings about a valid configuration, which `kes config check` and the server both report."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.config import ConfigError, load
from kes_core.config.files import certificate_warnings, check_files
from kes_core.config.load import load_values
from kes_core.identity import APIKey, make_certificate
from kes_core.tls import TLSError
from tests.helpers.certificates import make_credentials
from tests.helpers.server import start_server, write_config

ADMIN = APIKey.generate()
CLIENT = APIKey.generate().identity


def config_file(directory: Path, overrides: Mapping[str, Any]) -> Path:
    return write_config(directory, ADMIN.identity, overrides)


def warnings(directory: Path, overrides: Mapping[str, Any]) -> list[str]:
    return [f"{warning.path}: {warning.message}" for warning in load(config_file(directory, overrides)).warnings]


def test_configuration_without_fault_has_no_warnings(tmp_path: Path) -> None:
    policy = {"p": {"allow": ["/v1/key/*"], "deny": ["/v1/key/delete/*"], "identities": [CLIENT]}}
    assert warnings(tmp_path, {"policy": policy}) == []


def test_rules_that_match_nothing(tmp_path: Path) -> None:
    policy = {"p": {"allow": ["/v1/key/*"], "deny": ["/v1/key/*/secret"], "identities": ["MyApp"]}}
    assert warnings(tmp_path, {"policy": policy}) == [
        (
            "policy.p.deny[0]: '/v1/key/*/secret' matches no API: a * that is not at the end is an ordinary character; "
            "end it at the first *: /v1/key/*"
        ),
        "policy.p.identities[0]: 'MyApp' is not 64 hex digits: no client has this identity",
    ]


def test_warning_has_the_line(tmp_path: Path) -> None:
    path = config_file(tmp_path, {"policy": {"p": {"deny": ["nonsense"]}}})
    lines = path.read_text().splitlines()
    (warning,) = load(path).warnings
    assert "nonsense" in lines[warning.line - 1]


def test_relative_path_and_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = warnings(tmp_path, {"tls": {"key": "server.key", "cert": str(tmp_path / "server.crt")}})
    assert found == [
        f"tls.key: 'server.key' is a path from where the server is started, here {tmp_path}; write the whole path"
    ]


def test_variable_inside_a_longer_text(tmp_path: Path) -> None:
    file = {"path": str(tmp_path / "${HOST}.log"), "chain": True, "key": "not-${SHOWN}"}
    (found,) = warnings(tmp_path, {"audit": {"file": file}})
    assert found.startswith("audit.file.path: '${HOST}' stays as it is in a longer text")


@pytest.mark.parametrize(
    "text",
    [str(ADMIN), str(ADMIN).removeprefix("kes:v1:"), "kes:v1:damaged"],
    ids=["with prefix", "without prefix", "damaged"],
)
@pytest.mark.parametrize("place", ["admin", "policy", "proxy"])
def test_api_key_in_place_of_an_identity(tmp_path: Path, text: str, place: str) -> None:
    """The message names the identity and never repeats the secret."""
    path = config_file(tmp_path, {})
    config = yaml.safe_load(path.read_text())
    config["admin"]["identity"] = "disabled"
    if place == "admin":
        config["admin"]["identity"] = text
    elif place == "policy":
        config["policy"] = {"p": {"identities": [text]}}
    else:
        config["tls"]["proxy"] = {"identities": [text]}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert "an API key is a secret" in message
    assert (ADMIN.identity in message) == (text != "kes:v1:damaged")
    assert text.removeprefix("kes:v1:") not in message


@pytest.mark.parametrize("value", ["", "${KES_EMPTY}"])
def test_empty_values_are_not_set(tmp_path: Path, value: str) -> None:
    path = config_file(tmp_path, {})
    config = yaml.safe_load(path.read_text())
    config |= dict.fromkeys(("address", "workers", "probe", "cache", "policy", "keys", "plugins"), value)
    config["tls"] |= {"password": value, "auth": value, "ca": value, "proxy": value}
    config["log"] = {"error": value, "audit": value}
    config["keystore"] = {"memory": {}, "fs": value}
    path.write_text(yaml.safe_dump(config))
    found = load(path, environ={"KES_EMPTY": ""}).config
    assert (found.address, found.workers, found.probe, found.keystore.backend.name) == (
        "0.0.0.0:7373",
        1,
        None,
        "memory",
    )
    assert (found.tls.ca, found.tls.auth, found.cache.expiry.any, found.log.error) == ("", False, 300.0, 0)


def test_another_process_makes_the_same_configuration_of_the_values(tmp_path: Path) -> None:
    overrides = {"policy": {"p": {"allow": ["/v1/status"]}}, "log": {"error": "${LEVEL}"}, "keystore": {"memory": None}}
    loaded = load(config_file(tmp_path, overrides), environ={"LEVEL": "warn"}, overrides={"address": "127.0.0.1:1"})
    again = load_values(loaded.values, filename=loaded.filename, plugins=loaded.plugins)
    assert again.config == loaded.config
    assert (again.config.address, again.config.log.error) == ("127.0.0.1:1", 4)


def test_blocked_plugin_is_not_loaded(tmp_path: Path) -> None:
    assert "fs" in load(config_file(tmp_path, {})).plugins.backends
    path = config_file(tmp_path, {"plugins": {"block": ["kes-fs"]}})
    assert "fs" not in load(path).plugins.backends


def test_ca_that_does_not_exist_is_an_error_even_if_nothing_needs_it(tmp_path: Path) -> None:
    path = config_file(tmp_path, {})
    overrides = {"tls.ca": str(tmp_path / "missing.pem")}
    with pytest.raises(TLSError, match=r"missing\.pem' can't be read: No such file"):
        check_files(load(path, overrides=overrides).config)


def test_certificate_without_names(tmp_path: Path) -> None:
    config = load(config_file(tmp_path, {})).config
    assert certificate_warnings(config) == ()
    key = make_credentials(tmp_path, "nameless").api_key.private_key()
    bare = make_certificate(key, subject="kes.example.com", valid_for=dt.timedelta(days=1))
    (tmp_path / "nameless.crt").write_bytes(bare.public_bytes(Encoding.PEM))
    files = {"tls.key": str(tmp_path / "nameless.key"), "tls.cert": str(tmp_path / "nameless.crt")}
    (found,) = check_files(load(tmp_path / "config.yml", overrides=files).config)
    assert "has no names (subject alternative names)" in found


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kes_core.cli", "config", "check", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)


def test_check_and_server_warn_alike(tmp_path: Path) -> None:
    """The server repeats at start and at each reload what `kes config check` prints."""
    server = start_server(tmp_path, {"policy": {"p": {"deny": ["/v1/key/*/secret"]}}})
    try:
        done = check(server.config_path)
        assert done.returncode == 0
        warning = done.stderr.removeprefix("warning: ").strip()
        assert warning.startswith(f"{server.config_path}:")
        logged = [json.loads(line)["message"] for line in server.errors if '"WARNING"' in line]
        assert logged == [warning]
        server.signal(signal.SIGHUP)
        assert json.loads(server.wait_for_log("WARNING"))["message"] == warning
    finally:
        server.stop()


def test_check_and_server_refuse_alike(tmp_path: Path) -> None:
    path = config_file(tmp_path, {})
    config = yaml.safe_load(path.read_text())
    config["tls"]["ca"] = str(tmp_path / "missing.pem")
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "kes_core.cli", "server", "--config", str(path)]
    start = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60)
    for done in (check(path), start):
        assert done.returncode == 1
        assert "missing.pem' can't be read: No such file or directory" in done.stderr

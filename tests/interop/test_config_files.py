"""The server takes the configuration files of operators of the Go server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kes_core.cli.config import command
from kes_core.config import Config, load
from kes_core.config.files import check_files
from kes_vault.config import VaultConfig
from tests.helpers.certificates import make_server_certificate
from tests.helpers.server import start_server

FILES = sorted((Path(__file__).parent / "config").iterdir())


def load_copy(name: str, directory: Path) -> tuple[Path, Config]:
    """Load a file of the folder `config` where its certificate is."""
    make_server_certificate(directory)
    copy = Path(shutil.copy(Path(__file__).parent / "config" / name, directory))
    return copy, load(copy).config


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KES_EMPTY", "")


def check(copy: Path) -> tuple[int, str]:
    done = CliRunner().invoke(command, ["check", str(copy)])
    return done.exit_code, done.output or str(done.exception)


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_file_can_be_used(file: Path, tmp_path: Path) -> None:
    copy, config = load_copy(file.name, tmp_path)
    code, text = check(copy)
    assert code == 0, text
    check_files(config)
    assert config.keystore.backend.name == ("vault" if file.name == "vault.yml" else "fs")


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_file_without_libyaml(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pure parser reads the same. It refuses some tabs, and says where."""
    copy, config = load_copy(file.name, tmp_path)
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    if file.name.startswith("tabs"):
        code, text = check(copy)
        assert code == 1
        assert "not valid YAML" in text
    else:
        assert load(copy).config == config


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "vault.yml"], ids=lambda file: file.name)
def test_server_starts_with_the_file(file: Path, tmp_path: Path) -> None:
    copy, _config = load_copy(file.name, tmp_path)
    server = start_server(tmp_path, arguments=["--config", str(copy), "--addr", "127.0.0.1:0"])
    assert (tmp_path / "keys").is_dir()
    assert server.stop() == 0


def test_what_is_empty_has_its_default(tmp_path: Path) -> None:
    _copy, config = load_copy("every-field.yml", tmp_path)
    tls = config.tls
    assert (config.port, tls.auth, tls.ca, tls.password) == (7373, False, "", None)
    assert config.tls.proxy.header.cert == "X-Tls-Client-Cert"
    assert config.api["/v1/ready"].skip_auth is False
    assert config.policy["app"].deny == ()
    assert config.log.error == 0


def test_empty_fields_of_vault_have_their_defaults(tmp_path: Path) -> None:
    _copy, config = load_copy("vault.yml", tmp_path)
    vault = config.keystore.config
    assert config.address == "0.0.0.0:7373"
    assert isinstance(vault, VaultConfig)
    assert (vault.engine, vault.version, vault.namespace, vault.prefix) == ("kv", "v1", "", "")
    assert (vault.transit, vault.kubernetes, vault.tls.ca) == (None, None, "")
    assert vault.approle is not None
    assert (vault.approle.engine, vault.approle.namespace, vault.approle.retry) == ("approle", None, 15)

"""The server starts with the configuration files of operators of the Go server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kes_core.cli.config import command
from kes_core.config import load
from kes_core.config.files import check_files
from kes_core.plugins import load_plugins
from tests.helpers.certificates import make_server_certificate

FILES = sorted((Path(__file__).parent / "config").iterdir())


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_file_can_be_used(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_server_certificate(tmp_path)
    copy = Path(shutil.copy(file, tmp_path))
    done = CliRunner().invoke(command, ["check", str(copy)])
    assert done.exit_code == 0, done.output
    config = load(copy, plugins=load_plugins()).config
    check_files(config)
    assert config.keystore.backend.name == "fs"


def test_what_is_empty_has_its_default() -> None:
    config = load(Path(__file__).parent / "config" / "every-field.yml", plugins=load_plugins()).config
    tls = config.tls
    assert (config.port, tls.auth, tls.ca, tls.password) == (7373, False, "", None)
    assert config.tls.proxy.header.cert == "X-Tls-Client-Cert"
    assert config.api["/v1/ready"].skip_auth is False
    assert config.policy["app"].deny == ()
    assert config.log.error == 0

"""`kes config` and `kes plugins`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.helpers.certificates import make_server_certificate
from tests.helpers.command import KES, kes, kes_here, on_a_terminal
from tests.helpers.server import write_config

ADMIN = "c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a working plugin, and one that ends the process that imports it."""
    folder = tmp_path / "site"
    for name, source in {"good": "kes_hookspec_version = 1\n", "nasty": "raise SystemExit('imported')\n"}.items():
        info = folder / f"kes_{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"kes_{name}_plugin.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kes-{name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[kes]\n{name} = kes_{name}_plugin\n")
    return folder


def test_check(tmp_path: Path) -> None:
    path = write_config(tmp_path, ADMIN)
    for arguments in (["config.yml"], ["--config", "config.yml"]):
        assert kes_here("config", "check", *arguments, cwd=tmp_path).stdout == "config.yml: ok\n"
    for arguments in ([], ["config.yml", "--config", "config.yml"]):
        assert "Give one configuration: FILE, or --config FILE." in (
            kes_here("config", "check", *arguments, cwd=tmp_path, code=2).stderr
        )
    path.write_text(path.read_text().replace("address:", "adress:") + "keys:\n- name: .\n")
    found = kes_here("config", "check", "config.yml", cwd=tmp_path, code=1).stderr.splitlines()
    assert len(found) == 2
    assert found[0].startswith("Error: config.yml:1: adress: unknown field; did you mean 'address'?")
    assert found[1].startswith("config.yml:10: keys[0].name: ")
    missing = kes_here("config", "check", "none.yml", cwd=tmp_path, code=1).stderr
    assert missing == "Error: none.yml: can't be read: No such file or directory\n"


def test_check_looks_at_the_certificate(tmp_path: Path) -> None:
    write_config(tmp_path, ADMIN)
    other = tmp_path / "other"
    other.mkdir()
    key, _cert = make_server_certificate(other)
    (tmp_path / "server.key").write_bytes(key.read_bytes())
    error = kes_here("config", "check", "config.yml", cwd=tmp_path, code=1).stderr
    assert error.startswith("Error: config.yml: tls: ")
    assert error.count("\n") == 1
    (tmp_path / "server.key").unlink()
    assert "server.key" in kes_here("config", "check", "config.yml", cwd=tmp_path, code=1).stderr


def test_check_names_line_and_field_in_plugins_sections(tmp_path: Path) -> None:
    write_config(tmp_path, ADMIN, {"keystore": {"vault": {"endpoint": "vault:8200", "aprole": {}}}})
    error = kes_here("config", "check", "config.yml", cwd=tmp_path, code=1).stderr
    assert "config.yml:9: keystore.vault.endpoint: 'vault:8200' is not the URL of a Vault server" in error
    assert "config.yml:10: keystore.vault.aprole: unknown field; did you mean 'approle'?" in error


def test_show(tmp_path: Path) -> None:
    section = {"endpoint": "https://v", "approle": {"id": "i", "secret": "${SECRET}"}}
    write_config(tmp_path, ADMIN, {"keystore": {"vault": section}})
    out = kes_here("config", "show", "config.yml", cwd=tmp_path, environment={"SECRET": "hunter2"}).stdout
    assert "hunter2" not in out
    found = yaml.safe_load(out)["keystore"]["vault"]
    assert found["approle"] == {"engine": "approle", "id": "i", "retry": "5s", "secret": "*" * 10} | {
        "secret_file": "",
        "secret_wrapped": "off",
    }
    assert found["status"] == {"ping": "10s"}


def test_schema(tmp_path: Path) -> None:
    schema = json.loads(kes_here("config", "schema", cwd=tmp_path).stdout)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    write_config(tmp_path, ADMIN)
    Draft202012Validator(schema).validate(yaml.safe_load((tmp_path / "config.yml").read_text()))


def test_plugins(tmp_path: Path, site: Path) -> None:
    environment = {"PYTHONPATH": str(site)}
    listed = json.loads(kes("plugins", "--json", cwd=tmp_path, environment=environment).stdout)
    found = {plugin["name"]: plugin for plugin in listed}
    assert found["memory"]["distribution"] == "kes-core"
    assert found["fs"]["backends"] == ["fs"]
    assert found["good"] | {"distribution": "kes-good", "version": "1.2", "error": None} == found["good"]
    assert (
        found["nasty"]["error"]
        == "plugin 'nasty' of kes-nasty 1.2: can't be imported: SystemExit; `kes plugins --debug` shows more"
    )
    shown = on_a_terminal("plugins", cwd=tmp_path, environment=environment)
    assert "key store fs" in shown
    assert "skipped: plugin 'nasty'" in shown


@pytest.mark.parametrize("name", ["nasty", "kes-nasty"])
def test_blocked_plugin_is_not_imported(tmp_path: Path, site: Path, name: str) -> None:
    (site / "kes_nasty_plugin.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    write_config(tmp_path, ADMIN, {"plugins": {"block": [name, "kes-elsewhere"]}})
    environment = {"PYTHONPATH": str(site)}
    done = kes_with_warning("plugins", "--json", "--config", "config.yml", cwd=tmp_path, environment=environment)
    found = {plugin["name"]: plugin for plugin in json.loads(done)}
    assert found["nasty"]["blocked"]
    assert found["nasty"]["error"] == "plugin 'nasty' of kes-nasty 1.2: it is blocked by plugins.block"
    assert not (tmp_path / "imported").exists()
    kes("plugins", cwd=tmp_path, environment=environment)
    assert (tmp_path / "imported").exists()


def kes_with_warning(*arguments: str, cwd: Path, environment: dict[str, str]) -> str:

    done = subprocess.run(
        [*KES, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stderr == "plugins.block names 'kes-elsewhere', and no plugin of that name is installed\n"
    return done.stdout


def test_configuration_that_needs_a_blocked_plugin(tmp_path: Path) -> None:
    blocks = {"keystore": {"fs": {"path": "x"}}, "plugins": {"block": ["fs"]}}
    write_config(tmp_path, ADMIN, blocks)
    for command in (("config", "check", "config.yml"), ("server", "--config", "config.yml")):
        assert kes(*command, cwd=tmp_path, code=1).stderr == (
            "Error: config.yml:8: keystore.fs: the plugin that should provide it was skipped: plugin 'fs' of kes-fs "
            "0.1.0: it is blocked by plugins.block\n"
        )
    write_config(tmp_path, ADMIN, {"plugins": {"block": ["kes-core"]}})
    error = kes("config", "check", "config.yml", cwd=tmp_path, code=1).stderr
    assert "plugins.block: can't block 'kes-core': the server does not work without it" in error

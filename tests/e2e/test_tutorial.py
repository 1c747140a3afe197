"""The tutorials: their commands and their code work in order, up to a server that runs on the tutorial's plugin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kes_core.client import NotAllowedError
from kes_core.identity import APIKey
from kes_core.testing import RunningServer
from tests.helpers.command import kes
from tests.helpers.documents import blocks
from tests.helpers.packages import check_types_and_style, install, run_tests
from tests.helpers.server import start_server


@pytest.mark.slow
def test_tutorial(tmp_path: Path) -> None:
    commands = "".join(blocks("docs/tutorial.md", "sh"))
    settings, store, contract = blocks("docs/tutorial.md", "python")
    (section,) = blocks("docs/tutorial.md", "yaml")
    assert "kes plugin new kes-shelf --kind keystore\n" in commands
    kes("plugin", "new", "kes-shelf", "--kind", "keystore", cwd=tmp_path)
    folder = tmp_path / "kes-shelf"
    install(folder)
    failed, output = run_tests(folder)
    assert failed
    assert "write me" in output
    plugin = folder / "kes_shelf" / "__init__.py"
    plugin.write_text(settings)
    (folder / "kes_shelf" / "store.py").write_text(store)
    (folder / "tests" / "test_contract.py").write_text(contract)
    failed, output = run_tests(folder)
    assert failed == set(), output
    not_applicable = (
        "unreachable_store_says_so store_works_after_outage store_shows_no_credential outage_shows_no_secret"
    )
    assert f"not applicable: {not_applicable}" in output
    check_types_and_style(folder)
    environment = {"PYTHONPATH": str(folder)}
    plugins = kes("plugins", cwd=tmp_path, environment=environment).stdout
    assert re.search(r"^shelf +kes-shelf +0\.1\.0 +key store shelf$", plugins, re.MULTILINE)
    for _ in range(2):  # the key is there after a restart
        server = start_server(tmp_path, yaml.safe_load(section), environment=environment)
        try:
            assert kes("config", "check", "config.yml", cwd=tmp_path, environment=environment).stdout
            with server.client() as client:
                assert client.put("/v1/key/create/my-key").status_code in {200, 400}
                assert client.get("/v1/key/list/").json()["names"] == ["my-key"]
                assert client.put("/v1/key/generate/my-key", json={}).status_code == 200
        finally:
            server.stop()


@pytest.mark.slow
def test_policy_tutorial(tmp_path: Path, kes_server: Callable[..., RunningServer]) -> None:
    engine, contract, rules = blocks("docs/policy-tutorial.md", "python")
    (section,) = blocks("docs/policy-tutorial.md", "yaml")
    assert "kes plugin new kes-teams --kind policy\n" in blocks("docs/policy-tutorial.md", "sh")
    kes("plugin", "new", "kes-teams", "--kind", "policy", cwd=tmp_path)
    folder = tmp_path / "kes-teams"
    install(folder)
    (folder / "kes_teams" / "engine.py").write_text(engine)
    (folder / "tests" / "test_contract.py").write_text(contract)
    (folder / "tests" / "test_plugin.py").unlink()
    (folder / "tests" / "test_rules.py").write_text(rules)
    failed, output = run_tests(folder)
    assert failed == set(), output
    assert "not applicable: engine_shows_no_credential\n" in output
    check_types_and_style(folder)

    blue, teams = APIKey.generate(), tmp_path / "teams.json"
    teams.write_text(json.dumps({"blue": [blue.identity]}))
    sections = yaml.safe_load(section)
    sections["policy_engines"]["teams"]["file"] = str(teams)
    keys = {"keys": [{"name": "blue-1"}, {"name": "red-1"}]}
    server = kes_server(sections | keys, {"PYTHONPATH": str(folder)})
    with server.client(blue) as client:
        client.generate_data_key("blue-1")
        with pytest.raises(NotAllowedError):
            client.generate_data_key("red-1")
        teams.write_text("{")
        with pytest.raises(RuntimeError, match="is not JSON"):
            server.reload()
        client.generate_data_key("blue-1")
        teams.write_text(json.dumps({"red": [blue.identity]}))
        server.reload()
        client.generate_data_key("red-1")
        with pytest.raises(NotAllowedError):
            client.generate_data_key("blue-1")

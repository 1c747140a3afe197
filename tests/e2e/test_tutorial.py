"""The tutorial: its commands and its code work in order, up to a server that runs on the tutorial's store."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.helpers.command import kes
from tests.helpers.documents import blocks
from tests.helpers.packages import check_types_and_style, install, run_tests
from tests.helpers.server import start_server


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
    text = plugin.read_text()
    head, rest = text.split("class Config(Section):")
    plugin.write_text(head + settings + "\n\n" + rest[rest.index("async def _connect") :])
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

"""`kes plugin new`: its tests fail only for the missing code, and pass once the author has written it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kes_core.cli.plugin import _FILES
from tests.helpers.command import kes
from tests.helpers.packages import check_types_and_style, install, run_tests
from tests.helpers.server import start_server

STORE = """
    def __init__(self, config: Config) -> None:
        self._values: dict[str, bytes] = {}

    @classmethod
    async def connect(cls, config: Config, context: PluginContext) -> AcmeStoreKeyStore:
        return cls(config)

    async def status(self) -> None:
        return

    async def create(self, name: str, value: bytes) -> None:
        if name in self._values:
            raise EntryExistsError(f"key {name!r} already exists")
        self._values[name] = value

    async def get(self, name: str) -> bytes:
        try:
            return self._values[name]
        except KeyError:
            raise EntryNotFoundError(f"key {name!r} does not exist") from None

    async def delete(self, name: str) -> None:
        if self._values.pop(name, None) is None:
            raise EntryNotFoundError(f"key {name!r} does not exist")

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return page_of(self._values, prefix, start=start, limit=limit)
"""
ENGINE = """
    def __init__(self, config: Config, context: PluginContext) -> None:
        self._config = config

    async def authorize(self, request: PolicyRequest) -> Verdict:
        return Verdict(Decision.ABSTAIN, "it has nothing to say")
"""


def generate(directory: Path, kind: str) -> Path:
    """Create a package from the template and install it."""
    shown = kes("plugin", "new", "kes-acme-store", "--kind", kind, cwd=directory).stdout
    assert "cd kes-acme-store" in shown
    folder = directory / "kes-acme-store"
    install(folder)
    return folder


def fill_in(path: Path, code: str, imports: str) -> None:
    """Write the author's part of the code."""
    head, _, _ = path.read_text().partition("    def __init__")
    path.write_text(head.rstrip("\n") + "\n" + code)
    text = path.read_text()
    path.write_text(re.sub(r"from kes_core import [^\n]*", f"from kes_core import {imports}", text, count=1))


@pytest.mark.parametrize("kind", _FILES)
def test_only_the_unwritten_parts_fail(tmp_path: Path, kind: str) -> None:
    folder = generate(tmp_path, kind)
    check_types_and_style(folder)
    failed, output = run_tests(folder)
    assert failed
    assert all("test_contract.py" in test for test in failed)
    assert "write me: " in output
    broken = re.findall(r"^(\w+: .* — .*)$", output, re.MULTILINE)
    assert broken or kind == "sink"  # what a sink delivers is for its author to find out
    for line in broken:
        assert "write me: " in line, line
    assert "test_plugin.py" not in output.partition("FAILED")[2]


def test_store_that_is_filled_in_keeps_the_contract_and_serves(tmp_path: Path) -> None:
    folder = generate(tmp_path, "keystore")
    imports = "EntryExistsError, EntryNotFoundError, KeyStore, Page, PluginContext, page_of"
    fill_in(folder / "kes_acme_store" / "store.py", STORE, imports)
    failed, output = run_tests(folder)
    assert failed == set(), output
    environment = {"PYTHONPATH": str(folder)}
    plugins = json.loads(kes("plugins", "--json", cwd=tmp_path, environment=environment).stdout)
    assert ["acme-store"] in [plugin["backends"] for plugin in plugins]
    overrides = {"keystore": {"acme-store": {"url": "https://example.org"}}}
    server = start_server(tmp_path, overrides, environment=environment)
    try:
        with server.client() as client:
            assert client.put("/v1/key/create/my-key").status_code == 200
            assert client.put("/v1/key/generate/my-key", json={}).status_code == 200
    finally:
        server.kill()


def test_engine_that_is_filled_in_keeps_the_contract(tmp_path: Path) -> None:
    folder = generate(tmp_path, "policy")
    fill_in(
        folder / "kes_acme_store" / "engine.py", ENGINE, "Decision, PluginContext, PolicyEngine, PolicyRequest, Verdict"
    )
    failed, output = run_tests(folder)
    assert failed == set(), output


def test_sink_that_is_filled_in_keeps_the_contract(tmp_path: Path) -> None:
    folder = generate(tmp_path, "sink")
    sink, test = folder / "kes_acme_store" / "sink.py", folder / "tests" / "test_contract.py"
    sink.write_text(
        sink.read_text().replace('raise NotImplementedError("write me: write()")', "RECEIVED.extend(records)")
    )
    sink.write_text(sink.read_text().replace("\n\nclass ", "\nRECEIVED: list[Mapping[str, Any]] = []\n\n\nclass ", 1))
    text = test.read_text().replace('raise NotImplementedError("write me: delivered()")', "return RECEIVED")
    text = text.replace("sink import AcmeStoreAuditSink", "sink import RECEIVED, AcmeStoreAuditSink")
    test.write_text(text.replace("        return AcmeStore", "        RECEIVED.clear()\n        return AcmeStore"))
    failed, output = run_tests(folder)
    assert failed == set(), output


@pytest.mark.parametrize("name", ["", "Kes-Store", "kes_store", "kes-", "-x", "1st", "kes--x", "class", "kes-é", "a/b"])
def test_invalid_package_names(tmp_path: Path, name: str) -> None:
    arguments = ("--", name) if name.startswith("-") else (name,)
    error = kes("plugin", "new", "--kind", "policy", *arguments, cwd=tmp_path, code=1).stderr
    assert "is not a valid name for a package: expected lower-case words with dashes, as in kes-mystore" in error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "kes-acme-store"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    error = kes("plugin", "new", "kes-acme-store", "--kind", "policy", cwd=tmp_path, code=1).stderr
    assert error == "Error: kes-acme-store is there already and not empty: choose another folder with --output\n"
    assert [path.name for path in folder.iterdir()] == ["precious"]

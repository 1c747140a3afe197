"""`kes plugin new`: its tests fail only for the missing code, and pass once the author has written it."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Final

import pytest

from kes_core.cli.plugin import _FILES
from tests.helpers.command import kes, kes_here
from tests.helpers.packages import check_types_and_style, install, run_tests
from tests.helpers.server import start_server

MODULES: Final = {"keystore": "store.py", "policy": "engine.py", "sink": "sink.py", "frontend": "frontend.py"}
SERVICE: Final = """
OUTAGE: list[bool] = []


def _answer() -> None:
    if OUTAGE:
        raise ConnectionError("no answer")
"""
STORE: Final = {
    "status()": "_answer()",
    "create()": """
        _answer()
        if name in DATA[self._config.prefix]:
            raise EntryExistsError(f"key {name!r} already exists")
        DATA[self._config.prefix][name] = value
    """,
    "get()": """
        _answer()
        if name not in DATA[self._config.prefix]:
            raise EntryNotFoundError(f"key {name!r} does not exist")
        return DATA[self._config.prefix][name]
    """,
    "delete()": """
        _answer()
        if DATA[self._config.prefix].pop(name, None) is None:
            raise EntryNotFoundError(f"key {name!r} does not exist")
    """,
    "list()": """
        _answer()
        return page_of(DATA[self._config.prefix], prefix, start=start, limit=limit)
    """,
}
ENGINE: Final = {
    "authorize()": """
        decision = Decision(self.rules.get(request.identity, "abstain"))
        return Verdict(decision, f"the rule is {decision.value}")
    """
}
SINK: Final = {
    "_send()": """
        _answer()
        RECEIVED.extend(records)
    """
}
FRONTEND: Final = {
    "_answer()": """
        operation, _, data = request.decode().partition(" ")
        key = (self._config.identity, self._config.key, bytes.fromhex(data))
        if operation == "e":
            return (await self._keys.encrypt(*key)).ciphertext.hex().encode()
        return (await self._keys.decrypt(*key)).hex().encode()
    """,
    "_refusal()": "return b'error'",
}
CLIENT: Final = {
    "encrypt()": "return bytes.fromhex((await self.ask(f'e {plaintext.hex()}'.encode())).decode())",
    "decrypt()": "return bytes.fromhex((await self.ask(f'd {ciphertext.hex()}'.encode())).decode())",
}
OUTAGES: Final = {"Service.stop()": "OUTAGE.append(True)", "Service.start()": "OUTAGE.clear()"}
DOCTOR: Final = """
import asyncio
from kes_core import PluginContext
from kes_full_{kind} import Config, _diagnose

def test_findings(tmp_path):
    (tmp_path / "rules.json").write_text("{{}}")
    findings = asyncio.run(_diagnose(Config({field}), PluginContext(directory=tmp_path)))
    assert [finding.level for finding in findings] == {levels}
"""


def write(path: Path, parts: dict[str, str], *, above: str = "", imports: str = "") -> None:
    """Write the author's part of a module: the code instead of each "write me", and what stands above its class."""
    text = path.read_text()
    for part, code in parts.items():
        line = re.compile(rf"^( *)raise NotImplementedError\(\"write me: {re.escape(part)}\"\)$", re.MULTILINE)
        assert len(line.findall(text)) == 1, part
        text = line.sub(lambda found, code=code: textwrap.indent(textwrap.dedent(code).strip(), found[1]), text)  # type: ignore[misc]
    text = text.replace("\n\nclass ", f"\n{above}\n\nclass ", 1)
    path.write_text(text.replace("from kes_core import", f"{imports}\nfrom kes_core import", 1))


def fill_in(folder: Path, package: str, kind: str) -> None:
    module, test = folder / package / MODULES[kind], folder / "tests" / "test_contract.py"
    of_module = f"from {package}.{module.stem} import"
    if kind == "keystore":
        above = f"{SERVICE}\nDATA: collections.defaultdict[str, dict[str, bytes]] = collections.defaultdict(dict)\n"
        imports = "import collections\nfrom kes_core import EntryExistsError, EntryNotFoundError, page_of"
        write(module, STORE, above=above, imports=imports)
        write(test, OUTAGES, imports=f"{of_module} OUTAGE")
    elif kind == "policy":
        write(module, ENGINE, imports="from kes_core import Decision")
    elif kind == "frontend":
        write(module, FRONTEND)
        write(test, CLIENT)
    else:
        write(module, SINK, above=f"{SERVICE}\nRECEIVED: list[Mapping[str, Any]] = []\n")
        write(test, OUTAGES | {"Service.received()": "return RECEIVED"}, imports=f"{of_module} OUTAGE, RECEIVED")
        made = "self.service = Service()\n"
        test.write_text(test.read_text().replace(made, f"{made}        RECEIVED.clear()\n"))
    fields = {"policy": 'file="rules.json"', "frontend": 'socket="a", identity="b", key="c"'}
    field = fields.get(kind, 'url="https://example.org"')
    levels = {"keystore": ["warning", "ok"], "policy": ["warning"], "sink": ["warning"], "frontend": ["ok"]}[kind]
    (folder / "tests" / "test_doctor.py").write_text(DOCTOR.format(kind=kind, field=field, levels=levels))


class Packages:
    """A package of each kind; their tests have run. Full ones have an author's code, bare ones are new."""

    def __init__(self, directory: Path, what: str) -> None:
        self.directory = directory
        for kind in _FILES:
            name = f"kes-{what}-{kind}"
            shown = kes_here("plugin", "new", name, "--kind", kind, cwd=directory).stdout
            assert f"cd {name}" in shown
            install(directory / name)
            if what == "full":
                fill_in(directory / name, f"kes_full_{kind}", kind)
        self.failed, self.output = run_tests(directory, *[path.name for path in sorted(directory.iterdir())])

    def failed_of(self, name: str) -> set[str]:
        """Return the failed tests of a package."""
        return {test for test in self.failed if test.startswith(f"{name}/")}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages(tmp_path_factory.mktemp("packages"), "full")


@pytest.mark.slow
def test_only_the_unwritten_parts_fail(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    packages = Packages(tmp_path / "packages", "bare")
    for kind in _FILES:
        check_types_and_style(packages.directory / f"kes-bare-{kind}", cache=tmp_path)
        failed = packages.failed_of(f"kes-bare-{kind}")
        assert failed
        assert all("/test_contract.py::" in test for test in failed)
    broken = re.findall(r"^(\w+: .* — .*)$", packages.output, re.MULTILINE)
    assert broken
    for line in broken:
        assert "write me: " in line, line


@pytest.mark.parametrize("kind", _FILES)
def test_package_that_is_filled_in_keeps_the_whole_contract(packages: Packages, kind: str) -> None:
    assert packages.failed_of(f"kes-full-{kind}") == set(), packages.output[-5000:]
    (kept,) = re.findall(
        rf"(\d+ of \d+) clauses kept by kes-full-{kind}/tests/\S+?(?:,.*)?$", packages.output, re.MULTILINE
    )
    first, last = kept.split(" of ")
    left_out = {"policy": 1, "frontend": 1}  # an engine without credentials, a front end that does not take over
    assert int(first) >= int(last) - left_out.get(kind, 0)


def test_store_that_is_filled_in_serves(packages: Packages, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(packages.directory / "kes-full-keystore")}
    plugins = json.loads(kes("plugins", "--json", cwd=tmp_path, environment=environment).stdout)
    assert ["full-keystore"] in [plugin["backends"] for plugin in plugins]
    overrides = {"keystore": {"full-keystore": {"url": "https://example.org"}}}
    server = start_server(tmp_path, overrides, environment=environment)
    try:
        with server.client() as client:
            assert client.put("/v1/key/create/my-key").status_code == 200
            assert client.put("/v1/key/generate/my-key", json={}).status_code == 200
    finally:
        server.kill()


@pytest.mark.parametrize("name", ["", "Kes-Store", "kes_store", "kes-", "-x", "1st", "kes--x", "class", "kes-é", "a/b"])
def test_invalid_package_names(tmp_path: Path, name: str) -> None:
    arguments = ("--", name) if name.startswith("-") else (name,)
    error = kes_here("plugin", "new", "--kind", "policy", *arguments, cwd=tmp_path, code=1).stderr
    assert "is not a valid name for a package: expected lower-case words with dashes, as in kes-mystore" in error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "kes-acme-store"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    error = kes_here("plugin", "new", "kes-acme-store", "--kind", "policy", cwd=tmp_path, code=1).stderr
    assert error == "Error: kes-acme-store is there already and not empty: choose another folder with --output\n"
    assert [path.name for path in folder.iterdir()] == ["precious"]

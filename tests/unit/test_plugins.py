"""Finding plugins: a broken plugin is skipped and named in one line, and does not affect the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kes_core.plugins import Plugins, load_plugins

Load = Callable[..., Plugins]

GOOD = """
from kes_core import KeyStoreBackend, hookimpl
from kes_core.config import Section
from kes_core.builtin.memory import MemoryKeyStore

kes_hookspec_version = 1

async def connect(config, _context):
    return MemoryKeyStore()

@hookimpl
def kes_keystore_backends():
    return [KeyStoreBackend(name="{name}", config=Section, connect=connect)]
"""


class Distribution:
    """The part of a distribution that an entry point needs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.2"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write plugins as modules, each in its own distribution, and load them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(**sources: str) -> Plugins:
        points = []
        for name, source in sources.items():
            module = f"plugin_{tmp_path.name.replace('-', '_')}_{name}"
            (tmp_path / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
            points.append(EntryPoint(name, module, "kes")._for(Distribution(f"kes-{name}")))  # type: ignore[attr-defined] # what importlib.metadata itself calls
        return load_plugins(points)

    return load


def test_built_in_plugins_and_ours_come_in_through_their_entry_points() -> None:
    plugins = load_plugins()
    found = {info.name: (info.distribution, info.backends + info.engines, info.error) for info in plugins.infos}
    assert found["memory"] == ("kes-core", ("memory",), None)
    assert found["static-policy"] == ("kes-core", ("static",), None)
    assert found["fs"] == ("kes-fs", ("fs",), None)


def test_core_knows_no_plugin_by_name() -> None:
    for file in (Path(__file__).parents[2] / "kes_core").rglob("*.py"):
        assert "kes_cedar" not in file.read_text()
        assert "kes_fs" not in file.read_text()
        assert "kes_vault" not in file.read_text()


def test_broken_plugin_affects_no_other(load: Load) -> None:
    """`tests/plugins/faulty` has what is said of each fault."""
    plugins = load(broken="raise SystemExit(3)", good=GOOD.format(name="good"))
    (info,) = [info for info in plugins.infos if info.error is not None]
    assert info.name == "broken"
    assert set(plugins.backends) == {"good"}
    assert plugins.hook.kes_audit_sinks() == []


def test_hooks_of_plugins_are_called(load: Load) -> None:
    source = GOOD.format(name="listener") + (
        "\nseen = []\n@hookimpl\ndef kes_server_started(server): seen.append(server)\n"
        "@hookimpl\ndef kes_server_stopping(server): seen.remove(server)\n"
    )
    plugins = load(listener=source)
    plugins.hook.kes_server_started(server="the server")
    (info,) = plugins.infos
    assert info.hooks == ("kes_server_started", "kes_server_stopping")


def test_plugin_for_several_versions_of_the_hooks(load: Load) -> None:
    for versions in ("{1, 2}", "range(1, 4)"):
        source = GOOD.format(name="store").replace("kes_hookspec_version = 1", f"kes_hookspec_version = {versions}")
        assert set(load(several=source).backends) == {"store"}


def test_text_of_a_plugins_exception_is_kept_apart(load: Load) -> None:
    """The text may contain a secret, so the message has only the type; `details` has the rest."""
    (info,) = load(broken="raise RuntimeError('password=hunter2')").infos
    assert "hunter2" not in f"{info} {info.error}"
    assert info.details.startswith("RuntimeError: password=hunter2\n")

"""Finding plugins: what is broken is skipped with a line that names it, and breaks nothing else."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pluggy
import pytest

from kes_core import hookspecs
from kes_core.plugins import Plugins, load_plugins

Load = Callable[..., Plugins]

GOOD = """
from kes_core import KeyStoreBackend, hookimpl
from kes_core.config import Section
from kes_core.memory import MemoryKeyStore

kes_hookspec_version = 1

async def connect(config):
    return MemoryKeyStore()

@hookimpl
def kes_keystore_backends():
    return [KeyStoreBackend(name="{name}", config=Section, connect=connect)]
"""


class Distribution:
    """As much of a distribution as an entry point needs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.2"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write plugins as modules, each in a distribution of its own, and load them."""
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


HOOK = "from kes_core import hookimpl\nkes_hookspec_version = 1\n@hookimpl\ndef "

BROKEN = {
    "import missing_dependency_of_this": "can't be imported: ModuleNotFoundError: No module named "
    "'missing_dependency_of_this'; install what it needs: pip install --upgrade kes-broken",
    "raise SystemExit(3)": "can't be imported: SystemExit: 3",
    "raise RuntimeError('two\\nlines')": "can't be imported: RuntimeError: two lines",
    "this is no Python": "can't be imported: SyntaxError: invalid syntax",
    "": "does not say which hook specifications it is for: set kes_hookspec_version = 1",
    "kes_hookspec_version = 99": "is for version 99 of the hook specifications, this is version 1; install a release "
    "of the plugin that fits",
    HOOK + "kes_no_such_hook(): ...": "unknown hook 'kes_no_such_hook' in plugin",
    HOOK + "kes_keystore_backends(config): ...": "hook 'kes_keystore_backends'",
    HOOK + "kes_keystore_backends(): 1 / 0": "its hook "
    "kes_keystore_backends failed: ZeroDivisionError: division by zero",
    HOOK + "kes_keystore_backends(): return 7": "its hook kes_keystore_backends must return a list of KeyStoreBackend",
    HOOK + "kes_policy_engines(): return ['x']": "its hook kes_policy_engines must return a list of PolicyEngineType",
    GOOD.format(name="No Good"): "'No Good' is not a valid name for a key store: expected lower-case words",
    GOOD.format(name="x").replace("config=Section", "config=dict"): "the 'config' of its key store 'x' is not a "
    "pydantic model",
    GOOD.format(name="x").replace("connect=connect", "connect=None"): "the 'connect' of its key store 'x' is not a "
    "function",
}


@pytest.mark.parametrize("source", BROKEN, ids=range(len(BROKEN)))
def test_broken_plugin_is_skipped_with_one_line(source: str, load: Load) -> None:
    plugins = load(broken=source, good=GOOD.format(name="good"))
    (info,) = [info for info in plugins.infos if info.name == "broken"]
    assert info.error is not None
    assert info.error.startswith("plugin 'broken' of kes-broken 1.2: ")
    assert BROKEN[source] in info.error
    assert "\n" not in info.error
    assert set(plugins.backends) == {"good"}
    assert plugins.hook.kes_audit_sinks() == []
    reason = plugins.why_not("broken")
    assert reason is not None
    assert info.error in reason


def test_name_that_is_taken(load: Load) -> None:
    plugins = load(first=GOOD.format(name="store"), second=GOOD.format(name="store"))
    errors = {info.name: info.error for info in plugins.infos}
    assert errors["first"] is None
    assert errors["second"] == (
        "plugin 'second' of kes-second 1.2: the name 'store' of its key store is taken by another plugin"
    )


def test_hooks_of_plugins_are_called(load: Load) -> None:
    source = GOOD.format(name="listener") + (
        "\nseen = []\n@hookimpl\ndef kes_server_started(server): seen.append(server)\n"
        "@hookimpl\ndef kes_audit_sinks(): return ['sink']\n"
    )
    plugins = load(listener=source)
    plugins.hook.kes_server_started(server="the server")
    assert plugins.hook.kes_audit_sinks() == [["sink"]]


def test_deprecated_hook_goes_on_working_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """None of the specifications is deprecated today; here is one that is."""
    specifications = types.ModuleType("specifications")
    specifications.__dict__.update(vars(hookspecs))

    @pluggy.HookspecMarker("kes")(warn_on_impl=DeprecationWarning("kes_old is deprecated: implement kes_new"))
    def kes_old() -> str:
        """Return a word."""
        return ""

    specifications.kes_old = kes_old  # type: ignore[attr-defined] # a specification of this test's own
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "old_plugin_of_this_test.py").write_text(HOOK + "kes_old(): return 'still works'\n")
    point = EntryPoint("old", "old_plugin_of_this_test", "kes")._for(Distribution("kes-old"))  # type: ignore[attr-defined] # as above
    plugins = load_plugins([point], specifications=specifications)
    assert plugins.hook.kes_old() == ["still works"]
    assert [record.getMessage() for record in caplog.records] == [
        "plugin 'old' of kes-old 1.2: kes_old is deprecated: implement kes_new"
    ]
    assert plugins.infos[-1].hooks == ("kes_old",)


@pytest.mark.parametrize("field", ["diagnose", "access_policy"])
def test_backend_whose_doctor_is_no_function(load: Load, field: str) -> None:
    source = GOOD.format(name="odd").replace("connect=connect)", f"connect=connect, {field}='text')")
    (info,) = load(odd=source).infos
    assert info.error is not None
    assert f"the '{field}' of its key store 'odd' is not a function" in info.error

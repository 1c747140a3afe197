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


HOOK = "from kes_core import hookimpl\nkes_hookspec_version = 1\n@hookimpl\ndef "

BROKEN = {
    "import missing_dependency_of_this": "can't be imported: the module 'missing_dependency_of_this' is missing; "
    "install what it needs: pip install --upgrade kes-broken",
    "raise SystemExit(3)": "can't be imported: SystemExit; `kes plugins --debug` shows more",
    "raise RuntimeError('two\\nlines')": "can't be imported: RuntimeError; `kes plugins --debug` shows more",
    "this is no Python": "can't be imported: SyntaxError; `kes plugins --debug` shows more",
    "": "does not say which hook specifications it is for: set kes_hookspec_version = 1",
    "kes_hookspec_version = 99": "is for version 99 of the hook specifications, this is version 1; install a release "
    "of the plugin that fits",
    HOOK + "kes_no_such_hook(): ...": "unknown hook 'kes_no_such_hook' in plugin",
    HOOK + "kes_keystore_backends(config): ...": "hook 'kes_keystore_backends'",
    HOOK + "kes_keystore_backends(): 1 / 0": "its hook "
    "kes_keystore_backends failed: ZeroDivisionError; `kes plugins --debug` shows more",
    HOOK + "kes_keystore_backends(): return 7": "its hook kes_keystore_backends must return a list of KeyStoreBackend",
    HOOK + "kes_policy_engines(): return ['x']": "its hook kes_policy_engines must return a list of PolicyEngineType",
    GOOD.format(name="No Good"): "'No Good' is not a valid name for a key store: expected lower-case words",
    GOOD.format(name="x").replace("config=Section", "config=dict"): "the 'config' of its key store 'x' is not a "
    "pydantic model",
    HOOK + "kes_keystore_backends(): pass": "its hook kes_keystore_backends must return a list of KeyStoreBackend, and "
    "returned NoneType",
    HOOK.removesuffix("def ")
    + "async def kes_server_started(server): ...": "its hook kes_server_started must not be an 'async def' function",
    GOOD.format(name="x").replace("async def", "def"): "the 'connect' of its key store 'x' is not an 'async def' "
    "function",
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


def test_name_that_two_plugins_offer_is_refused(load: Load) -> None:
    sources = {name: GOOD.format(name="store") for name in ("first", "second", "third")}
    plugins = load(**sources, unrelated=GOOD.format(name="other"))
    errors = {info.name: info.error for info in plugins.infos}
    text = "plugin '{0}' of kes-{0} 1.2: the name 'store' of its key store is also offered by the plugin '{1}' of "
    text += "kes-{1} 1.2; block one of them"
    assert errors == {
        "first": text.format("first", "second"),
        "second": text.format("second", "first"),
        "third": text.format("third", "first"),
        "unrelated": None,
    }
    assert set(plugins.backends) == {"other"}
    assert plugins.why_not("store") is not None


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


@pytest.mark.parametrize("field", ["diagnose", "access_policy"])
def test_backend_whose_doctor_is_no_function(load: Load, field: str) -> None:
    source = GOOD.format(name="odd").replace("connect=connect)", f"connect=connect, {field}='text')")
    (info,) = load(odd=source).infos
    assert info.error is not None
    assert f"the '{field}' of its key store 'odd' is not a function" in info.error

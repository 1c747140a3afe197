"""Each faulty plugin is answered with the exact lines of `answers.txt`, and leaves nothing behind."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from kes_core import faults, hookspecs
from kes_core.boundary import calls, engines, frontends, hooks, stores
from kes_core.cli.main import _run
from kes_core.plugins import load_plugins
from kes_core.server import watchdog
from tests.helpers.certificates import make_credentials
from tests.helpers.pytest_runs import run_pytest
from tests.plugins.faulty import commands, loading
from tests.plugins.faulty.bases import SECRET
from tests.plugins.faulty.stages import OWN, Stage, entry_point

HERE: Final = Path(__file__).parent
MODULES: Final = (
    "loading",
    "sections",
    "stores",
    "listings",
    "metrics",
    "closing",
    "engines",
    "sinks",
    "frontends",
    "blocking",
    "hooks",
    "doctors",
    "kit",
)
ANY: Final = "…"
"""Stands for a variable part of a line."""
ELSEWHERE: Final = {"kit", "command"}
"""The stages that this module does not find in `Stage`."""


def answers() -> dict[tuple[str, str], list[str]]:
    """Return the lines of `answers.txt` by fault and stage, which their indentation tells apart."""
    found: dict[tuple[str, str], list[str]] = {}
    fault = stage = ""
    for line in (HERE / "answers.txt").read_text("utf-8").splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if not text or line.startswith("#"):
            continue
        if depth == 0:
            fault = text
        elif depth == 2:
            stage = text
            assert (fault, stage) not in found, f"{fault} {stage} is there twice"
            found[fault, stage] = []
        else:
            assert depth == 4, line
            found[fault, stage].append(text)
    return found


ANSWERS: Final = answers()


def fits(found: list[str], wanted: list[str]) -> bool:
    """Tell whether lines are the wanted ones."""
    patterns = [".*".join(map(re.escape, line.split(ANY))) for line in wanted]
    return len(found) == len(wanted) and all(map(re.fullmatch, patterns, found))


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give plugins less time than a real server: half a second, also on a busy machine."""
    monkeypatch.setattr(calls, "CONNECT_TIMEOUT", 1.0)
    monkeypatch.setattr(calls, "CONNECT_NOTICE", 0.5)
    monkeypatch.setattr(calls, "CLOSE_TIMEOUT", 0.5)
    monkeypatch.setattr(calls, "CANCEL_TIMEOUT", 0.2)
    monkeypatch.setattr(engines, "CANCEL_TIMEOUT", 0.2)
    monkeypatch.setattr(frontends, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(frontends, "READY_TIMEOUT", 0.2)
    monkeypatch.setattr(frontends, "CLOSE_TIMEOUT", 0.2)
    monkeypatch.setattr(stores, "CALL_TIMEOUT", 0.5)
    monkeypatch.setattr(stores, "THROTTLE_TIME", 0.2)
    monkeypatch.setattr(hooks, "HOOK_TIMEOUT", 0.5)
    monkeypatch.setattr(hookspecs, "_FLUSH_TIME", 0.2)
    monkeypatch.setattr(faults, "END_TIMEOUT", 0.5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gallery")


@pytest.fixture(scope="module")
def identity(directory: Path) -> str:
    return make_credentials(directory, "admin").identity


@pytest.mark.parametrize(
    ("fault", "stage"),
    [pytest.param(*key, id=" ".join(key)) for key in ANSWERS if key[1] not in ELSEWHERE],
)
def test_answer_is_exact(
    fault: str,
    stage: str,
    directory: Path,
    identity: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(directory))
    caplog.set_level("INFO", "kes")
    wanted = ANSWERS[fault, stage]
    tried = Stage(fault, directory, identity, lambda: caplog.messages)
    if tried.blocks:
        monkeypatch.setattr(watchdog, "LIMIT", 0.4)
        monkeypatch.setattr(hookspecs, "_FLUSH_TIME", 0.2)
    elif tried.hangs:
        shorten(monkeypatch)
    requests = [line.partition(" -> ")[0] for line in wanted if re.match(r"(GET|PUT|DELETE) /", line)]
    found = getattr(tried, stage)(requests)
    assert fits(found, wanted), "\n".join(["it answers:", *(f"    {line}" for line in found)])
    shown = "\n".join([*found, caplog.text, *capfd.readouterr()])
    assert SECRET not in shown
    assert "Traceback" not in shown


def test_each_fault_of_the_modules_has_an_answer() -> None:
    faulty = {f"commands.{name}" for name in commands.SOURCES} | {f"loading.{name}" for name in loading.SOURCES}
    for module in MODULES:
        source = (HERE / f"{module}.py").read_text("utf-8")
        faulty |= {
            f"{module}.{name}"
            for name in re.findall(r"^(?:class )?([A-Z]\w*[a-z]\w*)(?=[(:]| = )", source, re.MULTILINE)
        }
    assert faulty == {fault for fault, _stage in ANSWERS}
    assert len(faulty) >= 45


def test_name_that_several_packages_offer() -> None:
    kinds = {
        "one": "bases:FaultyStore",
        "two": "closing:CloseHangs",
        "zoo": "closing:CloseRaises",
        "an": "bases:FaultyEngine",
    }
    points = [entry_point(f"tests.plugins.faulty.{value}", f"kes-{package}") for package, value in kinds.items()]
    plugins = load_plugins([*OWN, *points])
    text = (
        "plugin 'faulty' of kes-{0} 1.0: the name 'faulty' of its key store is also offered by the plugin 'faulty' of "
    )
    text += "kes-{1} 1.0; block one of them"
    assert {info.distribution: info.error for info in plugins.infos if info.distribution != "kes-core"} == {
        "kes-an": None,
        "kes-one": text.format("one", "two"),
        "kes-two": text.format("two", "one"),
        "kes-zoo": text.format("zoo", "one"),
    }
    assert "faulty" not in plugins.backends
    assert "faulty" in plugins.engines
    assert plugins.why_not("faulty") is not None


def test_damaged_metadata_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without a name: half removed, or made by a faulty tool."""
    info = tmp_path / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[kes]\ndamaged = no such form\nother = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    errors = {info.name: info.error for info in load_plugins().infos if info.distribution == "unknown"}
    assert errors == {
        "damaged": "plugin 'damaged' of unknown: can't be imported: AttributeError; `kes plugins --debug` shows more",
        "other": "plugin 'other' of unknown: can't be imported: the module 'no_such_module' is missing; install what "
        "it needs: pip install --upgrade unknown",
    }


@pytest.mark.parametrize("name", commands.SOURCES)
def test_faulty_command_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"faulty_command_{name}.py").write_text(commands.SOURCES[name])
    for package in (f"kes_{name}", f"kes_{name}_too") if name == "twice" else (f"kes_{name}",):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[kes.commands]\n{name} = faulty_command_{name}:command\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["kes", name])
    assert _run() == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert fits(shown.err.splitlines(), ANSWERS[f"commands.{name}", "command"]), shown.err


def test_kit_says_what_is_wrong() -> None:
    wanted = {fault: lines for (fault, stage), lines in ANSWERS.items() if stage == "kit"}
    tests = [
        f"tests/plugins/faulty/contracts.py::Test{fault.partition('.')[2]}::test_{line.partition(':')[0]}"
        for fault, lines in wanted.items()
        for line in lines
    ]
    output = run_pytest("-q", "-p", "no:xdist", *tests)
    lines = [line for line in output.splitlines() if " — " in line and not line.startswith("FAILED")]
    assert fits(lines, list(itertools.chain(*wanted.values()))), "\n".join(lines)

"""The kit finds each fault and names the broken clause, and reports nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kes_core.testing import contract
from tests.conformance import mutant_conduct, mutant_engines, mutant_frontends, mutant_sinks, mutant_stores
from tests.helpers.effort import is_nightly
from tests.helpers.pytest_runs import SETTINGS, run_pytest

LINE = re.compile(r"kes contract 1: (\d+) of (\d+) clauses kept by (\S+)::(\w+)(.*)")
MODULES = (mutant_stores, mutant_conduct, mutant_engines, mutant_frontends, mutant_sinks)
CAPTURED = re.compile(r"^-+ Captured .*?(?=^[_=]{3})", re.DOTALL | re.MULTILINE)
ONE_LINE = (
    "line_ends_and_spaces_are_kept: Line ends, spaces and zero bytes at the ends of a value are kept — get('key1')",
    "get_of_absent_key: Getting a key that does not exist raises `EntryNotFoundError` — get('absent') in an empty",
    "in an empty store raised KeyError: 'absent' (mutant_stores.py:",
    "status_while_store_works: `status` returns while the store works — no end within 0.8 s (mutant_conduct.py:",
)
"""What the kit says of a broken clause."""
OPTIONAL = {clause.name for clause in contract() if clause.needs}


class Result:
    """The kit's report on a test class."""

    def __init__(self, line: re.Match[str]) -> None:
        self.kept, self.of = int(line[1]), int(line[2])
        self.text = line[5]

    def clauses(self, outcome: str) -> set[str]:
        """Return the clauses with this outcome."""
        found = re.search(rf", {outcome}: ([^,]+)", self.text)
        return set(found[1].split()) if found else set()


def run() -> str:
    """Return pytest's output for all mutants."""
    if is_nightly():  # all clauses are checked, and those that are kept need time on a busy machine
        os.environ.setdefault(mutant_sinks.PATIENCE, "3")
    # In two processes: many wait for a time limit. Those that wait longest come first. What a broken plugin leaves open
    # is of no interest.
    tests = [test for module in reversed(MODULES) for test in selection(module)]
    return run_pytest("-q", "-r", "N", "-n", "2", "-p", "no:unraisableexception", *tests)


def selection(module: ModuleType) -> list[str]:
    """Return the tests to run. The short form leaves out the clauses that a broken plugin keeps."""
    path = path_of(module)
    if is_nightly():
        return [path]
    return [
        f"{path}::{name}" + (f"::test_{clause}" if clause else "")
        for name, mutant in mutants_of(module)
        for clause in mutant.breaks.split() or [""]
    ]


def path_of(module: ModuleType) -> str:
    return f"tests/conformance/{module.__name__.rpartition('.')[2]}.py"


def mutants_of(module: ModuleType) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(module).items() if name.startswith("Test")]


def check(result: Result, mutant: Any) -> None:
    assert result.clauses("broken") == set(mutant.breaks.split())
    assert result.clauses("not checked") == set()
    assert result.clauses("not applicable") <= OPTIONAL
    left_out = ("broken", "not applicable", "excluded by [^:]+")
    named = sum(len(result.clauses(outcome)) for outcome in left_out)
    assert result.kept == result.of - named


# One test for all, as every process of pytest-xdist would repeat what a fixture does.
@pytest.mark.nightly
def test_exactly_what_is_broken_is_found() -> None:
    output = run()
    results = {(line[3], line[4]): Result(line) for line in LINE.finditer(output)}
    wrong = []
    for module in MODULES:
        for name, mutant in mutants_of(module):
            try:
                check(results[path_of(module), name], mutant)
            except (AssertionError, KeyError) as error:
                wrong.append(f"{module.__name__}.{name}: {error!r}")
    assert not wrong, "\n".join([*wrong, output[-5000:]])
    for line in ONE_LINE:
        assert line in output
    verdicts = CAPTURED.sub("", output)
    assert "Traceback" not in verdicts
    assert "\nE  " not in verdicts
    for leaky in (mutant_conduct, mutant_engines, mutant_sinks):
        assert leaky.TOKEN not in output


def test_every_clause_finds_something() -> None:
    """Each clause is broken by a mutant; otherwise its test might never fail."""
    broken = {
        clause
        for module in MODULES
        for mutant in vars(module).values()
        for clause in getattr(mutant, "breaks", "").split()
    }
    assert {clause.name for clause in contract()} - broken == set()


AUTHOR = """
import asyncio, threading
import kes_core.testing._running
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.testing import KeyStoreContract

class Store(MemoryKeyStore):
    async def status(self):
        {status}

kes_core.testing._running.GRACE = 0.5

class TestStore(KeyStoreContract):
    time_limit = 0.5

    async def make_store(self):
        {make}
"""


def run_author(directory: Path, *options: str, status: str = "return", make: str = "return Store()") -> str:
    """Run an author's test module in a project of its own."""
    (directory / "pytest.ini").write_text(SETTINGS)
    (directory / "test_store.py").write_text(AUTHOR.format(status=status, make=make))
    return run_pytest(*options, directory=directory)


@pytest.mark.parametrize(
    "status",
    ["threading.Event().wait()", "await asyncio.to_thread(threading.Event().wait)"],
    ids=["the event loop", "a worker thread"],
)
def test_store_that_is_stuck_for_good_holds_up_no_run(tmp_path: Path, status: str) -> None:
    output = run_author(tmp_path, "-k", "status_while_store_works or get_returns_bytes", status=status)
    assert "`status` returns while the store works — a call did not end within 0.5 s, nor when it was" in output
    line = "kes contract 1: 1 of 2 clauses kept by test_store.py::TestStore, broken: status_while_store_works\n"
    assert line in output


def test_factory_that_fails_is_the_authors_to_see(tmp_path: Path) -> None:
    selected = "get_returns_bytes or reopened_store_has_its_keys"
    output = run_author(tmp_path, "-k", selected, make="raise OSError('no such host')")
    assert ">       raise OSError('no such host')" in output
    assert (
        "0 of 2 clauses kept by test_store.py::TestStore, not applicable: reopened_store_has_its_keys, "
        "not checked: get_returns_bytes\n"
    ) in output
    output = run_author(tmp_path, "-k", "get_returns_bytes", make="return None")
    assert "make_store() of the test class returned a NoneType; expected a KeyStore" in output


OTHER = """
import sys

def test_it():
    assert "kes_core.testing.plugin" in sys.modules
    assert not {"pydantic", "kes_core.keystore", "kes_core.hookspecs"} & sys.modules.keys()
"""


def test_project_that_tests_no_plugin_sees_nothing_of_the_kit(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(OTHER)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    output = run_pytest(directory=tmp_path)
    assert "1 passed" in output
    assert "kes contract" not in output

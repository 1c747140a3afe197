"""The pytest plugin of the conformance kit: a line for each tested plugin at the end of a run.

Loaded by pytest wherever kes-core is installed, so it imports nothing else.
"""

from __future__ import annotations

import faulthandler
from typing import Any, Final

import pytest

__all__ = ["PROPERTY", "pytest_configure"]

PROPERTY: Final = "kes_contract"
"""The name of the property of a test report that says what became of its clause: `1 kept`."""
EXIT_TIME: Final = 3
"""Seconds that threads have to end after a run in which a call never did."""

_HUNG: Final = "hung"
_COLLECTED: Final = "not checked"


class _Results:
    """What became of each clause, by test class."""

    def __init__(self) -> None:
        self.version = ""
        self.suites: dict[str, dict[str, str]] = {}
        self.hung = False

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Mark a clause in its report, also if a fixture fails before the clause is checked."""
        if _clause_of(item) is not None:
            item.user_properties.append((PROPERTY, _COLLECTED))

    @pytest.hookimpl(trylast=True)  # after what the user has not selected is gone
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the clauses that are not applicable to their class.

        In worker processes of pytest-xdist they are skipped instead: the main process does not hear what a worker
        leaves out.
        """
        if hasattr(config, "workerinput"):
            return
        left_out = [item for item in items if _is_not_applicable(item)]
        for item in left_out:
            suite, name = _split(item.nodeid)
            self.suites.setdefault(suite, {})[name] = "not applicable"
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcomes = [str(value) for name, value in report.user_properties if name == PROPERTY]
        if not outcomes or (report.when != "call" and report.passed):
            return
        suite, name = _split(report.nodeid)
        version, _, outcome = outcomes[-1].partition(" ")
        if outcomes[-1] == _COLLECTED:
            outcome = _COLLECTED
        else:
            self.version = version
        self.hung |= outcome.endswith(_HUNG)
        self.suites.setdefault(suite, {})[name] = outcome.removesuffix(f", {_HUNG}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.suites:
            return
        terminalreporter.section("kes contract")
        for suite, clauses in self.suites.items():
            terminalreporter.line(self._line(suite, clauses))

    def _line(self, suite: str, clauses: dict[str, str]) -> str:
        kept = sum(outcome == "kept" for outcome in clauses.values())
        line = f"kes contract {self.version}: {kept} of {len(clauses)} clauses kept by {suite}"
        for outcome in ("not applicable", _COLLECTED, "broken"):
            names = [clause for clause, found in clauses.items() if found == outcome]
            if names:
                line += f", {outcome}: {' '.join(names)}"
        return line

    def pytest_unconfigure(self) -> None:
        if self.hung:  # Python waits for threads that never end, and the run would
            faulthandler.dump_traceback_later(EXIT_TIME, exit=True)


def _split(node: str) -> tuple[str, str]:
    """Return the test class of a clause, and the clause's name."""
    suite, _, method = node.rpartition("::")
    return suite, method.removeprefix("test_")


def _clause_of(item: pytest.Item) -> Any:
    return getattr(getattr(item, "function", None), "kes_clause", None)


def _is_not_applicable(item: pytest.Item) -> bool:
    """Tell whether an item is a clause that needs a method which its class has not defined."""
    clause, suite = _clause_of(item), getattr(item, "cls", None)
    if clause is None or suite is None or not clause.needs:
        return False
    return getattr(getattr(suite, clause.needs), "kes_optional", False)


def pytest_configure(config: pytest.Config) -> None:
    """Collect what becomes of clauses in this run."""
    config.pluginmanager.register(_Results(), "kes_conformance_results")

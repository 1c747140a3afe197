"""The pytest plugin of the conformance kit: a line for each tested plugin at the end of a run.

Loaded by pytest wherever kes-core is installed, so it imports nothing else.
"""

from __future__ import annotations

import faulthandler
import re
from typing import Final

import pytest

__all__ = ["PROPERTY", "pytest_configure"]

PROPERTY: Final = "kes_contract"
"""The name of the property of a test report that says what became of its clause: `1 kept`."""
EXIT_TIME: Final = 3
"""Seconds that threads have to end after a run in which a call never did."""

_NODE: Final = re.compile(r"(?P<suite>.*)::test_contract\[(?P<clause>(?:KS|PE)-[A-Z]+-\d+)\]", re.DOTALL)
_HUNG: Final = "hung"


class _Results:
    """What became of each clause, by test class."""

    def __init__(self) -> None:
        self.version = ""
        self.suites: dict[str, dict[str, str]] = {}
        self.hung = False

    @pytest.hookimpl(trylast=True)  # after what the user has not selected is gone
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the clauses that are not applicable to their class.

        In worker processes of pytest-xdist they are skipped instead: what those leave out, nobody hears of.
        """
        if hasattr(config, "workerinput"):
            return
        left_out = [item for item in items if _is_not_applicable(item)]
        for item in left_out:
            match = _NODE.fullmatch(item.nodeid)
            if match is not None:
                self.suites.setdefault(match["suite"], {})[match["clause"]] = "not applicable"
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        match = _NODE.fullmatch(report.nodeid)
        if match is None or (report.when != "call" and report.passed):
            return
        clauses = self.suites.setdefault(match["suite"], {})
        for name, value in report.user_properties:
            if name == PROPERTY:
                self.version, outcome = str(value).split(" ", 1)
                self.hung |= outcome.endswith(_HUNG)
                clauses[match["clause"]] = outcome.removesuffix(f", {_HUNG}")
        clauses.setdefault(match["clause"], "not checked")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.suites:
            return
        terminalreporter.section("kes contract")
        for suite, clauses in self.suites.items():
            terminalreporter.line(self._line(suite, clauses))

    def _line(self, suite: str, clauses: dict[str, str]) -> str:
        kept = sum(outcome == "kept" for outcome in clauses.values())
        line = f"kes contract {self.version}: {kept} of {len(clauses)} clauses kept by {suite}"
        for outcome in ("not applicable", "not checked", "broken"):
            ids = [clause for clause, found in clauses.items() if found == outcome]
            if ids:
                line += f", {outcome}: {' '.join(ids)}"
        return line

    def pytest_unconfigure(self) -> None:
        if self.hung:  # Python waits for threads that never end, and the run would
            faulthandler.dump_traceback_later(EXIT_TIME, exit=True)


def _is_not_applicable(item: pytest.Item) -> bool:
    """Tell whether an item is a clause that needs a method which its class has not defined."""
    if not isinstance(item, pytest.Function) or item.cls is None or _NODE.fullmatch(item.nodeid) is None:
        return False
    needs = getattr(item.callspec.params.get("clause"), "needs", "")
    base = next((base for base in item.cls.__mro__ if "test_contract" in vars(base)), None)
    return bool(needs) and base is not None and getattr(item.cls, needs) is getattr(base, needs)


def pytest_configure(config: pytest.Config) -> None:
    """Collect what becomes of clauses in this run."""
    config.pluginmanager.register(_Results(), "kes_conformance_results")

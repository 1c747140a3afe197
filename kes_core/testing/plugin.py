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


def pytest_configure(config: pytest.Config) -> None:
    """Collect what becomes of clauses in this run."""
    config.pluginmanager.register(_Results(), "kes_conformance_results")

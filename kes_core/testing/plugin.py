"""The pytest plugin of the conformance kit. It prints one line for each tested plugin at the end of a run.

pytest loads it wherever kes-core is installed, so it imports no other module of kes-core.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final

import pytest

__all__ = ["EXPOSED", "PROPERTY", "kes_server", "pytest_configure"]

PROPERTY: Final = "kes_contract"
"""The name of the property of a test report with the result of its clause: `1 kept`."""
EXPOSED: Final = "kes_exposed"
"""The name of the property with a field of a section that holds a credential as plain text: `Config.token`."""
EXIT_TIME: Final = 3
"""Seconds that threads have to end after a run in which a call hung."""

LOG_LINES: Final = 20
"""The number of lines that are shown of the captured output of a broken clause."""

_HUNG: Final = "hung"
_COLLECTED: Final = "not checked"
_DEVIATING: Final = "deviating "
_IN_SPITE: Final = "kept in spite of a declared deviation"


class _Results:
    """The result of each clause, by test class."""

    def __init__(self) -> None:
        self.version = ""
        self.suites: dict[str, dict[str, str]] = {}
        self.exposed: dict[str, set[str]] = {}
        self.hung = False

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Mark each clause in its report, even if a fixture fails before the clause is checked."""
        if _clause_of(item) is not None:
            item.user_properties.append((PROPERTY, _COLLECTED))

    @pytest.hookimpl(trylast=True)  # after pytest has removed the tests that the user did not select
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect the clauses that are not applicable to their class.

        Worker processes of pytest-xdist skip them instead, because the main process does not learn what a worker
        deselects.
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

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Cut the captured output of a clause: what a client library logs would hide the verdict.

        Leave out the output of a clause that looks for secrets: it may contain one.
        """
        report = yield
        clause = _clause_of(item)
        if clause is not None:
            sections = [] if clause.debug_log else report.sections
            report.sections[:] = [(title, _cut(text)) for title, text in sections]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcomes = [str(value) for name, value in report.user_properties if name == PROPERTY]
        if not outcomes or (report.when != "call" and report.passed):
            return
        suite, name = _split(report.nodeid)
        exposed = {str(value) for kind, value in report.user_properties if kind == EXPOSED}
        self.exposed.setdefault(suite, set()).update(exposed)
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
            for clause, outcome in clauses.items():
                if outcome.startswith(_DEVIATING):
                    terminalreporter.line(f"  {clause} deviates: {outcome.removeprefix(_DEVIATING)}")
                elif outcome == _IN_SPITE:
                    terminalreporter.line(f"  {clause} is kept, although it is declared as a deviation")
            for field in sorted(self.exposed.get(suite, ())):
                terminalreporter.line(
                    f"  warning: {field} looks like a credential, and `kes config show` shows it: "
                    "use the type kes_core.config.Secret"
                )

    def _line(self, suite: str, clauses: dict[str, str]) -> str:
        kept = sum(outcome in {"kept", _IN_SPITE} for outcome in clauses.values())
        line = f"kes contract {self.version}: {kept} of {len(clauses)} clauses kept by {suite}"
        by_outcome: dict[str, list[str]] = {}
        for clause, outcome in clauses.items():
            by_outcome.setdefault(_DEVIATING if outcome.startswith(_DEVIATING) else outcome, []).append(clause)
        excluded = sorted(outcome for outcome in by_outcome if outcome.startswith("excluded by "))
        for outcome in ("not applicable", *excluded, _COLLECTED, _DEVIATING, "broken"):
            if outcome in by_outcome:
                line += f", {outcome.strip()}: {' '.join(by_outcome[outcome])}"
        return line

    def pytest_unconfigure(self) -> None:
        if self.hung:  # otherwise Python would wait for the hung thread forever
            faulthandler.dump_traceback_later(EXIT_TIME, exit=True)


def _cut(text: str) -> str:
    lines = text.splitlines(keepends=True)
    more = len(lines) - LOG_LINES
    return "".join(lines[:LOG_LINES]) + f"... and {more} more lines\n" if more > 0 else text


def _split(node: str) -> tuple[str, str]:
    """Return the test class of a clause, and the clause's name."""
    suite, _, method = node.rpartition("::")
    return suite, method.removeprefix("test_")


def _clause_of(item: pytest.Item) -> Any:
    return getattr(getattr(item, "function", None), "kes_clause", None)


def _is_not_applicable(item: pytest.Item) -> bool:
    """Return whether an item is a clause that needs a method that its class does not define."""
    clause, suite = _clause_of(item), getattr(item, "cls", None)
    if clause is None or suite is None or not clause.needs:
        return False
    return getattr(getattr(suite, clause.needs), "kes_optional", False)


@pytest.fixture
def kes_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a real server: `kes_server(sections, environment)`, a `RunningServer`.

    The servers stop at the end of the test.
    """
    from kes_core.testing.process import RunningServer

    started: list[RunningServer] = []

    def start(sections: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> RunningServer:
        server = RunningServer(tmp_path_factory.mktemp("kes_server"), sections or {}, environment)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def pytest_configure(config: pytest.Config) -> None:
    """Collect the results of the clauses of this run."""
    config.pluginmanager.register(_Results(), "kes_conformance_results")

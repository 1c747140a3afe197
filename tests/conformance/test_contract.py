"""The published contract is complete, and the same in code and documentation."""

from __future__ import annotations

import re
from pathlib import Path

from kes_core.testing import (
    AuditSinkContract,
    FrontendContract,
    KeyStoreContract,
    PolicyEngineContract,
    contract,
    contract_table,
)
from tests.helpers.pytest_runs import SETTINGS, run_pytest

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
CLAUSES = 59 + 19 + 10 + 18
"""Of key stores, policy engines, audit sinks and front ends. A release may add clauses, and takes none away."""


def test_tables_in_the_documentation_are_those_of_the_code() -> None:
    assert contract_table() in PAGE, "write the tables in docs/conformance.md again, as the comment above them says"


def test_every_test_method_is_a_clause_with_a_promise() -> None:
    methods = {
        name.removeprefix("test_")
        for suite in (KeyStoreContract, PolicyEngineContract, AuditSinkContract, FrontendContract)
        for name in dir(suite)
        if name.startswith("test_")
    }
    assert methods == {clause.name for clause in contract()}
    assert len(methods) == len(contract()) == CLAUSES
    for clause in contract():
        assert len(clause.sentence.split()) > 3, clause
        assert re.fullmatch(r"\d+\.\d+\.\d+", clause.since)


def test_clauses_need_optional_methods_that_exist() -> None:
    needed = {clause.needs for clause in contract()} - {""}
    assert needed == {"allowed", "denied", "make_unreachable", "reopen", "secrets", "send_raw"}
    suites = (KeyStoreContract, PolicyEngineContract, FrontendContract)
    assert all(any(hasattr(suite, name) for suite in suites) for name in needed)


def test_examples_of_the_documentation_keep_the_contract(tmp_path: Path) -> None:
    for number, example in enumerate(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)):
        (tmp_path / f"test_{number}.py").write_text(example, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    output = run_pytest("-q", directory=tmp_path)
    assert "failed" not in output
    kept = "kes contract 1: {} clauses kept by {}, not applicable: {}"
    assert kept.format("50 of 59", "test_0.py::TestMyStore", "reopened_store_has_its_keys") in output
    assert kept.format("18 of 19", "test_1.py::TestOffice", "engine_shows_no_credential\n") in output
    assert kept.format("7 of 10", "test_2.py::TestListSink", "records_of_an_outage_are_delivered") in output
    assert (
        "kes contract 1: 16 of 18 clauses kept by test_3.py::TestLines, not applicable: garbage_harms_nobody" in output
    )

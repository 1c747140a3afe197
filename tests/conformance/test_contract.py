"""The contract as it is published: complete, and the same in code and documentation."""

from __future__ import annotations

import re
from pathlib import Path

from kes_core.testing import KeyStoreContract, PolicyEngineContract, contract, contract_table
from kes_core.testing._deciding import ENGINE_CHECKS
from kes_core.testing._trial import STORE_CHECKS
from kes_core.testing.clauses import ENGINE_CLAUSES, STORE_CLAUSES

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_table_in_the_documentation_is_that_of_the_code() -> None:
    assert contract_table() in PAGE, "write the table in docs/conformance.md anew, as the comment above it says"


def test_every_clause_is_checked_and_every_check_is_a_clause() -> None:
    assert STORE_CHECKS.keys() == {clause.id for clause in STORE_CLAUSES}
    assert ENGINE_CHECKS.keys() == {clause.id for clause in ENGINE_CLAUSES}


def test_clauses_are_numbered_without_gaps_and_need_methods_that_exist() -> None:
    ids = [clause.id for clause in contract()]
    assert len(set(ids)) == len(ids)
    for subject in {clause.rsplit("-", 1)[0] for clause in ids}:
        numbers = [int(clause.rsplit("-", 1)[1]) for clause in ids if clause.rsplit("-", 1)[0] == subject]
        assert numbers == list(range(1, len(numbers) + 1)), subject
    for clause in contract():
        suite = KeyStoreContract if clause.id.startswith("KS-") else PolicyEngineContract
        assert not clause.needs or hasattr(suite, clause.needs)
        assert re.fullmatch(r"\d+\.\d+\.\d+", clause.since)


def test_examples_of_the_documentation_keep_the_contract(tmp_path: Path) -> None:
    from tests.conformance.test_mutants import SETTINGS, run_pytest  # noqa: PLC0415 # what runs pytest stands there

    for number, example in enumerate(re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)):
        (tmp_path / f"test_{number}.py").write_text(example, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    output = run_pytest("-q", directory=tmp_path)
    assert "failed" not in output
    assert "kes contract 1: 47 of 56 clauses kept by test_0.py::TestMyStore, not applicable: KS-SECRET-4" in output
    assert "kes contract 1: 15 of 16 clauses kept by test_1.py::TestOffice, not applicable: PE-SECRET-1\n" in output

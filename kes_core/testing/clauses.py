"""The contract as data: its clauses, read from the test classes, and its table for the documentation."""

from __future__ import annotations

from typing import Final

from kes_core.hookspecs import HOOKSPEC_VERSION
from kes_core.testing._clause import Clause
from kes_core.testing.engines import PolicyEngineContract
from kes_core.testing.stores import KeyStoreContract

__all__ = ["CONTRACT_VERSION", "Clause", "contract", "contract_table"]

CONTRACT_VERSION: Final = HOOKSPEC_VERSION
"""The contract belongs to the hook specifications of the same version. Within a version no clause changes its name or
asks for more; a release may add clauses, which say since when they exist."""


def _clauses_of(suite: type) -> tuple[Clause, ...]:
    methods = [method for base in reversed(suite.__bases__) for method in vars(base).values()]
    return tuple(method.kes_clause for method in methods if hasattr(method, "kes_clause"))


def contract() -> tuple[Clause, ...]:
    """Return all clauses, those of key stores first."""
    return _clauses_of(KeyStoreContract) + _clauses_of(PolicyEngineContract)


def contract_table() -> str:
    """Return the contract as tables in Markdown, as they stand in the documentation."""
    tables = []
    for title, suite in (("Key stores", KeyStoreContract), ("Policy engines", PolicyEngineContract)):
        rows = [f"### {title}\n", "| clause | promise | needs | since |", "|---|---|---|---|"]
        for clause in _clauses_of(suite):
            needs = f"`{clause.needs}()`" if clause.needs else ""
            rows.append(f"| `{clause.name}` | {clause.sentence}. | {needs} | {clause.since} |")
        tables.append("\n".join(rows) + "\n")
    return "\n".join(tables)

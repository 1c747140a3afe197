"""The contract as data: the clauses of the test classes, and their table for the documentation."""

from __future__ import annotations

from typing import Final

from kes_core.hookspecs import HOOKSPEC_VERSION
from kes_core.testing._clause import Clause
from kes_core.testing.engines import PolicyEngineContract
from kes_core.testing.frontends import FrontendContract
from kes_core.testing.sinks import AuditSinkContract
from kes_core.testing.stores import KeyStoreContract

__all__ = ["CONTRACT_VERSION", "Clause", "contract", "contract_table"]

CONTRACT_VERSION: Final = HOOKSPEC_VERSION
"""The version of the contract and of the hook specifications. Within a version, no clause changes its name or becomes
stricter. A release may add clauses; each clause names the release that added it."""


def _clauses_of(suite: type) -> tuple[Clause, ...]:
    methods = [method for base in reversed(suite.__bases__) for method in vars(base).values()]
    return tuple(method.kes_clause for method in methods if hasattr(method, "kes_clause"))


def contract() -> tuple[Clause, ...]:
    """Return all clauses: those of key stores, of policy engines, of audit sinks and of front ends."""
    suites = (KeyStoreContract, PolicyEngineContract, AuditSinkContract, FrontendContract)
    return tuple(clause for suite in suites for clause in _clauses_of(suite))


def contract_table() -> str:
    """Return the contract as the Markdown tables of the documentation."""
    tables = []
    kinds = (
        ("Key stores", KeyStoreContract),
        ("Policy engines", PolicyEngineContract),
        ("Audit sinks", AuditSinkContract),
        ("Front ends", FrontendContract),
    )
    for title, suite in kinds:
        rows = [f"### {title}\n", "| clause | promise | needs | since |", "|---|---|---|---|"]
        for clause in _clauses_of(suite):
            needs = f"`{clause.needs}()`" if clause.needs else ""
            if clause.excluded_by:
                needs = f"excluded by `{clause.excluded_by}`"
            rows.append(f"| `{clause.name}` | {clause.sentence}. | {needs} | {clause.since} |")
        tables.append("\n".join(rows) + "\n")
    return "\n".join(tables)

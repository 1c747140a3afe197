"""For tests: a server for applications (`FakeServer`), and the conformance kit for authors of plugins.

The kit tests whether a key store, a policy engine, an audit sink or a front end keeps its contract, clause by clause.

    from kes_core.testing import KeyStoreContract

    class TestMyStore(KeyStoreContract):
        async def make_store(self):
            return await MyStore.connect(self.tmp_path)

That is a complete test module: pytest runs every clause of the contract as a test. Install `kes-core[testing]` for it.
The modules are loaded on first use, because pytest imports this package in every run, also without a plugin to test.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kes_core.testing.clauses import CONTRACT_VERSION, Clause, contract, contract_table
    from kes_core.testing.engines import PolicyEngineContract, sample_request
    from kes_core.testing.frontends import FrontendContract
    from kes_core.testing.host import FrontendHost
    from kes_core.testing.process import RunningServer
    from kes_core.testing.server import FakeServer
    from kes_core.testing.sinks import AuditSinkContract, sample_record
    from kes_core.testing.stores import KeyStoreContract

__all__ = [
    "CONTRACT_VERSION",
    "AuditSinkContract",
    "Clause",
    "FakeServer",
    "FrontendContract",
    "FrontendHost",
    "KeyStoreContract",
    "PolicyEngineContract",
    "RunningServer",
    "contract",
    "contract_table",
    "sample_record",
    "sample_request",
]

_MODULES: Final = {
    "AuditSinkContract": "sinks",
    "CONTRACT_VERSION": "clauses",
    "Clause": "_clause",
    "FakeServer": "server",
    "FrontendContract": "frontends",
    "FrontendHost": "host",
    "KeyStoreContract": "stores",
    "PolicyEngineContract": "engines",
    "RunningServer": "process",
    "contract": "clauses",
    "contract_table": "clauses",
    "sample_record": "sinks",
    "sample_request": "engines",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kes_core.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kes_core.testing.{_MODULES[name]}"), name)

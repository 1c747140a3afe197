"""The contract of key stores, as a test class to inherit from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

import pytest

from kes_core.keystore import KeyStore
from kes_core.testing import _concurrency, _failures, _listing, _secrecy, _values
from kes_core.testing._reporting import check_clause, overrides
from kes_core.testing._trial import STORE_CHECKS, StoreTrial
from kes_core.testing.clauses import STORE_CLAUSES, Clause

__all__ = ["KeyStoreContract"]

# They register the checks when they are imported.
_CHECKED_BY = (_values, _listing, _concurrency, _failures, _secrecy)


class KeyStoreContract:
    """Inherit from it in a class named `Test...`, and define `make_store`; every clause is then a test of the class.

    Each clause has an instance of the class, a thread, an event loop and a store of its own. What needs a fixture of
    pytest takes it in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

    time_limit: ClassVar[float] = 20.0
    """Seconds that a clause may take; one that takes longer is broken."""
    longest_block: ClassVar[float] = 0.5
    """Seconds for which a call may hold up the event loop."""

    tmp_path: Path
    """An empty directory for each clause."""

    async def make_store(self) -> KeyStore:
        """Return a new, empty store. Called once a clause; the kit closes the store."""
        raise NotImplementedError("define make_store() in the test class: it returns an empty store")

    async def reopen(self, store: KeyStore) -> KeyStore:
        """Return another store on the data of `store`, which may be open or closed. Optional: for persistent stores."""
        raise NotImplementedError

    def make_unreachable(self, store: KeyStore) -> AbstractAsyncContextManager[object]:
        """Return a context in which what `store` talks to does not answer, and after which it does again. Optional."""
        raise NotImplementedError

    def secrets(self) -> Sequence[str]:
        """Return the credentials that the store uses, each of 8 characters or more; asked after `make_store`.

        Optional.
        """
        raise NotImplementedError

    @pytest.mark.parametrize("clause", [pytest.param(clause, id=clause.id) for clause in STORE_CLAUSES])
    def test_contract(
        self, clause: Clause, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Check one clause."""
        self.tmp_path = tmp_path
        has_secrets = overrides(self, KeyStoreContract, "secrets")

        if "-SECRET-" in clause.id:
            caplog.set_level(logging.DEBUG)

        async def main() -> None:
            trial = StoreTrial(self, caplog, self.secrets if has_secrets else tuple)
            try:
                await trial.begin()
                await STORE_CHECKS[clause.id](trial)
            finally:
                await trial.end()

        applicable = not clause.needs or overrides(self, KeyStoreContract, clause.needs)
        check_clause(clause, request.node, applicable=applicable, limit=self.time_limit, main=main)

"""The contract of key stores, as a test class to inherit from."""

from __future__ import annotations

from kes_core.testing._store_concurrency import ConcurrencyClauses
from kes_core.testing._store_failures import FailureClauses
from kes_core.testing._store_keys import KeyClauses
from kes_core.testing._store_listing import ListingClauses
from kes_core.testing._store_secrecy import SecrecyClauses
from kes_core.testing._store_values import ValueClauses

__all__ = ["KeyStoreContract"]


# pytest runs the tests of the last base first.
class KeyStoreContract(
    SecrecyClauses,
    FailureClauses,
    ConcurrencyClauses,
    ListingClauses,
    ValueClauses,
    KeyClauses,
):
    """Inherit from it in a class named `Test...`, and define `make_store`; every clause is then a test of the class.

    Each clause has an instance of the class, a thread, an event loop and a store of its own. To use a fixture of
    pytest, request it in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

"""The contract of key stores, as a base class for tests."""

from __future__ import annotations

from kes_core.testing._store_concurrency import ConcurrencyClauses
from kes_core.testing._store_failures import FailureClauses
from kes_core.testing._store_keys import KeyClauses
from kes_core.testing._store_listing import ListingClauses
from kes_core.testing._store_secrecy import SecrecyClauses
from kes_core.testing._store_values import ValueClauses

__all__ = ["KeyStoreContract"]


# pytest runs the tests of the last base class first.
class KeyStoreContract(
    SecrecyClauses,
    FailureClauses,
    ConcurrencyClauses,
    ListingClauses,
    ValueClauses,
    KeyClauses,
):
    """Inherit from this class in a class `Test...`, and define `make_store`. Every clause is then a test of your class.

    Each clause gets its own instance of the class, thread, event loop and store. To use a fixture of pytest, request it
    in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

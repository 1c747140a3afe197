"""The contract of policy engines, as a base class for tests."""

from __future__ import annotations

from kes_core.testing._engine import sample_request
from kes_core.testing._engine_conduct import ConductClauses
from kes_core.testing._engine_verdicts import VerdictClauses

__all__ = ["PolicyEngineContract", "sample_request"]


# pytest runs the tests of the last base class first.
class PolicyEngineContract(ConductClauses, VerdictClauses):
    """Inherit from this class in a class `Test...`; define `make_engine`, and requests whose answers you know.

    Each clause gets its own instance of the class, thread, event loop and engine. To use a fixture of pytest, request
    it in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

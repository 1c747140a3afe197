"""The contract of policy engines, as a test class to inherit from."""

from __future__ import annotations

from kes_core.testing._engine import sample_request
from kes_core.testing._engine_conduct import ConductClauses
from kes_core.testing._engine_verdicts import VerdictClauses

__all__ = ["PolicyEngineContract", "sample_request"]


# pytest runs the tests of the last base first.
class PolicyEngineContract(ConductClauses, VerdictClauses):
    """Inherit from it in a class named `Test...`; define `make_engine` and the requests whose answer you know.

    Each clause has an instance of the class, a thread, an event loop and an engine of its own. To use a fixture of
    pytest, request it in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

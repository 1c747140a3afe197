"""The contract of policy engines, as a test class to inherit from."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import pytest

from kes_core.policy import PolicyEngine, PolicyRequest
from kes_core.testing._deciding import ENGINE_CHECKS, EngineTrial
from kes_core.testing._reporting import check_clause, overrides
from kes_core.testing.clauses import ENGINE_CLAUSES, Clause

__all__ = ["PolicyEngineContract", "sample_request"]

_API: Final = "/v1/key/generate/"
_REQUEST: Final = PolicyRequest(
    identity=hashlib.sha256(b"a client").hexdigest(),
    method="PUT",
    path=f"{_API}my-key",
    api=_API,
    resource="my-key",
    remote_address="192.0.2.1",
    time=dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC),
)


def sample_request(**fields: Any) -> PolicyRequest:
    """Return a request to generate a data key with the key `my-key`, of a client without a certificate.

    Args:
        fields: What is to be different: `identity`, `path`, ... If `api` and `resource` change, `path` follows them.
    """
    if fields.keys() & {"api", "resource"} and "path" not in fields:
        fields["path"] = fields.get("api", _REQUEST.api) + fields.get("resource", _REQUEST.resource)
    return dataclasses.replace(_REQUEST, **fields)


class PolicyEngineContract:
    """Inherit from it in a class named `Test...`; define `make_engine` and the requests of which you know the answer.

    Each clause has an instance of the class, a thread, an event loop and an engine of its own. What needs a fixture of
    pytest takes it in a fixture of the class: `@pytest.fixture(autouse=True)`.
    """

    time_limit: ClassVar[float] = 20.0
    """Seconds that a clause may take; one that takes longer is broken."""
    longest_block: ClassVar[float] = 0.5
    """Seconds for which a question may hold up the event loop."""

    async def make_engine(self) -> PolicyEngine:
        """Return a new engine. Called once a clause; the kit closes the engine."""
        raise NotImplementedError("define make_engine() in the test class: it returns an engine")

    def allowed(self) -> PolicyRequest:
        """Return a request that the engine allows. Optional: for engines that allow anything."""
        raise NotImplementedError

    def denied(self) -> PolicyRequest:
        """Return a request that the engine denies. Optional: for engines that do more than not to allow."""
        raise NotImplementedError

    def unknown(self) -> PolicyRequest:
        """Return a request that the engine knows nothing of. Unless you define it: of an identity made at random."""
        return sample_request(identity=hashlib.sha256(b"nobody").hexdigest())

    def secrets(self) -> Sequence[str]:
        """Return the credentials that the engine uses, each of 8 characters or more; asked after `make_engine`.

        Optional.
        """
        raise NotImplementedError

    @pytest.mark.parametrize("clause", [pytest.param(clause, id=clause.id) for clause in ENGINE_CLAUSES])
    def test_contract(self, clause: Clause, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
        """Check one clause."""
        has = {method: overrides(self, PolicyEngineContract, method) for method in ("allowed", "denied", "secrets")}
        if "-SECRET-" in clause.id:
            caplog.set_level(logging.DEBUG)

        async def main() -> None:
            trial = EngineTrial(self, caplog, has)
            try:
                await trial.begin()
                await ENGINE_CHECKS[clause.id](trial)
            finally:
                await trial.end()

        applicable = not clause.needs or has[clause.needs]
        check_clause(clause, request.node, applicable=applicable, limit=self.time_limit, main=main)

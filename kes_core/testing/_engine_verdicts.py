"""Clauses on what a policy engine decides."""

from __future__ import annotations

import asyncio
import dataclasses

from kes_core.policy import Decision, PolicyRequest, Verdict
from kes_core.testing._clause import clause
from kes_core.testing._engine import TIMES, EngineSuite, EngineTrial, odd, odd_identities
from kes_core.testing._running import BrokenError, check, described, settled, shown

__all__ = ["VerdictClauses"]


async def _never_allowed(trial: EngineTrial, what: str, request: PolicyRequest) -> None:
    verdict = await settled(trial.engine.authorize(request))  # an exception refuses the request
    check(getattr(verdict, "decision", None) is not Decision.ALLOW, f"one with {what} is allowed: {shown(verdict)}")


async def _answered(trial: EngineTrial, what: str, request: PolicyRequest) -> Verdict:
    try:
        verdict = await trial.engine.authorize(request)
    except Exception as error:
        raise BrokenError(f"with {what} it raised {described(error)}") from None
    check(isinstance(verdict, Verdict), f"with {what} it returned {shown(verdict)}, which is not a Verdict")
    return verdict


class VerdictClauses(EngineSuite):
    """The decisions of an engine, and their form."""

    @clause()
    async def test_authorize_returns_verdict(self, trial: EngineTrial) -> None:
        """`authorize` returns a `Verdict` with a `Decision`."""
        for name, request in trial.samples.items():
            verdict: object = await trial.engine.authorize(request)
            check(
                isinstance(verdict, Verdict),
                f"the request of {name}() is answered with {shown(verdict)}, which is not a Verdict",
            )
            decision: object = getattr(verdict, "decision", None)
            check(isinstance(decision, Decision), f"the decision on the request of {name}() is {shown(decision)}")

    @clause()
    async def test_reason_is_one_line(self, trial: EngineTrial) -> None:
        """The reason is one line of printable text, whatever the request contains."""
        await trial.answer_all()
        for name, sample in trial.samples.items():
            for what, request in [("nothing odd", sample), *odd(sample)]:
                verdict = await settled(trial.engine.authorize(request))
                if isinstance(verdict, Exception):
                    continue  # the clause odd_requests_are_answered covers this
                reason: object = getattr(verdict, "reason", None)
                kept = isinstance(reason, str) and bool(reason.strip()) and reason.isprintable()
                check(kept, f"on the request of {name}() with {what} it is {shown(reason)}")

    @clause(needs="allowed")
    async def test_allowed_request(self, trial: EngineTrial) -> None:
        """The request of `allowed()` is answered with ALLOW."""
        verdict = await trial.engine.authorize(trial.samples["allowed"])
        check(verdict.decision is Decision.ALLOW, f"got {shown(verdict)}")

    @clause(needs="denied")
    async def test_denied_request(self, trial: EngineTrial) -> None:
        """The request of `denied()` is answered with DENY."""
        verdict = await trial.engine.authorize(trial.samples["denied"])
        check(verdict.decision is Decision.DENY, f"got {shown(verdict)}")

    @clause()
    async def test_unknown_identity_is_not_allowed(self, trial: EngineTrial) -> None:
        """A request of an unknown identity is not allowed."""
        await trial.answer_all()
        unknown = trial.samples["unknown"]
        await _never_allowed(trial, "the path of unknown()", unknown)
        for name, sample in trial.samples.items():
            request = dataclasses.replace(unknown, method=sample.method, path=sample.path, api=sample.api)
            await _never_allowed(trial, f"the path of {name}()", dataclasses.replace(request, resource=sample.resource))

    @clause()
    async def test_same_decision_again(self, trial: EngineTrial) -> None:
        """The engine decides the same when it is asked again."""
        for name, request in trial.samples.items():
            first = await trial.decide(request)
            for time in range(2, TIMES + 2):
                found = await trial.decide(dataclasses.replace(request))
                check(
                    found is first,
                    f"the request of {name}(): first {shown(first)}, when asked {time} times {shown(found)}",
                )

    @clause()
    async def test_same_decision_concurrently(self, trial: EngineTrial) -> None:
        """Concurrent requests get the same decisions as requests one at a time."""
        requests = [(name, request) for _ in range(TIMES) for name, request in trial.samples.items()]
        alone = {name: await trial.decide(request) for name, request in trial.samples.items()}
        together = await asyncio.gather(*(trial.decide(request) for _name, request in requests))
        for (name, _request), found in zip(requests, together, strict=True):
            check(
                found is alone[name],
                f"the request of {name}() alone: {shown(alone[name])}, among others: {shown(found)}",
            )

    @clause()
    async def test_odd_requests_are_answered(self, trial: EngineTrial) -> None:
        """Odd requests (empty, very long, control characters, no certificate) get a verdict, not an exception."""
        await trial.answer_all()
        for sample in trial.samples.values():
            for what, request in [*odd(sample), *odd_identities(sample)]:
                await _answered(trial, what, request)

    @clause()
    async def test_odd_requests_are_not_allowed(self, trial: EngineTrial) -> None:
        """Odd requests of an unknown identity are not allowed."""
        await trial.answer_all()
        for name, sample in trial.samples.items():
            stranger = dataclasses.replace(sample, identity=trial.samples["unknown"].identity, certificate=None)
            requests = list(odd_identities(stranger))
            if name == "unknown":
                requests += odd(stranger)
            for what, request in requests:
                await _never_allowed(trial, what, request)

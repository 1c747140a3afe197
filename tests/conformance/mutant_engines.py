"""Policy engines that are broken on purpose, each in one way, with the clauses that must find the fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar

from kes_core import Decision, PolicyEngine, PolicyRequest, Verdict
from kes_core.testing import PolicyEngineContract, sample_request
from tests.conformance.mutant_stores import PATIENT

TOKEN = "a-token-that-nobody-may-see"
EVERYTHING = (
    "authorize_returns_verdict reason_is_one_line allowed_request denied_request unknown_identity_is_not_allowed "
    "same_decision_again same_decision_concurrently odd_requests_are_answered odd_requests_are_not_allowed "
    "request_is_not_changed request_is_not_kept engine_works_after_cancelled_calls authorize_does_not_block "
    "authorize_is_fast immediate_engine_does_not_wait repeatable_engine_repeats_itself repr_is_one_line "
    "engine_shows_no_credential close_engine_twice"
)


class Engine(PolicyEngine):
    """Allows one client everything except one key."""

    def __init__(self) -> None:
        self.token = TOKEN

    async def authorize(self, request: PolicyRequest) -> Verdict:
        return self.decide(request)

    def decide(self, request: PolicyRequest) -> Verdict:
        if request.identity != sample_request().identity:
            return Verdict(Decision.ABSTAIN, "the identity is unknown")
        if request.resource == "forbidden":
            return Verdict(Decision.DENY, "the key is forbidden")
        return Verdict(Decision.ALLOW, "the identity is known")


class Mutant(PolicyEngineContract):
    """A contract test of a broken engine class, with the clauses that the class breaks."""

    Subject: ClassVar[type[Engine]]
    breaks: ClassVar[str] = ""
    time_limit = 5.0

    async def make_engine(self) -> Engine:
        return self.Subject()

    def allowed(self) -> PolicyRequest:
        return sample_request()

    def denied(self) -> PolicyRequest:
        return sample_request(resource="forbidden")

    def secrets(self) -> Sequence[str]:
        return [TOKEN]


class TestSoundEngine(Mutant):
    time_limit = PATIENT
    Subject = Engine


class TestAllowsStrangers(Mutant):
    breaks = "unknown_identity_is_not_allowed odd_requests_are_not_allowed"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            verdict = super().decide(request)
            return verdict if verdict.decision is Decision.DENY else Verdict(Decision.ALLOW, "why not")


class TestAllowsWhoHasNoIdentity(Mutant):
    breaks = "odd_requests_are_not_allowed"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            return super().decide(request) if request.identity else Verdict(Decision.ALLOW, "nobody")


class TestDeniesNothing(Mutant):
    breaks = "denied_request"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            verdict = super().decide(request)
            return verdict if verdict.decision is not Decision.DENY else Verdict(Decision.ABSTAIN, "no rule")


class TestAllowsNothing(Mutant):
    breaks = "allowed_request"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            verdict = super().decide(request)
            return verdict if verdict.decision is not Decision.ALLOW else Verdict(Decision.ABSTAIN, "no rule")


class TestDecidesInWords(Mutant):
    breaks = "authorize_returns_verdict allowed_request denied_request"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            decision, reason = super().decide(request)
            return Verdict(decision.value, reason)  # type: ignore[arg-type] # the mistake


class TestGivesNoReason(Mutant):
    breaks = "reason_is_one_line"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            return Verdict(super().decide(request).decision, "")


class TestRepeatsThePath(Mutant):
    breaks = "reason_is_one_line"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            return Verdict(super().decide(request).decision, f"a rule for {request.path}")


class TestChangesItsMind(Mutant):
    breaks = "same_decision_again same_decision_concurrently engine_works_after_cancelled_calls"

    class Subject(Engine):
        asked = 0

        def decide(self, request: PolicyRequest) -> Verdict:
            self.asked += 1
            return super().decide(request) if self.asked % 2 else Verdict(Decision.ABSTAIN, "not now")


class TestMixesUpRequests(Mutant):
    breaks = "same_decision_concurrently request_is_not_kept"

    class Subject(Engine):
        async def authorize(self, request: PolicyRequest) -> Verdict:
            self._request = request
            await asyncio.sleep(0)
            return self.decide(self._request)


class TestKeepsRequests(Mutant):
    breaks = "request_is_not_kept"

    class Subject(Engine):
        def __init__(self) -> None:
            super().__init__()
            self._seen: list[PolicyRequest] = []

        def decide(self, request: PolicyRequest) -> Verdict:
            self._seen.append(request)
            return super().decide(request)


class TestChangesRequests(Mutant):
    breaks = "request_is_not_changed"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            object.__setattr__(request, "path", request.path.rstrip("/") + "/")
            return super().decide(request)


class TestRaisesAtNothing(Mutant):
    breaks = "odd_requests_are_answered"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            assert request.resource[0]
            return super().decide(request)


class TestNeedsACertificate(Mutant):
    breaks = EVERYTHING

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            assert request.certificate is not None
            return super().decide(request)


class TestKeepsItsLock(Mutant):
    breaks = "engine_works_after_cancelled_calls"
    time_limit = 1.5

    class Subject(Engine):
        def __init__(self) -> None:
            super().__init__()
            self._lock = asyncio.Lock()

        async def authorize(self, request: PolicyRequest) -> Verdict:
            await self._lock.acquire()
            await asyncio.sleep(0.001)
            self._lock.release()
            return self.decide(request)


class TestBlocks(Mutant):
    breaks = "authorize_does_not_block"
    longest_block = 0.1

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            if len(request.path) > 1000:
                time.sleep(0.15)
            return super().decide(request)


class TestShowsItsToken(Mutant):
    breaks = "engine_shows_no_credential"

    class Subject(Engine):
        def __repr__(self) -> str:
            return f"<Engine with {self.token}>"


class TestSpreadsItsRepr(Mutant):
    breaks = "repr_is_one_line"

    class Subject(Engine):
        def __repr__(self) -> str:
            return "Engine:\n  rules: 2"


class TestClosesOnce(Mutant):
    breaks = "close_engine_twice"

    class Subject(Engine):
        async def close(self) -> None:
            del self.token


class TestOnlyRaises(Mutant):
    """It keeps nothing by accident."""

    breaks = EVERYTHING

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            raise NotImplementedError("write me")


class TestThinksLong(Mutant):
    breaks = "authorize_is_fast"
    longest_call = 0.1

    class Subject(Engine):
        calls = 0

        async def authorize(self, request: PolicyRequest) -> Verdict:
            self.calls += 1
            await asyncio.sleep(0.15 if self.calls <= 6 else 0)  # in a clause of more calls, that is no matter
            return self.decide(request)


class TestWaitsInSpiteOfItsPromise(Mutant):
    breaks = "immediate_engine_does_not_wait"

    class Subject(Engine):
        is_immediate = True

        async def authorize(self, request: PolicyRequest) -> Verdict:
            if request.identity == sample_request().identity:
                await asyncio.sleep(0)
            return self.decide(request)


class TestKeepsHours(Mutant):
    breaks = "repeatable_engine_repeats_itself"

    class Subject(Engine):
        is_repeatable = True

        def decide(self, request: PolicyRequest) -> Verdict:
            return super().decide(request) if request.time.hour < 20 else Verdict(Decision.DENY, "it is night")


class TestPromisesInWords(Mutant):
    breaks = "immediate_engine_does_not_wait repeatable_engine_repeats_itself"

    class Subject(Engine):
        is_immediate = "yes"  # type: ignore[assignment] # the mistake
        is_repeatable = "yes"  # type: ignore[assignment] # as above

"""Policy engines that are broken on purpose, each in one way, and the clauses that have to find it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar

from kes_core import Decision, PolicyEngine, PolicyRequest, Verdict
from kes_core.testing import PolicyEngineContract, sample_request

TOKEN = "a-token-that-nobody-may-see"


class Engine(PolicyEngine):
    """Allows one client everything but one key."""

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
    """What is tested: an engine class, and the clauses that it breaks."""

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
    Subject = Engine


class TestAllowsStrangers(Mutant):
    breaks = "PE-UNKNOWN-1 PE-ODD-2"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            verdict = super().decide(request)
            return verdict if verdict.decision is Decision.DENY else Verdict(Decision.ALLOW, "why not")


class TestAllowsWhoHasNoIdentity(Mutant):
    breaks = "PE-ODD-2"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            return super().decide(request) if request.identity else Verdict(Decision.ALLOW, "nobody")


class TestDeniesNothing(Mutant):
    breaks = "PE-DENY-1"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            verdict = super().decide(request)
            return verdict if verdict.decision is not Decision.DENY else Verdict(Decision.ABSTAIN, "no rule")


class TestAllowsNothing(Mutant):
    breaks = "PE-ALLOW-1"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            verdict = super().decide(request)
            return verdict if verdict.decision is not Decision.ALLOW else Verdict(Decision.ABSTAIN, "no rule")


class TestDecidesInWords(Mutant):
    breaks = "PE-VERDICT-1 PE-ALLOW-1 PE-DENY-1"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            decision, reason = super().decide(request)
            return Verdict(decision.value, reason)  # type: ignore[arg-type] # the mistake


class TestGivesNoReason(Mutant):
    breaks = "PE-VERDICT-2"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            return Verdict(super().decide(request).decision, "")


class TestRepeatsThePath(Mutant):
    breaks = "PE-VERDICT-2"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            return Verdict(super().decide(request).decision, f"a rule for {request.path}")


class TestChangesItsMind(Mutant):
    breaks = "PE-SAME-1 PE-SAME-2 PE-CANCEL-1"

    class Subject(Engine):
        asked = 0

        def decide(self, request: PolicyRequest) -> Verdict:
            self.asked += 1
            return super().decide(request) if self.asked % 2 else Verdict(Decision.ABSTAIN, "not now")


class TestMixesUpRequests(Mutant):
    breaks = "PE-SAME-2 PE-REQUEST-2"

    class Subject(Engine):
        async def authorize(self, request: PolicyRequest) -> Verdict:
            self._request = request
            await asyncio.sleep(0)
            return self.decide(self._request)


class TestKeepsRequests(Mutant):
    breaks = "PE-REQUEST-2"

    class Subject(Engine):
        def __init__(self) -> None:
            super().__init__()
            self._seen: list[PolicyRequest] = []

        def decide(self, request: PolicyRequest) -> Verdict:
            self._seen.append(request)
            return super().decide(request)


class TestChangesRequests(Mutant):
    breaks = "PE-REQUEST-1"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            object.__setattr__(request, "path", request.path.rstrip("/") + "/")
            return super().decide(request)


class TestRaisesAtNothing(Mutant):
    breaks = "PE-ODD-1"

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            assert request.resource[0]
            return super().decide(request)


class TestNeedsACertificate(Mutant):
    breaks = (
        "PE-ODD-1 PE-VERDICT-1 PE-ALLOW-1 PE-DENY-1 PE-SAME-1 PE-SAME-2 PE-REQUEST-1 PE-REQUEST-2 PE-CANCEL-1 "
        "PE-CLOSE-1"
    )

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            assert request.certificate is not None
            return super().decide(request)


class TestKeepsItsLock(Mutant):
    breaks = "PE-CANCEL-1"
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
    breaks = "PE-LOOP-1"
    longest_block = 0.1

    class Subject(Engine):
        def decide(self, request: PolicyRequest) -> Verdict:
            if len(request.path) > 1000:
                time.sleep(0.15)
            return super().decide(request)


class TestShowsItsToken(Mutant):
    breaks = "PE-SECRET-1"

    class Subject(Engine):
        def __repr__(self) -> str:
            return f"<Engine with {self.token}>"


class TestSpreadsItsRepr(Mutant):
    breaks = "PE-REPR-1"

    class Subject(Engine):
        def __repr__(self) -> str:
            return "Engine:\n  rules: 2"


class TestClosesOnce(Mutant):
    breaks = "PE-CLOSE-1"

    class Subject(Engine):
        async def close(self) -> None:
            del self.token

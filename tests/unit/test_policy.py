from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from kes_core.config import PolicySettings
from kes_core.policy import Decision, PolicyRequest
from kes_core.static_policy import StaticPolicyEngine
from tests.support import vectors

CASES = [case for case in vectors("policy")["cases"] if case["kind"] == "verify"]
IDENTITY = "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb"


def decide(policies: dict[str, PolicySettings], path: str, identity: str = IDENTITY) -> tuple[Decision, str]:
    request = PolicyRequest(
        identity=identity,
        method="GET",
        path=path,
        api="",
        resource="",
        remote_address="127.0.0.1",
        time=dt.datetime.now(dt.UTC),
    )
    decision, reason = asyncio.run(StaticPolicyEngine(policies).authorize(request))
    return decision, reason


@pytest.mark.parametrize("case", CASES, ids=[f"{c['allow']} {c['deny']} {c['path']}" for c in CASES])
def test_policies_of_the_vectors(case: dict[str, Any]) -> None:
    policy = PolicySettings(allow=tuple(case["allow"]), deny=tuple(case["deny"]), identities=(IDENTITY,))
    decision, _reason = decide({"p": policy}, case["path"])
    assert (decision is Decision.ALLOW) is case["allowed"]


def test_reasons_name_the_policy() -> None:
    policy = PolicySettings(allow=("/v1/*",), deny=("/v1/key/*",), identities=(IDENTITY,))
    assert decide({"p": policy}, "/v1/key/x") == (Decision.DENY, "denied by policy 'p'")
    assert decide({"p": policy}, "/v2") == (Decision.ABSTAIN, "no allow rule of policy 'p' matches")
    assert decide({"p": policy}, "/v1/x", "0" * 64) == (Decision.ABSTAIN, "the identity is in no policy")

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Any

import pytest

from kes_core.builtin.static_policy import StaticPolicyEngine, matching_pattern
from kes_core.config import PolicySettings
from kes_core.policy import Decision, PolicyRequest
from tests.helpers.vectors import vectors

CASES = [case for case in vectors("policy")["cases"] if case["kind"] == "verify"]
API = "/v1/key/generate/"
IDENTITY = "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb"


def decide(
    policies: dict[str, PolicySettings], path: str, identity: str = IDENTITY, api: str = ""
) -> tuple[Decision, str]:
    request = PolicyRequest(
        identity=identity,
        method="GET",
        path=path,
        api=api,
        resource=path.removeprefix(api) if api else "",
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


def test_reasons_name_policy_and_rule() -> None:
    policy = PolicySettings(allow=("/v1/*",), deny=("/v1/key/*",), identities=(IDENTITY,))
    assert decide({"p": policy}, "/v1/key/x") == (
        Decision.DENY,
        "denied by policy 'p': its deny rule '/v1/key/*' matches",
    )
    assert decide({"p": policy}, "/v2") == (Decision.ABSTAIN, "no allow rule of policy 'p' matches")
    assert decide({"p": policy}, "/v1/x", "0" * 64) == (Decision.ABSTAIN, "the identity is in no policy")


@pytest.mark.parametrize(
    ("allow", "closest"),
    [
        (["/v1/key/create/my-key", "/v1/key/generate/my-app*", "/v1/key/generate/x"], "/v1/key/generate/my-app*"),
        (["/v1/key/generat/my-key"], "/v1/key/generat/my-key"),  # a typo in the API
        (["/v1/key/generate/my-key-1"], "/v1/key/generate/my-key-1"),
        (["/v1/status", "/v1/key/decrypt/my-*"], "/v1/key/decrypt/my-*"),  # the right name, but another API
        (["/v1/key/decrypt/other", "/v1/status", ""], ""),
        ([], ""),
    ],
)
def test_refusal_names_the_closest_rule(allow: list[str], closest: str) -> None:
    policy = PolicySettings(allow=tuple(allow), identities=(IDENTITY,))
    decision, reason = decide({"p": policy}, "/v1/key/generate/my-key", api=API)
    hint = f"; the closest is {closest!r}" if closest else ""
    assert (decision, reason) == (Decision.ABSTAIN, f"no allow rule of policy 'p' matches{hint}")


def test_matching_pattern() -> None:
    assert matching_pattern(["/v1/status", "/v1/key/*", "/v1/*"], "/v1/key/create/k") == "/v1/key/*"
    assert matching_pattern(["", "/v1/status"], "") is None


@pytest.mark.measured
def test_refusing_a_long_path_is_quick() -> None:
    """A client without rights must not keep the server busy with long paths."""
    policy = PolicySettings(allow=tuple(f"/v1/key/generate/{n}" for n in range(100)), identities=(IDENTITY,))
    started = time.perf_counter()
    decide({"p": policy}, API + "a" * 8000, api=API)
    assert time.perf_counter() - started < 0.05

"""The time of a decision, which blocks the server. `-s` shows the numbers of the README."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable

import pytest

from kes_cedar.engine import CedarPolicyEngine
from kes_core import CertificateFacts, Decision, PolicyRequest

OpenEngine = Callable[..., CedarPolicyEngine]
REQUESTS = 2000


@pytest.mark.measured
@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_decision_time(open_engine: OpenEngine, count: int) -> None:
    """Each policy has a group, an action group and a condition; the last one matches."""
    engine = open_engine(
        "".join(
            f'permit(principal in KES::Group::"team-{number}", action in KES::Action::"UseKey", resource)'
            f'when {{ context.name like "team-{number}-*" }};\n'
            for number in range(count)
        ),
        [
            {
                "uid": {"type": "KES::Identity", "id": "0" * 64},
                "attrs": {},
                "parents": [{"type": "KES::Group", "id": f"team-{count - 1}"}],
            }
        ],
    )
    now = dt.datetime.now(dt.UTC)
    request = PolicyRequest(
        identity="0" * 64,
        method="PUT",
        path=f"/v1/key/generate/team-{count - 1}-key",
        api="/v1/key/generate/",
        resource=f"team-{count - 1}-key",
        remote_address="192.0.2.1",
        time=now,
        certificate=CertificateFacts("CN=app", "CN=app", 1, now, now, ("app.example.com",), ("192.0.2.1",)),
    )

    async def measure() -> list[float]:
        seconds = []
        for _ in range(REQUESTS):
            started = time.perf_counter()
            decision, _reason = await engine.authorize(request)
            seconds.append(time.perf_counter() - started)
            assert decision is Decision.ALLOW
        return sorted(seconds)

    seconds = asyncio.run(measure())
    p50, p99 = seconds[REQUESTS // 2], seconds[REQUESTS * 99 // 100]
    print(f"| {count} | {p50 * 1e6:.0f} us | {p99 * 1e6:.0f} us |")  # noqa: T201 # for the README
    # The limit is generous: a busy machine stays below it, but parsing policies or schema at each request does not.
    assert p50 < 0.001 + count * 0.00001

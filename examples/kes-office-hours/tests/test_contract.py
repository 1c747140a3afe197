"""The contract of policy engines, and what this one decides."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from kes_core import Decision, PolicyEngine, PolicyRequest
from kes_core.testing import PolicyEngineContract, sample_request
from pydantic import ValidationError

from kes_office_hours import Settings
from kes_office_hours.engine import OfficeHoursPolicyEngine

MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)


class TestOfficeHoursPolicyEngine(PolicyEngineContract):
    async def make_engine(self) -> PolicyEngine:
        return OfficeHoursPolicyEngine(Settings())

    def denied(self) -> PolicyRequest:
        return sample_request(time=MONDAY.replace(hour=3))


def decide(settings: Settings, **fields: object) -> Decision:
    request = sample_request(**fields)
    return asyncio.run(OfficeHoursPolicyEngine(settings).authorize(request)).decision


@pytest.mark.parametrize(
    ("day", "hour", "decision"),
    [(0, 7, "deny"), (0, 8, "abstain"), (0, 17, "abstain"), (0, 18, "deny"), (4, 12, "abstain"), (5, 12, "deny")],
)
def test_hours(day: int, hour: int, decision: str) -> None:
    assert decide(Settings(), time=MONDAY + dt.timedelta(days=day, hours=hour)) is Decision(decision)


def test_timezone() -> None:
    tokyo = Settings(timezone="Asia/Tokyo")  # nine hours ahead
    assert decide(tokyo, time=MONDAY.replace(hour=3)) is Decision.ABSTAIN
    assert decide(tokyo, time=MONDAY.replace(hour=12)) is Decision.DENY


def test_networks() -> None:
    inside = Settings(networks=("10.0.0.0/8", "2001:db8::/32"))
    noon = MONDAY.replace(hour=12)
    for address, decision in (("10.1.2.3", "abstain"), ("2001:db8::1", "abstain"), ("11.0.0.1", "deny"), ("", "deny")):
        assert decide(inside, time=noon, remote_address=address) is Decision(decision)


@pytest.mark.parametrize("section", [{"timezone": "Mars"}, {"networks": ["10.0.0.1/8"]}, {"opens": 24}, {"hours": 8}])
def test_settings_that_are_of_no_use(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(section)

"""The policy engine: it denies requests outside office hours. It never allows a request; other engines do that."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from zoneinfo import ZoneInfo

from kes_core import Decision, PolicyEngine, PolicyRequest, Verdict

from kes_office_hours import Settings

__all__ = ["OfficeHoursPolicyEngine"]

SATURDAY = 5


class OfficeHoursPolicyEngine(PolicyEngine):
    """Denies requests at the wrong time or from the wrong network."""

    def __init__(self, settings: Settings) -> None:
        self._opens, self._closes = settings.opens, settings.closes
        self._timezone = ZoneInfo(settings.timezone)
        self._networks = tuple(ip_network(network) for network in settings.networks)

    def __repr__(self) -> str:
        return f"<OfficeHoursPolicyEngine from {self._opens} to {self._closes} {self._timezone}>"

    async def authorize(self, request: PolicyRequest) -> Verdict:
        now = request.time.astimezone(self._timezone)
        if now.weekday() >= SATURDAY:
            return Verdict(Decision.DENY, "it is weekend")
        if not self._opens <= now.hour < self._closes:
            return Verdict(Decision.DENY, f"it is {now:%H:%M}, and open from {self._opens} to {self._closes}")
        if self._networks and not self._is_known(request.remote_address):
            return Verdict(Decision.DENY, "the address is in none of the networks")
        return Verdict(Decision.ABSTAIN, "it is open")

    def _is_known(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

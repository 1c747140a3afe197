"""The plugin: the hook that the server calls at its start. `_connect` imports the engine only if it is configured."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kes_core import PluginContext, PolicyEngineType, hookimpl
from kes_core.config import Section
from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from kes_office_hours.engine import OfficeHoursPolicyEngine

__all__ = ["Settings"]

kes_hookspec_version = 1


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, ZoneInfoNotFoundError):
        raise ValueError("is not a time zone; expected one like Europe/Berlin or UTC") from None
    return value


def _network(value: str) -> str:
    try:
        ip_network(value)
    except ValueError:
        raise ValueError("is not a network; expected one like 10.0.0.0/8") from None
    return value


class Settings(Section):
    """The section `policy_engines.office-hours` of the configuration file."""

    opens: Annotated[int, Field(ge=0, le=23)] = 8
    """The hour from which requests pass."""
    closes: Annotated[int, Field(ge=1, le=24)] = 18
    """The hour from which requests are denied."""
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    """The time zone of the hours and of the days of the week."""
    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """If not empty, only requests from these networks pass."""


async def _connect(settings: Settings, _context: PluginContext) -> OfficeHoursPolicyEngine:
    from kes_office_hours.engine import OfficeHoursPolicyEngine

    return OfficeHoursPolicyEngine(settings)


@hookimpl
def kes_policy_engines() -> Sequence[PolicyEngineType]:
    return [PolicyEngineType(name="office-hours", config=Settings, connect=_connect)]

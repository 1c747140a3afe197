"""The findings of plugins for `kes doctor`, behind the boundary. Private."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from kes_core.boundary.calls import CONNECT_TIMEOUT, TooSlowError, is_ours, origin_of, translated, within
from kes_core.faults import one_line
from kes_core.findings import Finding

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.boundary.calls import Contributed
    from kes_core.hookspecs import PluginContext

__all__ = ["diagnose"]


def _clean(finding: Finding) -> Finding:
    """Return a finding whose texts are one line each."""
    return Finding(finding.level, *(one_line(str(text)) for text in (finding.subject, finding.message, finding.cure)))


async def diagnose(
    item: Contributed,
    config: BaseModel,
    context: PluginContext,
    *,
    login: bool = False,
    seconds: float = CONNECT_TIMEOUT,
) -> list[Finding]:
    """Return the findings of a plugin's own `diagnose`, or an empty list if it has none.

    Args:
        item: The kind of the key store, policy engine, audit sink or front end.
        config: Its section of the configuration.
        context: What it gets to know of this process.
        login: Whether it may use up credentials that work a limited number of times.
        seconds: How long it may take.

    Raises:
        BackendError: The plugin failed, or took longer than `seconds`.
    """
    if item.diagnose is None:
        return []
    origin = origin_of(item)
    try:
        takes_login = "login" in inspect.signature(item.diagnose).parameters
        options = {"login": login} if takes_login else {}
        findings: Any = await within(item.diagnose(config, context, **options), seconds, origin.what)
    except TooSlowError:
        failure = origin.error(f"{origin.what} has not answered within {seconds:g} s")
    except BaseException as error:
        if is_ours(error):
            raise
        failure = translated(origin, "diagnose", error)
    else:
        if isinstance(findings, list | tuple) and all(isinstance(finding, Finding) for finding in findings):
            return [_clean(finding) for finding in findings]
        failure = origin.error(origin.returned("diagnose", findings, "a list of Finding"))
    raise failure

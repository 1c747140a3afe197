"""`/v1/policy/*` and `/v1/identity/*`: the policies and identities of the configuration file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kes_core.access.errors import RequestError
from kes_core.keystore import page_of
from kes_core.protocol import IDENTITY_NOT_FOUND, POLICY_NOT_FOUND
from kes_core.server.api.call import Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from kes_core.server.state import State

__all__ = ["HANDLERS"]

_PLACE: Final = "~"


def _origin(state: State) -> dict[str, str]:
    """Return when and by whom policies were created: with the configuration, by the admin."""
    origin = {"created_at": state.started_at.rfc3339()}
    if state.access.admin:
        origin["created_by"] = state.access.admin
    return origin


def _rules(state: State, policy: str) -> dict[str, Any]:
    settings = state.config.policy[policy]
    rules = {"allow": settings.allow, "deny": settings.deny}
    return {name: {pattern: {} for pattern in patterns} for name, patterns in rules.items() if patterns}


def _page(names: Iterable[str], argument: str, member: str) -> dict[str, Any]:
    pattern, _, start = argument.partition(_PLACE)
    prefix = pattern.removesuffix("*")
    page = page_of(names, prefix, start=start)
    return {member: page.names, "continue_at": f"{prefix}{_PLACE}{page.next}" if page.next else ""}


async def _describe_policy(call: Call) -> dict[str, Any]:
    if call.argument not in call.server_state.config.policy:
        raise RequestError(*POLICY_NOT_FOUND)
    return {"name": call.argument, **_origin(call.server_state)}


async def _read_policy(call: Call) -> dict[str, Any]:
    return {**await _describe_policy(call), **_rules(call.server_state, call.argument)}


async def _list_policies(call: Call) -> dict[str, Any]:
    return _page(call.server_state.config.policy, call.argument, "names")


def _identity(state: State, identity: str) -> dict[str, Any]:
    if identity and identity == state.access.admin:
        return {"admin": True, "created_at": state.started_at.rfc3339()}
    policy = state.policy_of.get(identity)
    if policy is None:
        raise RequestError(*IDENTITY_NOT_FOUND)
    return {"policy": policy, **_origin(state)}


async def _describe_identity(call: Call) -> dict[str, Any]:
    return _identity(call.server_state, call.argument)


async def _describe_self(call: Call) -> dict[str, Any]:
    state, identity = call.server_state, call.sender.identity
    facts = _identity(state, identity)
    rules = _rules(state, facts["policy"]) if "policy" in facts else {}
    return {"identity": identity, **facts, **rules}


async def _list_identities(call: Call) -> dict[str, Any]:
    state = call.server_state
    known = [*state.policy_of, state.access.admin] if state.access.admin else state.policy_of
    return _page(known, call.argument, "identities")


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/v1/policy/describe/": _describe_policy,
    "/v1/policy/read/": _read_policy,
    "/v1/policy/list/": _list_policies,
    "/v1/identity/describe/": _describe_identity,
    "/v1/identity/self/describe": _describe_self,
    "/v1/identity/list/": _list_identities,
}

"""The static policy engine: the `policy:` section of the configuration file (protocol section 2).

Built into the core, but an ordinary plugin. The server puts it first and gives it the policies of the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from typing import Final

from kes_core.config import PolicySettings, Section
from kes_core.config.sections import STATIC_ENGINE
from kes_core.hookspecs import PluginContext, PolicyEngineType, hookimpl
from kes_core.policy import Decision, PolicyEngine, PolicyRequest, Verdict

__all__ = ["ENGINE_NAME", "StaticPolicyConfig", "StaticPolicyEngine", "matching_pattern"]

kes_hookspec_version = 1

ENGINE_NAME: Final = STATIC_ENGINE


class _Patterns:
    """A compiled set of patterns. A pattern that ends in `*` matches by prefix, any other only the equal path."""

    __slots__ = ("_exact", "_prefixes", "all")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.all = patterns = tuple(patterns)
        # An empty pattern matches nothing, not even an empty path.
        self._exact = frozenset(pattern for pattern in patterns if pattern and not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def match(self, path: str) -> bool:
        return path in self._exact or path.startswith(self._prefixes)

    def find(self, path: str) -> str | None:
        """Return the first pattern that matches. Slower than `match`."""
        return next((pattern for pattern in self.all if _Patterns([pattern]).match(path)), None)

    def closest(self, request: PolicyRequest) -> str:
        """Return the pattern that comes closest to the path of `request`; empty if none comes close.

        It is a pattern for the same API with a similar name, or else one for the same name and another API.

        Clients choose the paths and can send many, so this must be fast for a long path too.
        """
        begins = [(commonprefix((pattern.removesuffix("*"), request.path)), pattern) for pattern in self.all]  # noqa: RUF071 # by characters: patterns may end inside a part of a path
        shared, pattern = max(begins, key=lambda item: len(item[0]), default=("", ""))
        if len(shared) * 4 >= len(request.api or request.path) * 3:  # most of the API's own path
            return pattern
        resources = ((pattern, pattern.rpartition("/")[2]) for pattern in self.all if request.resource)
        return next((pattern for pattern, names in resources if _Patterns([names]).match(request.resource)), "")


_NOTHING: Final = _Patterns(())


class _Policy:
    __slots__ = ("allow", "deny", "name")

    def __init__(self, name: str, settings: PolicySettings) -> None:
        self.name = name
        self.allow = _Patterns(settings.allow) if settings.allow else _NOTHING
        self.deny = _Patterns(settings.deny) if settings.deny else _NOTHING

    def refuse(self, request: PolicyRequest) -> Verdict:
        """Return the verdict on a request that this policy does not allow, with the rule that it follows from."""
        rule = self.deny.find(request.path)
        if rule is not None:
            return Verdict(Decision.DENY, f"denied by policy {self.name!r}: its deny rule {rule!r} matches")
        closest = self.allow.closest(request)
        hint = f"; the closest is {closest!r}" if closest else ""
        return Verdict(Decision.ABSTAIN, f"no allow rule of policy {self.name!r} matches{hint}")


def matching_pattern(patterns: Iterable[str], path: str) -> str | None:
    """Return the first of `patterns` that matches the decoded request path `path`."""
    return _Patterns(patterns).find(path)


class StaticPolicyConfig(Section):
    """The policies of the configuration file by name."""

    policies: Mapping[str, PolicySettings]


class StaticPolicyEngine(PolicyEngine):
    """Allows what the one policy of an identity allows and does not deny; abstains for identities without a policy."""

    is_immediate = True
    is_repeatable = True

    def __init__(self, policies: Mapping[str, PolicySettings]) -> None:
        self._policies = {name: _Policy(name, settings) for name, settings in policies.items()}
        # Names, not policies: Python's garbage collector does not look into a mapping of text to text.
        self._policy_of = {identity: name for name, settings in policies.items() for identity in settings.identities}

    async def authorize(self, request: PolicyRequest) -> Verdict:
        name = self._policy_of.get(request.identity)
        if name is None:
            return Verdict(Decision.ABSTAIN, "the identity is in no policy")
        policy = self._policies[name]
        if not policy.deny.match(request.path) and policy.allow.match(request.path):
            return Verdict(Decision.ALLOW, policy.name)
        return policy.refuse(request)


async def _connect(config: StaticPolicyConfig, _context: PluginContext) -> StaticPolicyEngine:
    # Beside the event loop: there may be thousands of policies, and others are being served.
    return await asyncio.to_thread(StaticPolicyEngine, config.policies)


@hookimpl
def kes_policy_engines() -> Sequence[PolicyEngineType]:
    return [PolicyEngineType(name=ENGINE_NAME, config=StaticPolicyConfig, connect=_connect)]

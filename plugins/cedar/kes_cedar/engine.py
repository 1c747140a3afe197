"""The engine: asks Cedar about each request and translates the answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

import cedarpy

from kes_cedar.files import Rules, load_rules
from kes_cedar.requests import cedar_request
from kes_core import Decision, PolicyEngine, PolicyRequest, Verdict

if TYPE_CHECKING:
    from kes_cedar import CedarConfig

__all__ = ["CedarPolicyEngine"]


class CedarPolicyEngine(PolicyEngine):
    """Allows what a `permit` matches and denies what a `forbid` matches. Otherwise `default` decides.

    All files are parsed once. A request takes 100 microseconds or more and does not wait; see the README.
    """

    is_immediate = True

    def __init__(self, rules: Rules, *, deny_by_default: bool) -> None:
        self._rules = rules
        self._deny_by_default = deny_by_default

    @classmethod
    async def open(cls, config: CedarConfig, directory: Path = Path()) -> Self:
        """Read the files that `config` names; relative paths start at `directory`.

        Raises:
            BackendError: A file can't be read, or Cedar refuses it. The message names the file, and the line if known.
        """
        # In a thread, so that a server that reloads thousands of policies still answers requests.
        rules = await asyncio.to_thread(load_rules, config, directory)
        return cls(rules, deny_by_default=config.default == "deny")

    async def authorize(self, request: PolicyRequest) -> Verdict:
        rules = self._rules
        try:
            asked = cedar_request(request)
            # Not in cedarpy, which fails on a path that is not UTF-8.
            asked["context"] = json.dumps(asked["context"], ensure_ascii=False)
            answer = cedarpy.is_authorized(asked, rules.policies, rules.entities, rules.schema)
        except ValueError as error:
            return Verdict(Decision.DENY, f"Cedar can't be asked: {_one_line(str(error))}")
        diagnostics = answer.diagnostics
        # Cedar skips a policy that fails. Skipping a `forbid` would grant what it forbids.
        if diagnostics.errors or answer.decision is cedarpy.Decision.NoDecision:
            return Verdict(Decision.DENY, f"Cedar failed: {_one_line('; '.join(diagnostics.errors))}")
        annotations = diagnostics.id_annotations_by_reason
        reason = ", ".join(sorted(rules.describe(policy, annotations.get(policy)) for policy in diagnostics.reasons))
        if answer.decision is cedarpy.Decision.Allow:
            return Verdict(Decision.ALLOW, reason)
        if reason:
            return Verdict(Decision.DENY, f"forbidden by {reason}")
        if self._deny_by_default:
            return Verdict(Decision.DENY, "no policy matches, and the default is deny")
        return Verdict(Decision.ABSTAIN, "no policy matches")


def _one_line(text: str) -> str:
    return " ".join(text.split())

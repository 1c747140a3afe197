"""Whether a sender may make a request, with the reasons (protocol section 2)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from kes_core.boundary import PluginError
from kes_core.policy import Decision, PolicyRequest, Verdict, combine
from kes_core.protocol import IDENTITY_NOT_FOUND, NOT_ALLOWED, Auth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kes_core.access.rules import AccessRules
    from kes_core.access.sender import ProvenClient, Sender
    from kes_core.protocol import Route

__all__ = ["AccessDecision", "EngineAnswer", "KnownRequest", "decide", "decide_for_connection"]


class EngineAnswer(NamedTuple):
    """The answer of one policy engine to a request."""

    engine: str
    verdict: Verdict
    failure: PluginError | None = None
    """Why the engine gave no verdict. Its answer then counts as a denial."""


class AccessDecision(NamedTuple):
    """Whether a request is allowed, and by which check."""

    allowed: bool
    layer: str
    """The check that decided: "certificate" or "policy"."""
    rule: str = ""
    """The rule of that check in a few words. Empty if the policy engines decided: see `reason`."""
    status: int = 200
    """The status of the answer to a refused request."""
    message: str = ""
    """The answer to a refused request."""
    answers: Sequence[EngineAnswer] = ()
    """What the policy engines said, in the order in which they were asked, up to the first that denied."""
    is_repeatable: bool = False
    """Whether each request with this identity, method and path gets this decision, while the rules are the same."""

    @property
    def reason(self) -> str:
        """The reason, for the operator: the rule, or the reasons of the engines; after a denial, only that engine's."""
        if not self.answers:
            return self.rule
        last = self.answers[-1]
        deciding = [last] if last.verdict.decision is Decision.DENY else self.answers
        return "; ".join(f"{answer.engine}: {answer.verdict.reason}" for answer in deciding)

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """What the policy engines answered, as name of the engine and decision."""
        return tuple(
            (answer.engine, answer.verdict.decision.value if answer.failure is None else "error")
            for answer in self.answers
        )


class KnownRequest(NamedTuple):
    """What a connection remembers of a request that passed all checks of its route, sender, access and argument.

    All of this follows from the connection's client, the access rules, and the method and path of the request.
    """

    route: Route
    argument: str
    path: str
    """The decoded path."""
    sender: Sender
    labels: tuple[tuple[str, str], ...]
    """What the policy engines answered (`AccessDecision.labels`)."""
    record: str
    """What its audit records say of the request (`kes_core.audit.event.request_text`)."""


_OPEN: Final = AccessDecision(True, "policy", "no policy is needed for this API", is_repeatable=True)
_ADMIN: Final = AccessDecision(True, "policy", "this is the admin, who may do everything", is_repeatable=True)


async def decide(
    rules: AccessRules, route: Route, sender: Sender, *, method: str, path: str, argument: str
) -> AccessDecision:
    """Decide whether `sender` may make a request.

    A single denial refuses the request, and at least one engine has to allow it: see `policy.combine`.

    Args:
        rules: The rules of access.
        route: The route of the request.
        sender: The sender of the request.
        method: Its method.
        path: Its decoded path, exactly as the server will execute it.
        argument: The part of the path after the route's path, not yet checked.
    """
    if route.auth is Auth.NONE or route.path in rules.open_routes:
        return _OPEN
    if sender.error:
        status, message = IDENTITY_NOT_FOUND if route.auth is Auth.CERTIFICATE else (400, sender.error)
        return AccessDecision(False, "certificate", sender.error, status, message)
    if route.auth is Auth.CERTIFICATE:
        return _OPEN
    if sender.is_admin:
        return _ADMIN
    request = PolicyRequest(
        identity=sender.identity,
        method=method,
        path=path,
        api=route.path,
        resource=argument,
        remote_address=sender.address,
        time=datetime.now(UTC),
        certificate=sender.certificate,
    )
    answers = []
    decisions = []
    is_repeatable = True
    for name, engine in rules.engines:
        is_repeatable = is_repeatable and engine.is_repeatable
        try:
            verdict, failure = await engine.authorize(request), None
        except PluginError as error:
            verdict, failure = Verdict(Decision.DENY, "failed"), error
        answers.append(EngineAnswer(name, verdict, failure))
        decisions.append(verdict.decision)
        if verdict.decision is Decision.DENY:  # the other engines can't change that
            break
    if combine(decisions) is Decision.ALLOW:
        return AccessDecision(True, "policy", "", 200, "", answers, is_repeatable)
    return AccessDecision(False, "policy", "", *NOT_ALLOWED, answers)


async def decide_for_connection(
    client: ProvenClient, rules: AccessRules, route: Route, sender: Sender, *, method: str, path: str, argument: str
) -> AccessDecision:
    """Decide as `decide`. Use what the connection remembers, if the policy engines allow it.

    Only permissions of the client itself are remembered: no refusals, and nothing of clients that a TLS proxy forwards.
    New rules (`AccessRules.mark`) clear them.
    """
    is_own = client.sender_under(rules) is sender
    if is_own and (known := client.permissions.get((method, path))) is not None:
        return known
    decision = await decide(rules, route, sender, method=method, path=path, argument=argument)
    if is_own and decision.is_repeatable and client.sender_under(rules) is sender:  # a reload may have come between
        client.remember_permission(method, path, decision)
    return decision

"""The interface of a policy engine, which plugins implement."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

__all__ = ["CertificateFacts", "Decision", "PolicyEngine", "PolicyRequest", "Verdict", "combine"]


class Decision(enum.Enum):
    """An engine's answer to a request."""

    ALLOW = "allow"
    """The engine grants the request. The server executes it unless another engine denies it."""
    DENY = "deny"
    """The engine denies the request. The server refuses it, whatever the other engines answer."""
    ABSTAIN = "abstain"
    """No rule of the engine covers the request. The server refuses it if all engines abstain."""


def combine(decisions: Iterable[Decision]) -> Decision:
    """Return the decision of several engines together: deny if one denies, else allow if one allows, else abstain.

    The server refuses a request unless the result is `ALLOW`, so also if all engines abstain or none is configured.
    """
    combined = Decision.ABSTAIN
    for decision in decisions:
        if decision is Decision.DENY:
            return decision
        if decision is Decision.ALLOW:
            combined = decision
    return combined


class Verdict(NamedTuple):
    """A decision and its reason."""

    decision: Decision
    reason: str
    """The policy and the rule that decided, as one line of at most 512 characters. It goes to the operator's log and
    never to the client."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What the client's certificate states. The statements are unverified claims unless `verified` is true."""

    subject: str
    """The subject as an RFC 4514 string."""
    issuer: str
    """The issuer as an RFC 4514 string."""
    serial_number: int
    not_before: datetime
    """In UTC."""
    not_after: datetime
    """In UTC."""
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    verified: bool = False
    """Whether the server verified the chain against its `tls.ca` (`tls.auth: on`)."""


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """The facts about a request on which a policy engine decides."""

    identity: str
    """The client's identity: lower-case hex of the SHA-256 of its public key (protocol section 1)."""
    method: str
    path: str
    """The decoded path of the request, exactly as the server will execute it: `/v1/key/generate/my-key`."""
    api: str
    """The route without its argument: `/v1/key/generate/`."""
    resource: str
    """The route's argument, not yet validated: `my-key`. Empty for a route without an argument."""
    remote_address: str
    """The client's IP address as text. Behind a trusted TLS proxy, the address that the proxy forwarded. 0.0.0.0 for a
    client of a front end that has no address, as on a unix socket."""
    time: datetime
    """When the request arrived, in UTC."""
    certificate: CertificateFacts | None = field(default=None, repr=False)


class PolicyEngine(ABC):
    """Decides whether the server may execute a request.

    The server asks once per request, concurrently, on its event loop.
    """

    is_immediate: bool = False
    """Whether `authorize` never waits for anything. The server may then call it outside of a task, which saves time."""
    is_repeatable: bool = False
    """Whether the engine, until it is closed, always gives the same answer to requests with the same identity, method
    and path, whatever the address, the time and the certificate. The server may then keep an answer for the next
    request of a connection."""

    @abstractmethod
    async def authorize(self, request: PolicyRequest) -> Verdict:
        """Answer one request within a second.

        The server refuses the request if the engine raises, takes longer or does not return a `Verdict`.

        Raises:
            BackendError: The engine can't decide. The message tells the operator why. Of any other exception the log
                shows only the type and the name of the engine.
        """

    async def close(self) -> None:
        """Release the engine's resources, within 5 seconds. No other call follows."""
        return

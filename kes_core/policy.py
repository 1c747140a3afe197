"""What a policy engine is: the interface that engines implement, and how their answers are combined."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

__all__ = ["CertificateFacts", "Decision", "PolicyEngine", "PolicyRequest", "Verdict"]


class Decision(enum.Enum):
    """An engine's answer to a request."""

    ALLOW = "allow"
    """This engine grants the request, if no other refuses it."""
    DENY = "deny"
    """The request is refused, whatever the others say."""
    ABSTAIN = "abstain"
    """This engine has nothing to say about the request. If all abstain, it is refused."""


class Verdict(NamedTuple):
    """A decision and its reason."""

    decision: Decision
    reason: str
    """For the operator's log, never sent to the client: which rule of which policy decided. One line; what is longer
    than 512 characters is cut off."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What the client's certificate says of itself. Nothing of it is verified unless `verified` is true."""

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
    """What a policy engine may base its answer on."""

    identity: str
    """The client's identity: lower-case hex of the SHA-256 of its public key (protocol section 1)."""
    method: str
    path: str
    """The decoded path of the request, exactly as it will be executed: `/v1/key/generate/my-key`."""
    api: str
    """The route without its argument: `/v1/key/generate/`."""
    resource: str
    """The route's argument, not yet validated: `my-key`; empty for routes that take none."""
    remote_address: str
    """The client's IP address as text; behind a trusted TLS proxy the address it forwarded."""
    time: datetime
    """When the request arrived, in UTC."""
    certificate: CertificateFacts | None = field(default=None, repr=False)


class PolicyEngine(ABC):
    """Decides whether a request may be executed. Asked once a request, concurrently, on the server's event loop."""

    @abstractmethod
    async def authorize(self, request: PolicyRequest) -> Verdict:
        """Answer one request within a second.

        The request is refused if the engine raises, takes longer or returns anything but a `Verdict`. The log then has
        the name of the engine and the type of the error, and not its text.
        """

    async def close(self) -> None:
        """Release what the engine holds, within 5 seconds. It is not used afterwards."""
        return

"""What servers answer, as a client sees it. Private to `kes_core.client`."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "APIRoute",
    "AuditEvent",
    "DataKey",
    "ErrorEvent",
    "IdentityInfo",
    "KeyInfo",
    "PolicyInfo",
    "ServerStatus",
    "ServerVersion",
]


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """Version and commit of a server."""

    version: str
    commit: str


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The state of a server."""

    version: str
    os: str
    arch: str
    uptime: int
    """Seconds."""
    cpus: int
    usable_cpus: int
    heap_memory: int
    """Bytes."""
    stack_memory: int
    """Bytes."""
    keystore_latency: int | None
    """How long the key store took to answer, in nanoseconds; nothing while it is down."""
    keystore_reachable: bool
    keystore_reason: str = ""
    """Why the key store can't serve, if the server says so: "sealed", "unreachable", ..."""
    certificate_expires_at: str = ""
    """When the server's certificate expires, in RFC 3339; empty while that is more than 14 days away."""
    client_certificates_expiring: int = 0
    """How many clients the server has seen whose certificate expires within 14 days."""


@dataclass(frozen=True, slots=True)
class APIRoute:
    """One API that a server offers."""

    method: str
    path: str
    max_body: int
    """Bytes."""
    timeout: int
    """Seconds; 0: none."""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Facts about a key."""

    name: str
    algorithm: str
    created_at: str
    """RFC 3339, in UTC, with up to nanoseconds."""
    created_by: str
    """An identity; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data encryption key: use the plaintext, forget it, and keep the ciphertext next to the data."""

    plaintext: bytes = field(repr=False)
    """32 bytes."""
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy. The patterns are only there where they were asked for."""

    name: str
    created_at: str
    created_by: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    """An identity and what it may do. The patterns are only there in what a client learns about itself."""

    identity: str
    is_admin: bool
    policy: str
    """The name of its policy; empty for the admin."""
    created_at: str
    created_by: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One request that the server has answered, or refused."""

    time: str
    """RFC 3339, in UTC, with up to nanoseconds."""
    ip: str
    """Where the request came from."""
    path: str
    """What it asked for. Written by the client: it may hold anything."""
    identity: str
    """Who asked; empty without a client certificate."""
    code: int
    """The HTTP status of the answer."""
    response_time: int
    """How long the answer took, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """One entry of the server's error log."""

    message: str
    """A formatted line, or several with a traceback."""

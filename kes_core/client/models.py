"""The answers of servers as Python objects (protocol section 4). The names are public in `kes_core.client`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

__all__ = [
    "APIRoute",
    "AuditEvent",
    "DataKey",
    "ErrorEvent",
    "IdentityInfo",
    "KeyInfo",
    "KeyRotation",
    "KeyVersionInfo",
    "PolicyInfo",
    "ServerStatus",
    "ServerVersion",
    "WrappingKey",
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
    uptime: timedelta
    """The time since the server started, in whole seconds."""
    cpus: int
    usable_cpus: int
    heap_memory: int
    """Bytes."""
    stack_memory: int
    """Bytes."""
    keystore_latency: timedelta | None
    """The key store's response time, to the microsecond; `None` while it is down."""
    keystore_reachable: bool
    keystore_reason: str = ""
    """Why the key store can't serve, if the server says so: "unreachable", "locked", ..."""
    certificate_expires_at: datetime | None = None
    """When the server's certificate expires; `None` if the server does not say it."""
    client_certificates_expiring: int = 0
    """How many clients the server has seen whose certificate expires within 14 days."""
    workers: int | None = None
    """How many processes serve requests; `None`, as for the following, if the server does not say it."""
    keystore: str = ""
    """The kind of key store, as in "vault"; empty if the server does not say it."""
    policies: int | None = None
    identities: int | None = None
    """How many identities have a policy."""
    frontends: Mapping[str, str] = field(default_factory=dict)
    """The front ends, by name: "ready", or why it can't serve. Empty if the server does not say it."""


@dataclass(frozen=True, slots=True)
class APIRoute:
    """One API that a server offers."""

    method: str
    path: str
    max_body: int
    """Bytes."""
    timeout: timedelta | None
    """The time limit for the whole answer; `None` if there is none."""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Facts about a key."""

    name: str
    algorithm: str
    created_at: datetime
    """In UTC, to the microsecond."""
    created_by: str
    """An identity; empty if it is not known."""
    version: int = 1
    """The newest version: 1 if the key was never rotated."""
    state: str = "enabled"
    """"enabled", "decrypt-only", "disabled", "scheduled-for-deletion" or "deleting"."""
    delete_at: datetime | None = None
    """When the key is deleted, if its deletion is scheduled."""
    min_decryption_version: int = 1
    """The oldest version that decrypts."""


@dataclass(frozen=True, slots=True)
class KeyVersionInfo:
    """Facts about a version of a key."""

    version: int
    algorithm: str
    created_at: datetime
    """In UTC, to the microsecond."""
    created_by: str
    """An identity; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """The result of a rotation."""

    version: int
    """The newest version of the key."""
    created_at: datetime
    """When that version was made: in UTC, to the microsecond."""
    is_rotated: bool
    """Whether this request made it; if not, the newest version was young enough."""


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A public key of the server. Only the servers on its key store can read what is wrapped for it."""

    id: str
    """The SHA-256 of the public key in DER, in hex."""
    public_key: str
    """An RSA key of 4096 bits, in PEM."""
    algorithm: str
    """How keys are wrapped: "RSA-4096-OAEP-SHA256+AES-256-KWP"."""
    created_at: datetime
    expires_at: datetime
    """Until then the server imports what is wrapped for it."""

    def wrap(self, key: bytes) -> bytes:
        """Wrap the 32 bytes of a key, for `import_wrapped_key`.

        Raises:
            ValueError: The server's public key is not one that keys are wrapped for.
        """
        from kes_core.keys.wrapping import read_public_key, wrap

        return wrap(read_public_key(self.public_key.encode()), key)


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data encryption key: use the plaintext, forget it, and keep the ciphertext next to the data."""

    plaintext: bytes = field(repr=False)
    """32 bytes."""
    ciphertext: bytes
    version: int = 1
    """The version of the key that encrypted it: 1 if the key was never rotated."""


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy. `describe_policy` leaves the patterns empty; `read_policy` fills them in."""

    name: str
    created_at: datetime
    created_by: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    """An identity and what it may do. Only `describe_self` fills in the patterns."""

    identity: str
    is_admin: bool
    policy: str
    """The name of its policy; empty for the admin."""
    created_at: datetime
    created_by: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One request that the server has answered or refused."""

    time: datetime
    """In UTC, to the microsecond."""
    ip: str
    """The client's IP address."""
    path: str
    """The decoded path of the request. It comes from the client and may contain anything."""
    identity: str
    """The sender's identity; empty without a client certificate."""
    code: int
    """The HTTP status of the answer."""
    response_time: timedelta
    """How long the answer took, to the microsecond."""
    policy: str = ""
    """The name of the identity's policy; empty if it has none, or if the server does not say it."""
    reason: str = ""
    """Why the request was refused or failed; empty otherwise, or if the server does not say it."""
    frontend: str = ""
    """The front end through which the request came; empty for a request over HTTP."""
    request_id: str = ""
    """What the front end's client calls the request, if it says so. It may contain anything."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """One entry of the server's error log."""

    message: str
    """A formatted line, or several lines with a traceback."""

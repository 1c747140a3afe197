"""Requests and answers of the API as a client sees them: what both clients share. Private to `kes_core.client`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

__all__ = [
    "APIError",
    "APIRoute",
    "DataKey",
    "DecryptionError",
    "IdentityInfo",
    "IdentityNotFoundError",
    "KESConnectionError",
    "KESError",
    "KeyExistsError",
    "KeyInfo",
    "KeyNotFoundError",
    "NotAllowedError",
    "PolicyInfo",
    "PolicyNotFoundError",
    "Request",
    "ServerStatus",
    "ServerVersion",
    "raise_for_status",
]

T = TypeVar("T")


class KESError(Exception):
    """A request has not been successful."""


class KESConnectionError(KESError):
    """No server could be reached, or the connection broke before it answered."""


class APIError(KESError):
    """The server has refused a request, or failed."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        text = message or f"the server answered with status {status}"
        super().__init__(f"{text} ({reason})" if reason else text)
        self.status = status
        self.message = message
        self.reason = reason
        """Why the server's key store can't serve, if the server says so: "sealed", "unreachable", ..."""


class NotAllowedError(APIError):
    """The client's identity may not do this."""


class KeyExistsError(APIError):
    """There is a key of that name already."""


class KeyNotFoundError(APIError):
    """There is no key of that name."""


class PolicyNotFoundError(APIError):
    """There is no policy of that name."""


class IdentityNotFoundError(APIError):
    """The identity is neither the admin nor in a policy."""


class DecryptionError(APIError):
    """The ciphertext is not authentic: changed, or of another key or context."""


_ERRORS: Final[Mapping[tuple[int, str], type[APIError]]] = {
    (403, "not authorized: insufficient permissions"): NotAllowedError,
    (403, "prohibited by policy"): NotAllowedError,
    (400, "key already exists"): KeyExistsError,
    (400, "key does already exist"): KeyExistsError,
    (404, "key does not exist"): KeyNotFoundError,
    (404, "policy does not exist"): PolicyNotFoundError,
    (404, "identity does not exist"): IdentityNotFoundError,
    (400, "decryption failed: ciphertext is not authentic"): DecryptionError,
}


def raise_for_status(status: int, body: bytes) -> None:
    """Raise the `APIError` that an answer stands for, if it stands for one."""
    if 200 <= status < 300:  # noqa: PLR2004 # the statuses of success
        return
    reason = ""
    try:
        members = json.loads(body)
        # Releases before 2023 called the member otherwise.
        message = str(members.get("message") or members.get("error") or "")
        reason = str(members.get("reason") or "")
    except (ValueError, AttributeError):
        message = body[:200].decode("utf-8", "replace").strip()
    raise _ERRORS.get((status, message), APIError)(status, message, reason)


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
class Request(Generic[T]):
    """A request to the API, and how to read the answer."""

    method: str
    path: str
    parse: Callable[[Any], T]
    """From the JSON of a successful answer; nothing where there is none."""
    body: Any = None
    repeatable: bool = True
    """Whether it may be sent again when nobody knows whether it has arrived."""


def _path(api: str, argument: str) -> str:
    # Dots too, or `..` would be taken for a step up in the path and never reach the server. No valid name has any.
    escaped = quote(argument, safe="*~", errors="surrogateescape").replace(".", "%2E")
    return f"/v1/{api}/{escaped}"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _nothing(_answer: Any) -> None:
    return


def version() -> Request[ServerVersion]:
    return Request("GET", "/version", lambda a: ServerVersion(a["version"], a["commit"]))


def ready() -> Request[None]:
    return Request("GET", "/v1/ready", _nothing)


def status() -> Request[ServerStatus]:
    return Request(
        "GET",
        "/v1/status",
        lambda a: ServerStatus(
            version=a["version"],
            os=a["os"],
            arch=a["arch"],
            uptime=a["uptime"],
            cpus=a["num_cpu"],
            usable_cpus=a["num_cpu_used"],
            heap_memory=a["mem_heap_used"],
            stack_memory=a["mem_stack_used"],
            keystore_latency=a.get("keystore_latency"),
            keystore_reachable=not (a.get("keystore_unreachable") or a.get("keystore_unavailable")),
            keystore_reason=str(a.get("keystore_reason") or ""),
        ),
    )


def apis() -> Request[list[APIRoute]]:
    return Request(
        "GET", "/v1/api", lambda a: [APIRoute(r["method"], r["path"], r["max_body"], r["timeout"]) for r in a]
    )


def create_key(name: str) -> Request[None]:
    return Request("PUT", _path("key/create", name), _nothing, repeatable=False)


def import_key(name: str, key: bytes, cipher: str) -> Request[None]:
    body = {"key": _encode(key), "cipher": cipher}
    return Request("PUT", _path("key/import", name), _nothing, body, repeatable=False)


def describe_key(name: str) -> Request[KeyInfo]:
    return Request(
        "GET",
        _path("key/describe", name),
        lambda a: KeyInfo(a["name"], a["algorithm"], a["created_at"], a.get("created_by", "")),
    )


def delete_key(name: str) -> Request[None]:
    return Request("DELETE", _path("key/delete", name), _nothing)


def generate_key(name: str, context: bytes) -> Request[DataKey]:
    return Request(
        "PUT",
        _path("key/generate", name),
        lambda a: DataKey(base64.b64decode(a["plaintext"]), base64.b64decode(a["ciphertext"])),
        {"context": _encode(context)} if context else {},
    )


def encrypt(name: str, plaintext: bytes, context: bytes) -> Request[bytes]:
    body = {"plaintext": _encode(plaintext), "context": _encode(context)}
    return Request("PUT", _path("key/encrypt", name), lambda a: base64.b64decode(a["ciphertext"]), body)


def decrypt(name: str, ciphertext: bytes, context: bytes) -> Request[bytes]:
    body = {"ciphertext": _encode(ciphertext), "context": _encode(context)}
    return Request("PUT", _path("key/decrypt", name), lambda a: base64.b64decode(a["plaintext"]), body)


def decrypt_all(name: str, items: Iterable[tuple[bytes, bytes]]) -> Request[list[bytes]]:
    body = [{"ciphertext": _encode(ciphertext), "context": _encode(context)} for ciphertext, context in items]
    return Request(
        "PUT", _path("key/bulk/decrypt", name), lambda a: [base64.b64decode(item["plaintext"]) for item in a], body
    )


def hmac(name: str, message: bytes) -> Request[bytes]:
    return Request("PUT", _path("key/hmac", name), lambda a: base64.b64decode(a["hmac"]), {"message": _encode(message)})


def list_names(resource: str, pattern: str) -> Request[tuple[list[str], str]]:
    """One page of names, and the pattern that asks for the next; empty after the last."""
    member = "identities" if resource == "identity" else "names"
    return Request("GET", _path(f"{resource}/list", pattern), lambda a: (a[member] or [], a.get("continue_at") or ""))


def _policy(answer: Mapping[str, Any]) -> PolicyInfo:
    return PolicyInfo(
        answer["name"],
        answer["created_at"],
        answer.get("created_by", ""),
        tuple(answer.get("allow") or ()),
        tuple(answer.get("deny") or ()),
    )


def describe_policy(name: str) -> Request[PolicyInfo]:
    return Request("GET", _path("policy/describe", name), _policy)


def read_policy(name: str) -> Request[PolicyInfo]:
    return Request("GET", _path("policy/read", name), _policy)


def _identity(answer: Mapping[str, Any], identity: str) -> IdentityInfo:
    return IdentityInfo(
        identity,
        answer.get("admin", False),
        answer.get("policy") or "",
        answer["created_at"],
        answer.get("created_by", ""),
        tuple(answer.get("allow") or ()),
        tuple(answer.get("deny") or ()),
    )


def describe_identity(identity: str) -> Request[IdentityInfo]:
    return Request("GET", _path("identity/describe", identity), lambda a: _identity(a, identity))


def describe_self() -> Request[IdentityInfo]:
    return Request("GET", "/v1/identity/self/describe", lambda a: _identity(a, a["identity"]))

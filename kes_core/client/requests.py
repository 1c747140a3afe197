"""The API as requests, each with a parser for its answer (protocol section 4). Both clients use them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from kes_core.client.models import (
    APIRoute,
    AuditEvent,
    DataKey,
    ErrorEvent,
    IdentityInfo,
    KeyInfo,
    KeyRotation,
    KeyVersionInfo,
    PolicyInfo,
    ServerStatus,
    ServerVersion,
    WrappingKey,
)
from kes_core.units import parse_time

__all__ = ["Log", "Request"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A request to the API, and how to parse its answer."""

    method: str
    path: str
    parse: Callable[[Any], T]
    """Parses the JSON of a successful answer; gets `None` if the answer has no content."""
    body: Any = None
    repeatable: bool = True
    """Whether the client may send the request again if it does not know whether the first one arrived."""
    is_text: bool = False
    """Whether the answer is plain text instead of JSON."""


@dataclass(frozen=True, slots=True)
class Log(Generic[T]):
    """A log, and how to parse its lines."""

    path: str
    parse: Callable[[Any], T]
    """Parses the JSON of a line."""


def _path(api: str, argument: str) -> str:
    # Escape dots too, or httpx would resolve `..` and the server would never see it. No valid name has a dot.
    escaped = quote(argument, safe="*~", errors="surrogateescape").replace(".", "%2E")
    return f"/v1/{api}/{escaped}"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _nothing(_answer: Any) -> None:
    return


def _nanoseconds(number: int) -> timedelta:
    return timedelta(microseconds=number / 1000)


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
            uptime=timedelta(seconds=a["uptime"]),
            cpus=a["num_cpu"],
            usable_cpus=a["num_cpu_used"],
            heap_memory=a["mem_heap_used"],
            stack_memory=a["mem_stack_used"],
            keystore_latency=_nanoseconds(a["keystore_latency"]) if a.get("keystore_latency") is not None else None,
            keystore_reachable=not (a.get("keystore_unreachable") or a.get("keystore_unavailable")),
            keystore_reason=str(a.get("keystore_reason") or ""),
            certificate_expires_at=parse_time(a["certificate_expires_at"]) if a.get("certificate_expires_at") else None,
            client_certificates_expiring=int(a.get("client_certificates_expiring") or 0),
            workers=a.get("workers"),
            keystore=str(a.get("keystore") or ""),
            policies=a.get("policies"),
            identities=a.get("identities"),
            frontends={str(name): str(state) for name, state in (a.get("frontends") or {}).items()},
        ),
    )


def metrics() -> Request[str]:
    return Request("GET", "/v1/metrics", str, is_text=True)


def apis() -> Request[list[APIRoute]]:
    def route(row: Mapping[str, Any]) -> APIRoute:
        timeout = timedelta(seconds=row["timeout"]) if row["timeout"] else None
        return APIRoute(row["method"], row["path"], row["max_body"], timeout)

    return Request("GET", "/v1/api", lambda a: [route(row) for row in a])


def create_key(name: str) -> Request[None]:
    return Request("PUT", _path("key/create", name), _nothing, repeatable=False)


def import_key(name: str, key: bytes, cipher: str) -> Request[None]:
    body = {"key": _encode(key), "cipher": cipher}
    return Request("PUT", _path("key/import", name), _nothing, body, repeatable=False)


def wrapping_key() -> Request[WrappingKey]:
    def wrapping_key(answer: Mapping[str, Any]) -> WrappingKey:
        created_at, expires_at = parse_time(answer["created_at"]), parse_time(answer["expires_at"])
        return WrappingKey(answer["id"], answer["public_key"], answer["algorithm"], created_at, expires_at)

    return Request("GET", "/v1/key/wrapping-key", wrapping_key)


def import_wrapped_key(name: str, wrapped_key: bytes, wrapping_key: str, cipher: str) -> Request[None]:
    body = {"wrapped_key": _encode(wrapped_key), "wrapping_key": wrapping_key, "cipher": cipher}
    return Request("PUT", _path("key/import", name), _nothing, body, repeatable=False)


def import_key_version(name: str, key: bytes, wrapping_key: str | None, cipher: str | None) -> Request[KeyRotation]:
    wrapped = {"wrapped_key": _encode(key), "wrapping_key": wrapping_key}
    body = {"key": _encode(key)} if wrapping_key is None else wrapped
    if cipher is not None:
        body["cipher"] = cipher
    return Request("PUT", _path("key/import-version", name), _rotation, body, repeatable=False)


def describe_key(name: str) -> Request[KeyInfo]:
    return Request(
        "GET",
        _path("key/describe", name),
        lambda a: KeyInfo(
            a["name"],
            a["algorithm"],
            parse_time(a["created_at"]),
            a.get("created_by", ""),
            _version(a),
            a.get("state") or "enabled",
            parse_time(a["delete_at"]) if a.get("delete_at") else None,
            int(a.get("min_decryption_version") or 1),
        ),
    )


def _version(answer: Mapping[str, Any]) -> int:
    return int(answer.get("version") or 1)


def rotate_key(name: str, if_older_than: timedelta | None) -> Request[KeyRotation]:
    body = {} if if_older_than is None else {"if_older_than": if_older_than.total_seconds()}
    return Request(
        "PUT",
        _path("key/rotate", name),
        _rotation,
        body,
        repeatable=if_older_than is not None,
    )


def _rotation(answer: Mapping[str, Any]) -> KeyRotation:
    return KeyRotation(_version(answer), parse_time(answer["created_at"]), bool(answer["rotated"]))


def disable_key(name: str, *, allow_decrypt: bool) -> Request[None]:
    return Request("PUT", _path("key/disable", name), _nothing, {"allow_decrypt": True} if allow_decrypt else {})


def enable_key(name: str) -> Request[None]:
    return Request("PUT", _path("key/enable", name), _nothing)


def schedule_key_deletion(name: str, after: timedelta | None) -> Request[datetime]:
    body = {} if after is None else {"in": after.total_seconds()}
    return Request("PUT", _path("key/schedule-delete", name), lambda a: parse_time(a["delete_at"]), body)


def undelete_key(name: str) -> Request[None]:
    return Request("PUT", _path("key/undelete", name), _nothing)


def set_min_decryption_version(name: str, version: int) -> Request[None]:
    return Request("PUT", _path("key/min-version", name), _nothing, {"version": version})


def key_versions(name: str) -> Request[list[KeyVersionInfo]]:
    def version(row: Mapping[str, Any]) -> KeyVersionInfo:
        return KeyVersionInfo(_version(row), row["algorithm"], parse_time(row["created_at"]), row.get("created_by", ""))

    return Request("GET", _path("key/versions", name), lambda a: [version(row) for row in a["versions"]])


def delete_key(name: str) -> Request[None]:
    return Request("DELETE", _path("key/delete", name), _nothing)


def generate_data_key(name: str, context: bytes) -> Request[DataKey]:
    return Request(
        "PUT",
        _path("key/generate", name),
        _data_key,
        {"context": _encode(context)} if context else {},
    )


def _data_key(answer: Mapping[str, Any]) -> DataKey:
    return DataKey(base64.b64decode(answer["plaintext"]), base64.b64decode(answer["ciphertext"]), _version(answer))


def generate_data_keys(name: str, contexts: Iterable[bytes]) -> Request[list[DataKey]]:
    body = [{"context": _encode(context)} for context in contexts]
    return Request("PUT", _path("key/bulk/generate", name), lambda a: [_data_key(item) for item in a], body)


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


def encrypt_all(name: str, items: Iterable[tuple[bytes, bytes]]) -> Request[list[bytes]]:
    body = [{"plaintext": _encode(plaintext), "context": _encode(context)} for plaintext, context in items]
    return Request("PUT", _path("key/bulk/encrypt", name), _ciphertexts, body)


def rewrap(name: str, ciphertext: bytes, context: bytes) -> Request[bytes]:
    body = {"ciphertext": _encode(ciphertext), "context": _encode(context)}
    return Request("PUT", _path("key/rewrap", name), lambda a: base64.b64decode(a["ciphertext"]), body)


def rewrap_all(name: str, items: Iterable[tuple[bytes, bytes]]) -> Request[list[bytes]]:
    body = [{"ciphertext": _encode(ciphertext), "context": _encode(context)} for ciphertext, context in items]
    return Request("PUT", _path("key/bulk/rewrap", name), _ciphertexts, body)


def _ciphertexts(answer: Iterable[Mapping[str, Any]]) -> list[bytes]:
    return [base64.b64decode(item["ciphertext"]) for item in answer]


def hmac(name: str, message: bytes, version: int) -> Request[bytes]:
    body: dict[str, Any] = {"message": _encode(message)}
    if version != 1:  # other servers do not know versions
        body["hmac_version"] = version
    return Request("PUT", _path("key/hmac", name), lambda a: base64.b64decode(a["hmac"]), body)


def list_names(resource: str, pattern: str) -> Request[tuple[list[str], str]]:
    """One page of names, and the pattern that asks for the next page; empty after the last one."""
    member = "identities" if resource == "identity" else "names"
    return Request("GET", _path(f"{resource}/list", pattern), lambda a: (a[member] or [], a.get("continue_at") or ""))


def _policy(answer: Mapping[str, Any]) -> PolicyInfo:
    return PolicyInfo(
        answer["name"],
        parse_time(answer["created_at"]),
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
        parse_time(answer["created_at"]),
        answer.get("created_by", ""),
        tuple(answer.get("allow") or ()),
        tuple(answer.get("deny") or ()),
    )


def describe_identity(identity: str) -> Request[IdentityInfo]:
    return Request("GET", _path("identity/describe", identity), lambda a: _identity(a, identity))


def describe_self() -> Request[IdentityInfo]:
    return Request("GET", "/v1/identity/self/describe", lambda a: _identity(a, a["identity"]))


def audit_log() -> Log[AuditEvent]:
    def event(line: Mapping[str, Any]) -> AuditEvent:
        request, response = line["request"], line["response"]
        return AuditEvent(
            time=parse_time(line["time"]),
            ip=str(request.get("ip") or ""),
            path=str(request["path"]),
            identity=str(request.get("identity") or ""),
            code=int(response["code"]),
            response_time=_nanoseconds(response["time"]),
            policy=str(request.get("policy") or ""),
            reason=str(response.get("reason") or ""),
            frontend=str(request.get("frontend") or ""),
            request_id=str(request.get("id") or ""),
        )

    return Log("/v1/log/audit", event)


def error_log() -> Log[ErrorEvent]:
    return Log("/v1/log/error", lambda line: ErrorEvent(str(line["message"])))

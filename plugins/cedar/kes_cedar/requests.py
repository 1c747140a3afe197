"""Translates a request to the key server into a request to Cedar: the names and values for policies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from kes_core import CertificateFacts, PolicyRequest

__all__ = ["OPERATIONS", "Operation", "cedar_request"]

NAMESPACE: Final = "KES"
_SERVER: Final = "Server"
_SERVER_ID: Final = "server"


class Operation(NamedTuple):
    """The action and the type of the resource of a route."""

    action: str
    resource: str
    """The type of the resource: the one server, or a type whose name is in the request."""


OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        "/v1/ready": Operation("CheckReady", _SERVER),
        "/v1/status": Operation("ReadStatus", _SERVER),
        "/v1/metrics": Operation("ReadMetrics", _SERVER),
        "/v1/api": Operation("ListAPIs", _SERVER),
        "/v1/key/create/": Operation("CreateKey", "Key"),
        "/v1/key/import/": Operation("ImportKey", "Key"),
        "/v1/key/import-version/": Operation("ImportVersion", "Key"),
        "/v1/key/wrapping-key": Operation("ReadWrappingKey", _SERVER),
        "/v1/key/describe/": Operation("DescribeKey", "Key"),
        "/v1/key/list/": Operation("ListKeys", _SERVER),
        "/v1/key/delete/": Operation("DeleteKey", "Key"),
        "/v1/key/generate/": Operation("GenerateKey", "Key"),
        "/v1/key/encrypt/": Operation("Encrypt", "Key"),
        "/v1/key/decrypt/": Operation("Decrypt", "Key"),
        "/v1/key/hmac/": Operation("HMAC", "Key"),
        "/v1/key/bulk/decrypt/": Operation("BulkDecrypt", "Key"),
        "/v1/key/bulk/generate/": Operation("BulkGenerate", "Key"),
        "/v1/key/bulk/encrypt/": Operation("BulkEncrypt", "Key"),
        "/v1/key/bulk/rewrap/": Operation("BulkRewrap", "Key"),
        "/v1/key/rotate/": Operation("RotateKey", "Key"),
        "/v1/key/rewrap/": Operation("Rewrap", "Key"),
        "/v1/key/versions/": Operation("ListVersions", "Key"),
        "/v1/key/disable/": Operation("DisableKey", "Key"),
        "/v1/key/enable/": Operation("EnableKey", "Key"),
        "/v1/key/schedule-delete/": Operation("ScheduleDeletion", "Key"),
        "/v1/key/undelete/": Operation("UndeleteKey", "Key"),
        "/v1/key/min-version/": Operation("SetMinVersion", "Key"),
        "/v1/policy/describe/": Operation("DescribePolicy", "Policy"),
        "/v1/policy/read/": Operation("ReadPolicy", "Policy"),
        "/v1/policy/list/": Operation("ListPolicies", _SERVER),
        "/v1/identity/describe/": Operation("DescribeIdentity", "Identity"),
        "/v1/identity/list/": Operation("ListIdentities", _SERVER),
        "/v1/log/error": Operation("ReadErrorLog", _SERVER),
        "/v1/log/audit": Operation("ReadAuditLog", _SERVER),
    }
)
"""Every route that needs a policy, by its path."""


def cedar_request(request: PolicyRequest) -> dict[str, Any]:
    """Return the request to Cedar. It passes names as values and never as text in Cedar's language.

    Raises:
        ValueError: The route has no action, or the client's address is not an IP address.
    """
    operation = OPERATIONS.get(request.api)
    if operation is None:
        raise ValueError(f"this version of kes-cedar has no action for {request.api!r}")
    resource = _SERVER_ID if operation.resource == _SERVER else request.resource
    context = {
        "name": request.resource,
        "method": request.method,
        "path": request.path,
        "api": request.api,
        "remote_address": _address(request.remote_address),
        "time": _time(request.time),
    }
    if request.certificate is not None:
        context["certificate"] = _certificate(request.certificate)
    return {
        "principal": _entity("Identity", request.identity),
        "action": _entity("Action", operation.action),
        "resource": _entity(operation.resource, resource),
        "context": context,
    }


def _certificate(facts: CertificateFacts) -> dict[str, Any]:
    return {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial_number": str(facts.serial_number),
        "not_before": _time(facts.not_before),
        "not_after": _time(facts.not_after),
        "dns_names": list(facts.dns_names),
        "ip_addresses": _addresses(facts.ip_addresses),
        "verified": facts.verified,
    }


def _entity(kind: str, name: str) -> dict[str, str]:
    return {"type": f"{NAMESPACE}::{kind}", "id": name}


def _addresses(texts: Iterable[str]) -> list[Any]:
    return [_address(text) for text in texts]


def _address(text: str) -> dict[str, Any]:
    address = ipaddress.ip_address(text.partition("%")[0])
    # A server on all addresses sees IPv4 clients as ::ffff:10.0.0.1. A rule for 10.0.0.0/8 applies to them too.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return _extension("ip", (mapped or address).compressed)


def _time(moment: datetime) -> dict[str, Any]:
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return _extension("datetime", utc.isoformat(timespec="milliseconds") + "Z")


def _extension(function: str, argument: str) -> dict[str, Any]:
    """Return a value of one of Cedar's extension types."""
    return {"__extn": {"fn": function, "arg": argument}}

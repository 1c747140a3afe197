"""Who sent a request: from the connection's certificates, or through a TLS proxy, to an identity."""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.identity import IdentityError, certificate_facts, identity_of_chain, load_certificates
from kes_core.server.errors import APIError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kes_core.policy import CertificateFacts

__all__ = ["Client", "client_of"]

_MAX_FORWARDED_CERTIFICATE: Final = 32 * 1024


class _Holder(NamedTuple):
    """What a chain of certificates says of its holder."""

    identity: str
    """Empty where there is none, or more than one."""
    error: str
    """Why there is no identity."""
    facts: CertificateFacts | None


class Client(NamedTuple):
    """The sender of a request."""

    identity: str
    """Empty when the client has not shown who it is."""
    error: str
    """Why there is no identity; what the client is told where one is needed."""
    address: str
    """Its IP address as text, as far as is known."""
    certificate: CertificateFacts | None


@functools.lru_cache(maxsize=4096)
def _holder_of(chain: tuple[str, ...], *, verified: bool) -> _Holder:
    """Look at a connection's certificates. The same chain is looked at once, however many requests follow."""
    try:
        certificates = [load_certificates(pem.encode("ascii"))[0] for pem in chain]
        identity, leaf = identity_of_chain(certificates)
        return _Holder(identity, "", certificate_facts(leaf, verified=verified))
    except IdentityError as error:
        return _Holder("", str(error), None)


def client_of(scope: Mapping[str, Any], *, proxies: frozenset[str], proxy_header: bytes, verified: bool) -> Client:
    """Return who sent the request of an ASGI `scope`.

    Args:
        scope: With the TLS extension.
        proxies: Identities of TLS proxies. Only their connections may speak for somebody else.
        proxy_header: The lower-case name of the header in which they do.
        verified: Whether the TLS layer verifies certificates.

    Raises:
        APIError: A proxy's request does not say properly for whom it speaks (protocol section 1).
    """
    holder = _holder_of(tuple(scope["extensions"]["tls"]["client_cert_chain"]), verified=verified)
    peer = scope["client"]
    address = peer[0] if peer else ""
    if holder.identity in proxies:
        return _forwarded_client(scope["headers"], proxy_header, address)
    return Client(holder.identity, holder.error, address, holder.facts)


def _forwarded_client(headers: list[tuple[bytes, bytes]], proxy_header: bytes, proxy_address: str) -> Client:
    values = [value for name, value in headers if name == proxy_header]
    if not values:
        raise APIError(400, "no client certificate is present")
    if len(values) > 1:
        raise APIError(400, "too many client certificates are present")
    holder = _forwarded_holder(values[0])
    if holder.error:
        raise APIError(400, holder.error)
    forwarded = next((value for name, value in headers if name == b"x-forwarded-for"), b"")
    try:
        address = str(ipaddress.ip_address(forwarded.split(b",")[0].strip().decode("ascii")))
    except ValueError:
        address = proxy_address
    return Client(holder.identity, "", address, holder.facts)


def _forwarded_holder(value: bytes) -> _Holder:
    """Read the certificate that a proxy forwards as URL-escaped PEM."""
    invalid = _Holder("", "invalid client certificate", None)
    if len(value) > _MAX_FORWARDED_CERTIFICATE:
        return invalid
    try:
        certificates = load_certificates(unquote_to_bytes(value))
    except IdentityError:
        return invalid
    chain = tuple(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)
    return _holder_of(chain, verified=False)

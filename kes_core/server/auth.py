"""Who sent a request: from the connection's certificates, or through a TLS proxy, to an identity."""

from __future__ import annotations

import functools
import ipaddress
import math
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from kes_core.identity import IdentityError, certificate_facts, identity_of_chain, load_certificates
from kes_core.server.errors import APIError
from kes_core.server.tls import TLSError, load_client_cas

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.x509 import Certificate

    from kes_core.policy import CertificateFacts

__all__ = ["Authorities", "Client", "client_of"]


class _Holder(NamedTuple):
    """What a chain of certificates says of its holder."""

    identity: str
    """Empty where there is none, or more than one."""
    error: str
    """Why there is no identity."""
    facts: CertificateFacts | None
    expires: float = math.inf


class Client(NamedTuple):
    """The sender of a request."""

    identity: str
    """Empty when the client has not shown who it is."""
    error: str
    """Why there is no identity; what the client is told where one is needed."""
    address: str
    """Its IP address as text, as far as is known."""
    certificate: CertificateFacts | None
    expires: float = math.inf
    """When its certificate does, in seconds since 1970."""


def _read(chain: tuple[str, ...], *, acceptable: bool) -> list[Certificate]:
    if chain and not acceptable:
        raise IdentityError("tls: client certificates are verified by now: connect again")
    return [load_certificates(pem.encode("ascii"))[0] for pem in chain]


@functools.lru_cache(maxsize=4096)
def _holder_of(chain: tuple[str, ...], *, verified: bool, wanted: bool) -> _Holder:
    """Look at a connection's certificates. The same chain is looked at once, however many requests follow.

    They have been `verified` or not when the connection was made; whether that is `wanted` may have changed since.
    """
    try:
        identity, leaf = identity_of_chain(_read(chain, acceptable=verified or not wanted))
        facts = certificate_facts(leaf, verified=verified)
        return _Holder(identity, "", facts, facts.not_after.timestamp())
    except IdentityError as error:
        return _Holder("", str(error), None)


def client_of(
    scope: Mapping[str, Any], *, proxies: frozenset[str], proxy_header: bytes, authorities: Authorities | None
) -> Client:
    """Return who sent the request of an ASGI `scope`.

    Args:
        scope: With the TLS extension.
        proxies: Identities of TLS proxies. Only their connections may speak for somebody else.
        proxy_header: The lower-case name of the header in which they do.
        authorities: Who has to vouch for clients, if anybody; the TLS layer sees to it, but for forwarded certificates.

    Raises:
        APIError: A proxy's request does not say properly for whom it speaks (protocol section 1).
    """
    tls = scope["extensions"]["tls"]
    verified = tls["client_cert_verified"]
    holder = _holder_of(tuple(tls["client_cert_chain"]), verified=verified, wanted=authorities is not None)
    peer = scope["client"]
    # On a listener for both, IPv4 addresses come as IPv6 ones; a rule about them is meant for either.
    address = peer[0].removeprefix("::ffff:") if peer else ""
    if holder.identity in proxies:
        return _forwarded_client(scope["headers"], proxy_header, address, authorities)
    return Client(holder.identity, holder.error, address, holder.facts, holder.expires)


def _forwarded_client(
    headers: list[tuple[bytes, bytes]], proxy_header: bytes, proxy_address: str, authorities: Authorities | None
) -> Client:
    values = [value for name, value in headers if name == proxy_header]
    if not values:
        raise APIError(400, "no client certificate is present")
    if len(values) > 1:
        raise APIError(400, "too many client certificates are present")
    chain = _forwarded_chain(values[0])
    if authorities is not None and not authorities.vouch_for(chain):
        raise APIError(403, "")
    holder = _holder_of(chain, verified=authorities is not None, wanted=authorities is not None)
    if holder.error:
        raise APIError(400, holder.error)
    forwarded = next((value for name, value in headers if name == b"x-forwarded-for"), b"")
    try:
        address = str(ipaddress.ip_address(forwarded.split(b",")[0].strip().decode("ascii")))
    except ValueError:
        address = proxy_address
    return Client(holder.identity, "", address, holder.facts, holder.expires)


def _forwarded_chain(value: bytes) -> tuple[str, ...]:
    """Read the certificates that a proxy forwards as URL-escaped PEM."""
    try:
        certificates = load_certificates(unquote_to_bytes(value))
    except IdentityError:
        raise APIError(400, "invalid client certificate") from None
    return tuple(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


class Authorities:
    """The CAs of `tls.ca`, for certificates that come in a header and not in a handshake."""

    def __init__(self, ca: Path | None) -> None:
        """Load the CAs from a PEM file or a directory of them; the system's where there is none.

        Raises:
            TLSError: They can't be read.
        """
        # The TLS settings know how to find them, and OpenSSL keeps them in a store.
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        load_client_cas(context, ca)
        store = context.get_cert_store()
        if store is None:
            raise TLSError("the CAs for clients can't be loaded")
        self._context = context
        self._store = store

    def vouch_for(self, chain: tuple[str, ...]) -> bool:
        """Tell whether a chain of PEM certificates, the client's first, leads to one of the CAs."""
        leaf, *others = (crypto.load_certificate(crypto.FILETYPE_PEM, pem.encode("ascii")) for pem in chain)
        try:
            crypto.X509StoreContext(self._store, leaf, others).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True

"""Who sent a request: from the connection's certificates, or through a TLS proxy, to an identity."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from OpenSSL import SSL, crypto

from kes_core.access.errors import RequestError
from kes_core.certificates import MAX_NAMES, limit_problem, purpose_problem
from kes_core.identity import IdentityError, certificate_facts, identity_of_chain, load_certificates
from kes_core.tls import TLSError, load_client_cas, verify_problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cryptography.x509 import Certificate

    from kes_core.policy import CertificateFacts

__all__ = ["Authorities", "ProvenClient", "Sender", "client_of"]


@dataclass(frozen=True, slots=True)
class ProvenClient:
    """Who is at the other end of a connection: made once, when the handshake is done, and never put together again.

    The certificate whose private key the client has proved to hold, the one that was verified (`tls.auth: on`) and the
    one that the identity is taken from are the same: the first that the client presented. Only what follows from it is
    kept here, so nothing that the client sends later, and none of its other certificates, can change who it is.
    """

    identity: str
    """Empty where the client has not shown who it is."""
    error: str
    """Why there is no identity."""
    facts: CertificateFacts | None
    verified: bool
    """Whether a CA of `tls.ca` vouches for the certificate."""
    presented: bool
    """Whether the client presented a certificate at all."""
    expires: float = math.inf
    """When the certificate does, in seconds since 1970."""

    @classmethod
    def from_chain(cls, chain: Sequence[Certificate], *, verified: bool) -> ProvenClient:
        """Return who presented `chain`.

        Args:
            chain: The certificates in the order in which they were presented; the key of the first is proved.
            verified: Whether the first was verified against the CAs of `tls.ca`.
        """
        try:
            identity, leaf = identity_of_chain(chain)
            facts = certificate_facts(leaf, verified=verified)
        except IdentityError as error:
            return cls("", str(error), None, verified, bool(chain))
        if len(facts.dns_names) + len(facts.ip_addresses) > MAX_NAMES:  # they stay in memory with the connection
            too_many = f"tls: client certificate has more than {MAX_NAMES} names"
            return cls("", too_many, None, verified, presented=True)
        return cls(identity, "", facts, verified, presented=True, expires=facts.not_after.timestamp())

    def require_verified(self) -> None:
        """Refuse a certificate that was accepted before `tls.auth: on` came into force.

        Raises:
            IdentityError: The certificate was not verified.
        """
        if self.presented and not self.verified:
            raise IdentityError("tls: client certificates are verified by now: connect again")


class Sender(NamedTuple):
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


def client_of(
    scope: Mapping[str, Any], *, proxies: frozenset[str], proxy_header: bytes, authorities: Authorities | None
) -> Sender:
    """Return who sent the request of an ASGI `scope`.

    Args:
        scope: With the `ProvenClient` of its connection as the extension `kes.client`.
        proxies: Identities of TLS proxies. Only their connections may speak for somebody else.
        proxy_header: The lower-case name of the header in which they do.
        authorities: Who has to vouch for clients, if anybody; the TLS layer sees to it, but for forwarded certificates.

    Raises:
        RequestError: A proxy's request does not say properly for whom it speaks (protocol section 1).
    """
    proven: ProvenClient = scope["extensions"]["kes.client"]
    peer = scope["client"]
    # On a listener for both, IPv4 addresses come as IPv6 ones; a rule about them is meant for either.
    address = peer[0].removeprefix("::ffff:") if peer else ""
    if authorities is not None:
        try:
            proven.require_verified()
        except IdentityError as error:
            return Sender("", str(error), address, None)
    if proven.identity in proxies:
        return _forwarded_client(scope["headers"], proxy_header, address, authorities)
    return Sender(proven.identity, proven.error, address, proven.facts, proven.expires)


def _forwarded_client(
    headers: list[tuple[bytes, bytes]], proxy_header: bytes, proxy_address: str, authorities: Authorities | None
) -> Sender:
    values = [value for name, value in headers if name == proxy_header]
    if not values:
        raise RequestError(400, "no client certificate is present")
    if len(values) > 1:
        raise RequestError(400, "too many client certificates are present")
    try:
        chain = load_certificates(unquote_to_bytes(values[0]))
    except IdentityError:
        raise RequestError(400, "invalid client certificate") from None
    if authorities is not None and not authorities.vouch_for(chain):
        raise RequestError(403, "")
    forwarded_for = ProvenClient.from_chain(chain, verified=authorities is not None)
    if forwarded_for.error:
        raise RequestError(400, forwarded_for.error)
    forwarded = next((value for name, value in headers if name == b"x-forwarded-for"), b"")
    try:
        text = forwarded.split(b",")[0].strip().decode("ascii")
        # What follows a `%` may be any text, which would end up in logs and before policy engines.
        address = str(ipaddress.ip_address(text)) if "%" not in text else proxy_address
    except ValueError:
        address = proxy_address
    return Sender(forwarded_for.identity, "", address, forwarded_for.facts, forwarded_for.expires)


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

    def vouch_for(self, chain: Sequence[Certificate]) -> bool:
        """Tell whether the first certificate of `chain` leads to one of the CAs, if need be by way of the others."""
        return not self.problem(chain)

    def problem(self, chain: Sequence[Certificate]) -> str:
        """Return why a handshake would not accept the client that presents `chain`; empty if it would."""
        for certificate in chain:
            if problem := limit_problem(certificate):
                return problem
        try:
            leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in chain)
            path = crypto.X509StoreContext(self._store, leaf, others).get_verified_chain()
        except crypto.X509StoreContextError as error:
            return verify_problem(error.errors[0])
        except crypto.Error:  # OpenSSL can't read what cryptography can
            return "it can't be read"
        problems = (purpose_problem(certificate.to_cryptography()) for certificate in path)
        return next(filter(None, problems), "")

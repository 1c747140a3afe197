"""The sender of a request: the client of the connection, or the client that a TLS proxy forwards."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from kes_core.access.errors import UnidentifiedSenderError
from kes_core.certificates import MAX_NAMES
from kes_core.identity import IdentityError, certificate_facts, identity_of_chain, load_certificates
from kes_core.protocol import INVALID_CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from kes_core.access.decide import AccessDecision, KnownRequest
    from kes_core.access.rules import AccessRules
    from kes_core.policy import CertificateFacts

__all__ = ["ProvenClient", "Sender", "identify", "identify_if_possible"]

_MAX_PERMISSIONS: Final = 64
"""The limit of permissions that a connection remembers: they take memory for as long as it is open."""
_MAX_REMEMBERED_PATH: Final = 256
"""The longest path that it remembers, in characters."""


class Sender(NamedTuple):
    """The sender of a request, under the rules of one configuration."""

    identity: str
    """Empty if the client did not prove an identity."""
    error: str
    """Why the identity is missing. The client gets this text if a route needs an identity."""
    address: str
    """Its IP address as text; empty if unknown."""
    certificate: CertificateFacts | None
    expires: float = math.inf
    """When its certificate expires, in seconds since 1970."""
    is_admin: bool = False


@dataclass(slots=True, eq=False)
class ProvenClient:
    """The client of a connection, as its handshake proved it. Made once, at the end of the handshake.

    One certificate proves the private key, is verified (`tls.auth: on`) and gives the identity: the first that the
    client presented. This object keeps only what follows from that certificate. So nothing that the client sends later,
    and none of its other certificates, can change its identity.
    """

    identity: str
    """Empty if the client did not prove an identity."""
    error: str
    """Why the identity is missing."""
    facts: CertificateFacts | None
    verified: bool
    """Whether the handshake verified the certificate against the CAs of `tls.ca`."""
    presented: bool
    """Whether the client presented a certificate at all."""
    expires: float = math.inf
    """When the certificate expires, in seconds since 1970."""
    address: str = ""
    """The IP address as text, without the prefix `::ffff:`; empty if unknown."""
    _mark: object = field(default=None, init=False, repr=False)
    """The rules under which `_sender` was made."""
    _sender: Sender | None = field(default=None, init=False, repr=False)
    permissions: dict[tuple[str, str], AccessDecision] = field(default_factory=dict, init=False, repr=False)
    """What this client was allowed under these rules, by method and path."""
    _known: dict[tuple[str, bytes], KnownRequest] = field(default_factory=dict, init=False, repr=False)
    """The requests that passed all checks under these rules, by method and raw path."""

    @classmethod
    def from_chain(cls, chain: Sequence[Certificate], *, verified: bool, address: str = "") -> ProvenClient:
        """Return the client that presented `chain`.

        Args:
            chain: The certificates in the order in which they were presented; the key of the first is proved.
            verified: Whether the first was verified against the CAs of `tls.ca`.
            address: The client's IP address.
        """
        try:
            identity, leaf = identity_of_chain(chain)
            facts = certificate_facts(leaf, verified=verified)
        except IdentityError as error:
            return cls("", str(error), None, verified, bool(chain), address=address)
        if len(facts.dns_names) + len(facts.ip_addresses) > MAX_NAMES:  # they stay in memory as long as the connection
            too_many = f"tls: client certificate has more than {MAX_NAMES} names"
            return cls("", too_many, None, verified, presented=True, address=address)
        expires = facts.not_after.timestamp()
        return cls(identity, "", facts, verified, presented=True, expires=expires, address=address)

    def require_verified(self) -> None:
        """Refuse a certificate that the server accepted before a reload set `tls.auth: on`.

        Raises:
            IdentityError: The certificate was not verified.
        """
        if self.presented and not self.verified:
            raise IdentityError("tls: client certificates are verified by now: connect again")

    def sender_under(self, rules: AccessRules) -> Sender | None:
        """Return the sender of this connection's requests; None for a TLS proxy, which forwards other clients.

        The connection remembers the result, so that only its first request under `rules` has to find it.
        """
        if self._mark is not rules.mark:
            self._sender = self._find_sender(rules)
            self._mark = rules.mark
            self.permissions.clear()
            self._known.clear()
        return self._sender

    def known_request(self, rules: AccessRules, method: str, raw_path: bytes) -> KnownRequest | None:
        """Return what is remembered of a request with this method and path, without a query, under these rules."""
        return self._known.get((method, raw_path)) if self._mark is rules.mark else None

    def remember_request(self, rules: AccessRules, method: str, raw_path: bytes, request: KnownRequest) -> None:
        """Remember a request without a query that passed all checks, if the next one like it passes them too.

        That is so if its sender is the client of this connection, and if its permission is remembered. The answer of a
        policy engine that does not promise to repeat itself is not.
        """
        if (
            self.sender_under(rules) is request.sender
            and (method, request.path) in self.permissions
            and len(self._known) < _MAX_PERMISSIONS
            and len(raw_path) <= _MAX_REMEMBERED_PATH
        ):
            self._known[method, raw_path] = request

    def remember_permission(self, method: str, path: str, decision: AccessDecision) -> None:
        """Remember that the policy engines allow a request of this client, for as long as the rules do not change."""
        if len(self.permissions) < _MAX_PERMISSIONS and len(path) <= _MAX_REMEMBERED_PATH:
            self.permissions[method, path] = decision

    def _find_sender(self, rules: AccessRules) -> Sender | None:
        if rules.authorities is not None:
            try:
                self.require_verified()
            except IdentityError as error:
                return Sender("", str(error), self.address, None)
        if self.identity in rules.proxies:
            return None
        is_admin = self.identity != "" and self.identity == rules.admin
        return Sender(self.identity, self.error, self.address, self.facts, self.expires, is_admin)


def identify(client: ProvenClient, headers: list[tuple[bytes, bytes]], rules: AccessRules) -> Sender:
    """Return the sender of a request.

    Args:
        client: The client of the connection.
        headers: The headers of the request, with names in lower case. Only those of a TLS proxy count.
        rules: The rules of access.

    Raises:
        UnidentifiedSenderError: A proxy forwards no certificate, or an invalid one (protocol section 1).
    """
    sender = client.sender_under(rules)
    if sender is not None:
        return sender
    try:
        return _identify_forwarded(headers, client.address, rules)
    except UnidentifiedSenderError:
        raise
    except Exception:
        # One library may be able to read a forwarded certificate while the next one is not.
        raise UnidentifiedSenderError(*INVALID_CERTIFICATE) from None


def identify_if_possible(client: ProvenClient, headers: list[tuple[bytes, bytes]], rules: AccessRules) -> Sender:
    """Return the sender of a request for the audit log: without an identity if `identify` refuses the request."""
    try:
        return identify(client, headers, rules)
    except UnidentifiedSenderError as error:
        return Sender("", error.message, client.address, None)


def _identify_forwarded(headers: list[tuple[bytes, bytes]], proxy_address: str, rules: AccessRules) -> Sender:
    """Return the client whose certificate and address a TLS proxy forwards in the headers."""
    values = [value for name, value in headers if name == rules.proxy_header]
    if not values:
        raise UnidentifiedSenderError(400, "no client certificate is present")
    if len(values) > 1:
        raise UnidentifiedSenderError(400, "too many client certificates are present")
    try:
        chain = load_certificates(unquote_to_bytes(values[0]))
    except IdentityError:
        raise UnidentifiedSenderError(*INVALID_CERTIFICATE) from None
    if rules.authorities is not None and not rules.authorities.verify(chain):
        raise UnidentifiedSenderError(403, "", "no CA in tls.ca issued the forwarded certificate")
    client = ProvenClient.from_chain(chain, verified=rules.authorities is not None)
    if client.error:
        raise UnidentifiedSenderError(400, client.error)
    forwarded = next((value for name, value in headers if name == b"x-forwarded-for"), b"")
    try:
        text = forwarded.split(b",")[0].strip().decode("ascii")
        # Any text can follow a `%`, and it would reach logs and policy engines.
        address = str(ipaddress.ip_address(text)) if "%" not in text else proxy_address
    except ValueError:
        address = proxy_address
    is_admin = client.identity == rules.admin
    return Sender(client.identity, "", address, client.facts, client.expires, is_admin)

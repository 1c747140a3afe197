"""Identities, API keys and client certificates (protocol section 1).

An identity is the SHA-256 of a public key. An API key is a private key as text, short enough for an environment
variable. Its owner creates a certificate for it when a connection needs one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from os import urandom
from typing import TYPE_CHECKING, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kes_core.encoding import decode_base64, encode_base64

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from kes_core.policy import CertificateFacts

__all__ = [
    "APIKey",
    "IdentityError",
    "certificate_facts",
    "identity_of_certificate",
    "identity_of_chain",
    "identity_of_public_key",
    "is_identity",
    "load_certificates",
    "make_certificate",
    "private_key_pem",
]

_PREFIX: Final = "kes:v1:"
_ED25519: Final = b"\x00"
_SEED_SIZE: Final = 32
_VALIDITY: Final = dt.timedelta(days=90)
_CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""New certificates are valid from this time before now, for servers whose clock is slow."""
_INVALID: Final = "tls: invalid client certificate"
_IDENTITY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class IdentityError(ValueError):
    """A client has no valid identity. The message is the server's answer to it (vectors/errors.json)."""


def is_identity(text: str) -> bool:
    """Tell whether `text` can be the identity of a client: 64 hex digits in lower case."""
    return _IDENTITY.fullmatch(text) is not None


def identity_of_public_key(key: PublicKeyTypes) -> str:
    """Return the identity of a public key: the SHA-256 of its DER SubjectPublicKeyInfo, in lower-case hex."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def identity_of_certificate(certificate: x509.Certificate) -> str:
    """Return the identity of a certificate, which is the identity of its public key.

    Raises:
        IdentityError: The public key has an unknown type or can't be read.
    """
    try:
        return identity_of_public_key(certificate.public_key())
    except Exception:  # cryptography raises many kinds of error for unknown or malformed keys
        raise IdentityError(_INVALID) from None


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates in `pem`, at least one.

    Raises:
        IdentityError: `pem` contains no certificate, or one that can't be read.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception:  # malformed certificates raise many kinds of error, not all of them ValueErrors
        raise IdentityError(_INVALID) from None


def _is_ca(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False
    except Exception:  # as above
        raise IdentityError(_INVALID) from None


def identity_of_chain(chain: Sequence[x509.Certificate]) -> tuple[str, x509.Certificate]:
    """Return the identity of the client that presented `chain`, and the client's own certificate.

    This is always the first certificate: the handshake proves possession of its private key only. The others connect it
    to a CA, so they must be CA certificates. They never identify a client.

    Raises:
        IdentityError: The chain is empty, its first certificate is a CA certificate, a later one is not, or one can't
            be read.
    """
    if not chain or _is_ca(chain[0]):
        raise IdentityError("tls: client certificate is required")
    if not all(_is_ca(certificate) for certificate in chain[1:]):
        raise IdentityError("tls: received more than one client certificate")
    return identity_of_certificate(chain[0]), chain[0]


def certificate_facts(certificate: x509.Certificate, *, verified: bool) -> CertificateFacts:
    """Return the content of a certificate, for policy engines.

    Raises:
        IdentityError: The certificate can't be read.
    """
    from cryptography import x509

    from kes_core.policy import CertificateFacts

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = tuple(names.get_values_for_type(x509.DNSName))
        ips = tuple(str(ip) for ip in names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        dns = ips = ()
    except Exception:  # as above
        raise IdentityError(_INVALID) from None
    try:
        return CertificateFacts(
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            serial_number=certificate.serial_number,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            dns_names=dns,
            ip_addresses=ips,
            verified=verified,
        )
    except Exception:  # as above
        raise IdentityError(_INVALID) from None


class APIKey:
    """An API key: `kes:v1:`, then base64 of a zero byte and the seed of an Ed25519 key (RFC 8032)."""

    __slots__ = ("_seed", "identity")

    identity: str
    """The identity of a client with this API key."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_SIZE:
            raise ValueError(f"the seed of an API key has {_SEED_SIZE} bytes")
        self._seed = bytes(seed)
        self.identity = identity_of_public_key(self.private_key().public_key())

    @classmethod
    def generate(cls) -> APIKey:
        """Create a random API key."""
        return cls(urandom(_SEED_SIZE))

    @classmethod
    def parse(cls, text: str) -> APIKey:
        """Parse an API key. The prefix may be missing.

        Raises:
            ValueError: `text` is not an API key. The message contains no part of it.
        """
        try:
            data = decode_base64(text.removeprefix(_PREFIX))
        except ValueError:
            data = b""
        if len(data) != 1 + _SEED_SIZE or data[:1] != _ED25519:
            raise ValueError(f"not an API key: expected {_PREFIX} followed by 44 characters of base64")
        return cls(data[1:])

    def private_key(self) -> Ed25519PrivateKey:
        """Return the private key that the API key contains."""
        return Ed25519PrivateKey.from_private_bytes(self._seed)

    def certificate(self) -> tuple[bytes, bytes]:
        """Create a self-signed client certificate, valid for 90 days; return private key and certificate as PEM."""
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = self.private_key()
        made = make_certificate(
            key, subject=self.identity, valid_for=_VALIDITY, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        return private_key_pem(key), made.public_bytes(Encoding.PEM)

    def __str__(self) -> str:
        return _PREFIX + encode_base64(_ED25519 + self._seed)

    def __repr__(self) -> str:
        return f"<APIKey of {self.identity}>"

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._seed, other._seed) if isinstance(other, APIKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.identity)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key can't be pickled or copied")


def private_key_pem(key: Ed25519PrivateKey, passphrase: str | None = None) -> bytes:
    """Return a private key as PKCS #8 PEM, encrypted if there is a passphrase."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode("utf-8"))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def make_certificate(
    key: Ed25519PrivateKey,
    *,
    subject: str,
    valid_for: dt.timedelta,
    dns: Sequence[str] = (),
    ips: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address] = (),
    usages: Sequence[x509.ObjectIdentifier] | None = None,
) -> x509.Certificate:
    """Create a self-signed certificate (RFC 5280, RFC 8410).

    Args:
        key: The key that signs the certificate and that it certifies.
        subject: The common name; may be empty.
        valid_for: The validity, from now.
        dns: The host names (subject alternative names).
        ips: The IP addresses (subject alternative names).
        usages: The extended key usages; server and client authentication by default.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    if usages is None:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
    name = x509.Name(attributes)
    now = dt.datetime.now(dt.UTC)
    signing = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() >> 32)  # 128 bits
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + valid_for)
        .add_extension(x509.KeyUsage(digital_signature=True, **signing), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in dns]
    names += [x509.IPAddress(ip) for ip in ips]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
    return builder.sign(key, None)

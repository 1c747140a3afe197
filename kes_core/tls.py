"""The server's TLS settings, which can accept client certificates from any issuer.

Python's `ssl` can't request a client certificate and accept one that it can't verify: it has no verify callback.
pyOpenSSL has one, so the contexts are pyOpenSSL's. `tls_connection` has the connections.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto

from kes_core.certificates import MAX_CHAIN, limit_problem, purpose_problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "ClientCertificate",
    "ServerTLS",
    "TLSError",
    "TLSSettings",
    "check_private_key",
    "load_certificates",
    "load_client_cas",
    "load_private_key",
    "make_context",
    "verify_problem",
]

_TLS12_CIPHERS: Final = b":".join(
    [
        b"ECDHE-ECDSA-AES128-GCM-SHA256",
        b"ECDHE-RSA-AES128-GCM-SHA256",
        b"ECDHE-ECDSA-AES256-GCM-SHA384",
        b"ECDHE-RSA-AES256-GCM-SHA384",
        b"ECDHE-ECDSA-CHACHA20-POLY1305",
        b"ECDHE-RSA-CHACHA20-POLY1305",
    ]
)
"""Only ciphers with forward secrecy and authentication. TLS 1.3 has no others, so OpenSSL's defaults apply there."""

_VERIFY_ERRORS: Final = {
    9: "it is not valid yet; is the clock right?",
    10: "it has expired",
    18: "it is self-signed, but tls.auth: on needs a certificate issued by a CA in tls.ca",
    19: "its CA is not in tls.ca",
    20: "it is not issued by a CA in tls.ca",
    21: "it is not issued by a CA in tls.ca",
    22: "too many CAs are between it and one in tls.ca",
    24: "its issuer is not a CA",
}
"""Texts for OpenSSL's error numbers (openssl/x509_vfy.h)."""
_INVALID_PURPOSE: Final = 26
_MAX_SUBJECT: Final = 200
_NO_CHAIN: Final = -2
"""A verify depth that makes OpenSSL check the leaf only: it adds 1 to the depth, then looks for no issuer. With 0 it
would look for one and verify a signature; -1 means the default of 100."""


class TLSError(Exception):
    """The TLS settings can't be used. The message names the file and its problem."""


class ClientCertificate(enum.Enum):
    """The certificate that a client must present in the handshake."""

    REQUIRE = "require"
    """A certificate of any issuer (`tls.auth: off`)."""
    REQUIRE_AND_VERIFY = "require_and_verify"
    """A certificate issued by a configured CA (`tls.auth: on`)."""
    REQUEST = "request"
    """Like REQUIRE, but also no certificate: then each route decides (`skip_auth`)."""
    VERIFY_IF_GIVEN = "verify_if_given"
    """Like REQUIRE_AND_VERIFY, but also no certificate."""

    @property
    def required(self) -> bool:
        return self in {ClientCertificate.REQUIRE, ClientCertificate.REQUIRE_AND_VERIFY}

    @property
    def verified(self) -> bool:
        return self in {ClientCertificate.REQUIRE_AND_VERIFY, ClientCertificate.VERIFY_IF_GIVEN}


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """The server's certificate, and its requirements for client certificates."""

    key: Path
    cert: Path
    password: Callable[[], str] | None = None
    """Returns the passphrase of an encrypted private key."""
    client_certificate: ClientCertificate = ClientCertificate.REQUIRE
    ca: Path | None = None
    """A PEM file, or a directory of PEM files; None for the system's CAs."""


class ServerTLS(NamedTuple):
    """The TLS settings for new connections."""

    context: SSL.Context
    verifies_clients: bool
    """Whether the context verifies clients' certificates against CAs."""
    native: Any = None
    """The same for a runtime that does not use OpenSSL: see `Runtime.prepare_tls`."""


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"{what} {str(path)!r} can't be read: {error.strerror}") from error


def check_private_key(path: Path) -> None:
    """Check that a private key can be read. A passphrase that may protect it is not needed.

    Raises:
        TLSError: The file can't be read, or contains no private key.
    """
    if b"PRIVATE KEY-----" not in (pem := _read(path, "the private key")):
        raise TLSError(f"the private key {str(path)!r} {_no_private_key(pem)}")


def _no_private_key(pem: bytes) -> str:
    swapped = "; it holds a certificate: are tls.key and tls.cert swapped?" if b"BEGIN CERTIFICATE" in pem else ""
    return f"is not a PEM private key{swapped}"


def load_private_key(settings: TLSSettings) -> PrivateKeyTypes:
    """Return the server's private key.

    Raises:
        TLSError: The file can't be read or decrypted, or contains no private key.
    """
    pem = _read(settings.key, "the private key")
    password = settings.password().encode() if settings.password is not None else None
    try:
        return load_pem_private_key(pem, password)
    except TypeError:
        if password is not None:  # the key is not encrypted; as the Go server does, ignore the password
            return load_pem_private_key(pem, None)
        reason = "is encrypted: set tls.password"
    except ValueError:
        is_key = password is not None and b"PRIVATE KEY-----" in pem
        reason = "can't be decrypted: tls.password is wrong" if is_key else _no_private_key(pem)
    raise TLSError(f"the private key {str(settings.key)!r} {reason}")


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file, the leaf first.

    Raises:
        TLSError: The file can't be read, or contains no valid certificate.
    """
    pem = _read(path, "the certificate")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        swapped = "; it holds a private key: are tls.key and tls.cert swapped?" if b"PRIVATE KEY-----" in pem else ""
        raise TLSError(f"the certificate {str(path)!r} contains no valid PEM certificate{swapped}") from None


def _load_key_pair(context: SSL.Context, settings: TLSSettings) -> None:
    key = load_private_key(settings)
    leaf, *chain = load_certificates(settings.cert)
    if not isinstance(
        key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    ):
        kind = "DSA" if isinstance(key, dsa.DSAPrivateKey) else type(key).__name__
        raise TLSError(f"the private key {str(settings.key)!r} has a type that TLS can't use ({kind})")
    if _public_key_der(key.public_key()) != _public_key_der(leaf.public_key()):
        raise TLSError(
            f"the private key {str(settings.key)!r} does not belong to the certificate {str(settings.cert)!r}"
        )
    try:
        context.use_privatekey(key)
        context.use_certificate(leaf)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:  # for example, the key is too short
        reason = error.args[0][-1][-1] if error.args and error.args[0] else "unknown reason"
        raise TLSError(f"OpenSSL rejects the certificate {str(settings.cert)!r}: {reason}") from None


def _public_key_der(key: object) -> bytes:
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined] # all public keys have it
    return der


def load_client_cas(context: SSL.Context, ca: Path | None) -> None:
    """Let `context` trust the CAs in a PEM file or in a directory of PEM files, or the system's CAs if `ca` is None.

    Raises:
        TLSError: `ca` can't be read, or contains no valid certificate.
    """
    if ca is None:
        context.set_default_verify_paths()
        return
    loaded = 0
    for file in _ca_files(ca):
        try:
            context.load_verify_locations(str(file))
            loaded += 1
        except SSL.Error as error:
            if not ca.is_dir():
                raise TLSError(f"tls.ca {str(ca)!r} contains no valid PEM certificate") from error
    if not loaded:
        raise TLSError(f"no file in the directory tls.ca {str(ca)!r} contains a valid PEM certificate")


def _ca_files(ca: Path) -> list[Path]:
    """Return the files that may contain CAs.

    Check that they can be read: OpenSSL reports the same error for an unreadable file and for one without CAs.
    """
    if not ca.is_dir():
        _read(ca, "tls.ca")
        return [ca]
    try:
        return sorted(path for path in ca.iterdir() if path.is_file())
    except OSError as error:
        raise TLSError(f"tls.ca {str(ca)!r} can't be read: {error.strerror}") from error


def _select_protocol(_connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    for protocol in (b"h2", b"http/1.1"):
        if protocol in offered:
            return protocol
    return SSL.NO_OVERLAPPING_PROTOCOLS


def verify_problem(error: int) -> str:
    """Return the text for an error number of OpenSSL (openssl/x509_vfy.h), about a client's certificate."""
    return _VERIFY_ERRORS.get(error, f"it is not valid (X.509 error {error})")


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, _depth: int, ok: int) -> bool:
    """Accept a certificate that OpenSSL accepts and that is within our limits (verify callback).

    OpenSSL calls this for the CA first, and for each certificate before it uses the key of this certificate.
    """
    if not ok and error != _INVALID_PURPOSE:
        return _refuse(connection, certificate, verify_problem(error))
    return _check(connection, certificate, limit_problem if ok else purpose_problem)


def _accept(connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, ok: int) -> bool:
    """Accept any certificate within our limits (verify callback).

    The identity is the hash of the public key. The handshake proves possession of the private key; chain, dates and
    usage are irrelevant (protocol section 1). OpenSSL verifies the proof after the last call, the only one with `ok`.
    """
    return _check(connection, certificate, limit_problem) if ok or depth else True


def _check(connection: SSL.Connection, certificate: crypto.X509, check: Callable[[x509.Certificate], str]) -> bool:
    try:
        problem = check(certificate.to_cryptography())
    except Exception:  # malformed certificates raise many kinds of error, not all of them ValueErrors
        problem = "it can't be read"
    return _refuse(connection, certificate, problem) if problem else True


def _refuse(connection: SSL.Connection, certificate: crypto.X509, reason: str) -> bool:
    try:
        subject = certificate.to_cryptography().subject.rfc4514_string()
    except Exception:  # as above
        subject = ""
    # The client chooses the subject: `!r` escapes line breaks.
    connection.set_app_data(f"the client's certificate {subject[:_MAX_SUBJECT]!r} is refused: {reason}")
    return False


def make_context(settings: TLSSettings) -> SSL.Context:
    """Create the OpenSSL context for `settings`.

    Raises:
        TLSError: A file can't be read or used.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    # A resumed session has no certificate, but each handshake must prove the client's identity.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # a buffer has 17 KiB, and most connections are idle
    context.set_alpn_select_callback(_select_protocol)
    _load_key_pair(context, settings)

    wanted = settings.client_certificate
    mode = SSL.VERIFY_PEER
    if wanted.required:
        mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    if wanted.verified:
        load_client_cas(context, settings.ca)
        context.set_verify_depth(MAX_CHAIN - 1)
        context.set_verify(mode, _verify)
    else:
        context.set_verify_depth(_NO_CHAIN)
        context.set_verify(mode, _accept)
    return context

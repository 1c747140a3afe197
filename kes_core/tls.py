"""The server's TLS settings, which ask for a client certificate that no CA need have signed.

Python's `ssl` can't ask for a client certificate and accept one that it can't verify: it has no verify callback. So the
contexts are pyOpenSSL's, which has one; connections are in `tls_connection`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto

from kes_core.certificates import MAX_CHAIN, limit_problem, purpose_problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "ClientCertificate",
    "TLSError",
    "TLSSettings",
    "load_certificates",
    "load_client_cas",
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
"""Forward secret and authenticated only. TLS 1.3 has no other kind, so OpenSSL's own choice stands there."""

_VERIFY_ERRORS: Final = {
    9: "it is not valid yet; is the clock right?",
    10: "it has expired",
    18: "it is self-signed, and tls.auth: on asks for one that a CA in tls.ca vouches for",
    19: "its CA is not in tls.ca",
    20: "no CA in tls.ca vouches for it",
    21: "no CA in tls.ca vouches for it",
    22: "too many CAs are between it and one in tls.ca",
    24: "its issuer is no CA",
}
"""What OpenSSL's numbers (openssl/x509_vfy.h) mean for a client."""
_INVALID_PURPOSE: Final = 26
_MAX_SUBJECT: Final = 200
_NO_CHAIN: Final = -2
"""As the depth of a chain: the leaf alone. OpenSSL adds 1 to it and looks for no issuer. With 0 it still looks for one
and verifies a signature; -1 means its default of 100."""


class TLSError(Exception):
    """The TLS settings can't be used. The message names the file and what is wrong with it."""


class ClientCertificate(enum.Enum):
    """What a client has to present in the handshake."""

    REQUIRE = "require"
    """Some certificate, whoever issued it (`tls.auth: off`)."""
    REQUIRE_AND_VERIFY = "require_and_verify"
    """A certificate that the configured CAs vouch for (`tls.auth: on`)."""
    REQUEST = "request"
    """As REQUIRE, but none at all is accepted too: the routes check (`skip_auth`)."""
    VERIFY_IF_GIVEN = "verify_if_given"
    """As REQUIRE_AND_VERIFY, but none at all is accepted too."""

    @property
    def required(self) -> bool:
        return self in {ClientCertificate.REQUIRE, ClientCertificate.REQUIRE_AND_VERIFY}

    @property
    def verified(self) -> bool:
        return self in {ClientCertificate.REQUIRE_AND_VERIFY, ClientCertificate.VERIFY_IF_GIVEN}


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """The server's certificate and what it asks of its clients."""

    key: Path
    cert: Path
    password: Callable[[], str] | None = None
    """Returns the passphrase of an encrypted private key."""
    client_certificate: ClientCertificate = ClientCertificate.REQUIRE
    ca: Path | None = None
    """A PEM file or a directory of them; the system's CAs where there is none."""


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"{what} {str(path)!r} can't be read: {error.strerror}") from error


def _load_private_key(settings: TLSSettings) -> PrivateKeyTypes:
    pem = _read(settings.key, "the private key")
    password = settings.password().encode() if settings.password is not None else None
    try:
        return load_pem_private_key(pem, password)
    except TypeError:
        if password is not None:  # for a key that is not encrypted: the Go server does not look at it either
            return load_pem_private_key(pem, None)
        reason = "is encrypted: set tls.password"
    except ValueError:
        reason = "is no PEM private key" if password is None else "can't be decrypted: tls.password is wrong"
    raise TLSError(f"the private key {str(settings.key)!r} {reason}")


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file, the leaf first.

    Raises:
        TLSError: There is none.
    """
    try:
        return x509.load_pem_x509_certificates(_read(path, "the certificate"))
    except ValueError:
        raise TLSError(f"the certificate {str(path)!r} holds no valid PEM certificate") from None


def _use_key_pair(context: SSL.Context, settings: TLSSettings) -> None:
    key = _load_private_key(settings)
    leaf, *chain = load_certificates(settings.cert)
    if not isinstance(
        key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    ):
        kind = "DSA" if isinstance(key, dsa.DSAPrivateKey) else type(key).__name__
        raise TLSError(f"the private key {str(settings.key)!r} is of a kind that TLS can't use ({kind})")
    if _spki(key.public_key()) != _spki(leaf.public_key()):
        raise TLSError(
            f"the private key {str(settings.key)!r} does not belong to the certificate {str(settings.cert)!r}"
        )
    try:
        context.use_privatekey(key)
        context.use_certificate(leaf)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:  # too short a key, for example
        reason = error.args[0][-1][-1] if error.args and error.args[0] else "unknown reason"
        raise TLSError(f"OpenSSL does not take the certificate {str(settings.cert)!r}: {reason}") from None


def _spki(key: object) -> bytes:
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined] # every public key has it
    return der


def load_client_cas(context: SSL.Context, ca: Path | None) -> None:
    """Let `context` trust the CAs in a PEM file or a directory of them; the system's where there is none.

    Raises:
        TLSError: There is none that can be read.
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
                raise TLSError(f"tls.ca {str(ca)!r} holds no valid PEM certificate") from error
    if not loaded:
        raise TLSError(f"no file in the directory tls.ca {str(ca)!r} holds a valid PEM certificate")


def _ca_files(ca: Path) -> list[Path]:
    """Return the files that may hold CAs. OpenSSL does not tell one that can't be read from one without any."""
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
    """Return what a number of OpenSSL's (openssl/x509_vfy.h) says of a client's certificate."""
    return _VERIFY_ERRORS.get(error, f"it is not valid (X.509 error {error})")


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, _depth: int, ok: int) -> bool:
    """Take a certificate that OpenSSL takes, within our limits.

    OpenSSL calls this for the CA first, and for each certificate before it uses the key in it.
    """
    if not ok and error != _INVALID_PURPOSE:
        return _refuse(connection, certificate, verify_problem(error))
    return _check(connection, certificate, limit_problem if ok else purpose_problem)


def _accept(connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, ok: int) -> bool:
    """Take any certificate within our limits.

    The identity is the hash of the public key, whose possession the handshake proves; chain, dates and usage say
    nothing about it (protocol section 1). OpenSSL verifies that proof after the last call, the only one with `ok`.
    """
    return _check(connection, certificate, limit_problem) if ok or depth else True


def _check(connection: SSL.Connection, certificate: crypto.X509, problem_of: Callable[[x509.Certificate], str]) -> bool:
    try:
        problem = problem_of(certificate.to_cryptography())
    except Exception:  # malformed certificates raise many kinds of error, not all of them ValueErrors
        problem = "it can't be read"
    return _refuse(connection, certificate, problem) if problem else True


def _refuse(connection: SSL.Connection, certificate: crypto.X509, reason: str) -> bool:
    try:
        subject = certificate.to_cryptography().subject.rfc4514_string()
    except Exception:  # as above
        subject = ""
    # The subject is the client's word: nothing of it may break a line.
    connection.set_app_data(f"the client's certificate {subject[:_MAX_SUBJECT]!r} is refused: {reason}")
    return False


def make_context(settings: TLSSettings) -> SSL.Context:
    """Make the OpenSSL context for `settings`.

    Raises:
        TLSError: A file can't be read or used; nothing has been changed.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    # A resumed session brings no certificate, and an identity must come from a handshake that proved it.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_alpn_select_callback(_select_protocol)
    _use_key_pair(context, settings)

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

"""What the TLS handshake asks about clients: whether a certificate is good, and whether the client has its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from kes_core.certificates import MAX_CHAIN, limit_problem
from kes_native import _native

if TYPE_CHECKING:
    from kes_core.access.authorities import Authorities

__all__ = ["SCHEMES", "ClientVerifier"]

_MAX_SUBJECT: Final = 200


class _Scheme(NamedTuple):
    """A signature scheme (RFC 8446, section 4.2.3)."""

    kind: str
    hash: hashes.HashAlgorithm | None = None
    curve: type[ec.EllipticCurve] | None = None


SCHEMES: Final = {
    0x0403: _Scheme("ecdsa", hashes.SHA256(), ec.SECP256R1),
    0x0503: _Scheme("ecdsa", hashes.SHA384(), ec.SECP384R1),
    0x0603: _Scheme("ecdsa", hashes.SHA512(), ec.SECP521R1),
    0x0807: _Scheme("ed25519"),
    0x0808: _Scheme("ed448"),
    0x0804: _Scheme("pss", hashes.SHA256()),
    0x0805: _Scheme("pss", hashes.SHA384()),
    0x0806: _Scheme("pss", hashes.SHA512()),
    0x0401: _Scheme("pkcs1", hashes.SHA256()),
    0x0501: _Scheme("pkcs1", hashes.SHA384()),
    0x0601: _Scheme("pkcs1", hashes.SHA512()),
}
"""The schemes that the server offers to clients, by number."""


class ClientVerifier:
    """Judges the certificates of clients as the other runtime does: by `kes_core.certificates` and `tls.ca`."""

    def __init__(self, authorities: Authorities | None) -> None:
        """Accept certificates that lead to `authorities`; without them, of any issuer."""
        self._authorities = authorities

    def problem(self, chain: Sequence[bytes]) -> str:
        """Return why a client may not connect with `chain`, its own certificate first; empty if it may."""
        try:
            if len(chain) > MAX_CHAIN:
                return f"the client presented {len(chain)} certificates; at most {MAX_CHAIN} are allowed"
            leaf = x509.load_der_x509_certificate(chain[0])
            # Without CAs, only the first certificate counts: the others are not even read.
            problem = limit_problem(leaf)
            if not problem and self._authorities is not None:
                others = [x509.load_der_x509_certificate(other) for other in chain[1:]]
                problem = self._authorities.problem([leaf, *others])
            subject = leaf.subject.rfc4514_string() if problem else ""
        except Exception:  # malformed certificates raise many kinds of error, not all of them ValueErrors
            problem, subject = "it can't be read", ""
        # The client chooses the subject: `!r` escapes line breaks.
        return f"the client's certificate {subject[:_MAX_SUBJECT]!r} is refused: {problem}" if problem else ""

    def is_proof(self, version: str, number: int, certificate: bytes, message: bytes, signature: bytes) -> bool:
        """Return whether `signature` proves that the client has the private key of `certificate`.

        Args:
            version: The version of TLS.
            number: The signature scheme that the client chose.
            certificate: The client's certificate in DER, for which `problem` was empty.
            message: What the client had to sign.
            signature: Its signature.
        """
        scheme = SCHEMES.get(number)
        if scheme is None:
            return False
        try:
            key = x509.load_der_x509_certificate(certificate).public_key()
            _verify(key, scheme, message, signature, is_tls13=version == "1.3")
        except (InvalidSignature, ValueError):
            return False
        return True


def _verify(key: object, scheme: _Scheme, message: bytes, signature: bytes, *, is_tls13: bool) -> None:
    """Check a signature.

    Raises:
        InvalidSignature: It is not valid, or not allowed in this version of TLS.
    """
    kind, digest, curve = scheme
    if kind == "ecdsa" and isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
        # TLS 1.2 does not bind the hash to the curve (RFC 8446, section 4.2.3).
        if is_tls13 and curve is not None and not isinstance(key.curve, curve):
            raise InvalidSignature
        key.verify(signature, message, ec.ECDSA(digest))
    elif kind == "ed25519" and isinstance(key, ed25519.Ed25519PublicKey):
        # The most frequent key of clients: AWS-LC takes a third of OpenSSL's time.
        if not _native.is_ed25519_signature(key.public_bytes_raw(), message, signature):
            raise InvalidSignature
    elif kind == "ed448" and isinstance(key, ed448.Ed448PublicKey):
        key.verify(signature, message)
    elif kind == "pss" and isinstance(key, rsa.RSAPublicKey) and digest is not None:
        scheme_padding = padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size)
        key.verify(signature, message, scheme_padding, digest)
    elif kind == "pkcs1" and isinstance(key, rsa.RSAPublicKey) and digest is not None and not is_tls13:
        key.verify(signature, message, padding.PKCS1v15(), digest)
    else:
        raise InvalidSignature

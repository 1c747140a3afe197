"""Limits of client certificates: their size, the type of their key, and their purpose.

An attacker can make certificates that cost much time to verify or much memory to keep. These rules limit both. They
apply to the certificate of a handshake, to the CAs between it and `tls.ca`, and to certificates that a TLS proxy
forwards.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = ["MAX_CERTIFICATE", "MAX_CHAIN", "MAX_NAMES", "limit_problem", "purpose_problem"]

MAX_CERTIFICATE: Final = 8 * 1024
"""The limit of a certificate in DER, in bytes."""
MAX_CHAIN: Final = 8
"""The limit of certificates that a client may present, including its own."""
MAX_NAMES: Final = 256
"""The limit of alternative names (hosts and IP addresses) of a client's certificate."""
_RSA_BITS: Final = range(1024, 8192 + 1)
_RSA_EXPONENT_BITS: Final = 32
"""The time to verify a signature grows with the length of the public exponent, which is 65537 in practice."""
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
"""The curves that TLS 1.3 has signatures for (RFC 8446, section 4.2.3)."""

_CLIENT_USAGES: Final = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


def limit_problem(certificate: x509.Certificate) -> str:
    """Return the limit that `certificate` exceeds, as the end of a sentence; empty if it is within all limits."""
    size = len(certificate.public_bytes(Encoding.DER))
    if size > MAX_CERTIFICATE:
        return f"it has {size:,} bytes; at most {MAX_CERTIFICATE:,} are allowed"
    try:
        key = certificate.public_key()
    except Exception:  # malformed keys raise many kinds of error, not all of them ValueErrors
        return "its public key can't be read or has an unknown type"
    return _key_problem(key)


def _key_problem(key: object) -> str:
    problem = ""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            problem = f"its RSA key has {key.key_size} bits; {_RSA_BITS[0]} to {_RSA_BITS[-1]} are allowed"
        elif key.public_numbers().e.bit_length() > _RSA_EXPONENT_BITS:
            problem = f"the public exponent of its RSA key has more than {_RSA_EXPONENT_BITS} bits"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _CURVES):
            problem = f"its key is on the curve {key.curve.name}; P-256, P-384 and P-521 are allowed"
    elif not isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        problem = "its key has a type that TLS can't use; RSA, ECDSA, Ed25519 and Ed448 are allowed"
    return problem


def purpose_problem(certificate: x509.Certificate) -> str:
    """Return why a TLS client may not use `certificate`, as its own or in its chain; empty if it may.

    RFC 5280, sections 4.2.1.3 and 4.2.1.12. `anyExtendedKeyUsage` is sufficient here, but not for OpenSSL.
    """
    try:
        values = [extension.value for extension in certificate.extensions]
    except Exception:  # as above
        return "its extensions can't be read"
    is_ca = any(isinstance(value, x509.BasicConstraints) and value.ca for value in values)
    for value in values:
        if isinstance(value, x509.ExtendedKeyUsage) and not any(usage in value for usage in _CLIENT_USAGES):
            return "it is not meant for TLS clients (extended key usage)"
        # OpenSSL checks the key usage of CAs itself.
        if isinstance(value, x509.KeyUsage) and not (is_ca or value.digital_signature or value.key_agreement):
            return "its key is not meant for signatures (key usage)"
    return ""

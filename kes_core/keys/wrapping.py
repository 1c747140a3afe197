"""How key material is wrapped for its import: RSA-OAEP and AES key wrap with padding.

A wrapped key is two parts, one behind the other:

1. a random AES key of 32 bytes, encrypted with RSA-OAEP (RFC 8017, section 7.1; SHA-256, MGF1 with SHA-256, no label),
2. the key material, wrapped under that AES key with AES key wrap with padding (RFC 5649).

This is the form of CKM_RSA_AES_KEY_WRAP (PKCS #11, section 6.1.23), of AWS KMS (RSA_AES_KEY_WRAP_SHA_256) and of the
import of Vault's and OpenBao's transit engine.
"""

from __future__ import annotations

import hashlib
from os import urandom
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from kes_core.keys.secret import KEY_SIZE

__all__ = [
    "ALGORITHM",
    "RSA_BITS",
    "WRAPPED_SIZE",
    "UnwrapError",
    "generate_private_key",
    "public_key_id",
    "public_key_pem",
    "read_public_key",
    "unwrap",
    "wrap",
]

ALGORITHM: Final = "RSA-4096-OAEP-SHA256+AES-256-KWP"
"""The name of the form, in answers to clients."""
RSA_BITS: Final = 4096
WRAPPED_SIZE: Final = RSA_BITS // 8 + KEY_SIZE + 8
"""The size of a wrapped key, in bytes: AES key wrap adds 8."""
_AES_KEY_SIZE: Final = 32
_OAEP: Final = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class UnwrapError(ValueError):
    """A wrapped key can't be unwrapped. The message is the same for all causes: a cause would help an attacker."""

    def __init__(self) -> None:
        super().__init__(
            "the key can't be unwrapped: it was wrapped in another way or for another wrapping key, or changed"
        )


def generate_private_key() -> rsa.RSAPrivateKey:
    """Return a new private key. This takes up to seconds, in which old releases of cryptography keep the GIL."""
    return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)


def public_key_id(key: rsa.RSAPublicKey) -> str:
    """Return the id of a wrapping key: the SHA-256 of its SubjectPublicKeyInfo in DER, as 64 hex digits."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def public_key_pem(key: rsa.RSAPublicKey) -> str:
    """Return a public key in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def read_public_key(pem: bytes) -> rsa.RSAPublicKey:
    """Return the wrapping key in a PEM text.

    Raises:
        ValueError: The text is not that of a public RSA key of 4096 bits.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it holds no public key in PEM") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS:
        raise ValueError(f"its key is not an RSA key of {RSA_BITS} bits")
    return key


def wrap(wrapping_key: rsa.RSAPublicKey, key: bytes) -> bytes:
    """Wrap key material, so that only a server with the private wrapping key can read it."""
    aes_key = urandom(_AES_KEY_SIZE)
    return wrapping_key.encrypt(aes_key, _OAEP) + aes_key_wrap_with_padding(aes_key, key)


def unwrap(wrapping_key: rsa.RSAPrivateKey, wrapped: bytes) -> bytes:
    """Return the key material that was wrapped. Its length is not checked.

    Both parts are always decrypted, so that neither the error nor the time tells which one is at fault.

    Raises:
        UnwrapError: It can't be unwrapped.
    """
    try:
        aes_key = wrapping_key.decrypt(wrapped[: RSA_BITS // 8], _OAEP)
    except ValueError:
        aes_key = b""
    is_readable = len(aes_key) == _AES_KEY_SIZE
    try:
        key = aes_key_unwrap_with_padding(aes_key if is_readable else urandom(_AES_KEY_SIZE), wrapped[RSA_BITS // 8 :])
    except InvalidUnwrap:
        is_readable = False
    if not is_readable:
        raise UnwrapError
    return key

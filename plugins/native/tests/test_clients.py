"""Only who has the private key of a certificate is its owner."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

pytest.importorskip("kes_native._native", reason="the native part of kes-native is not built")

from kes_native.clients import ClientVerifier
from tests.helpers.handshakes import certify

MESSAGE = b"what the handshake signs"
P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()
RSA, SHORT_RSA = (rsa.generate_private_key(65537, size) for size in (2048, 1024))
CA = ec.generate_private_key(ec.SECP256R1())


def pss(digest: Any) -> tuple[Any, ...]:
    return padding.PSS(padding.MGF1(digest), digest.digest_size), digest


SHA256, SHA384, SHA512 = hashes.SHA256(), hashes.SHA384(), hashes.SHA512()
GOOD: list[tuple[int, Any, tuple[Any, ...]]] = [
    (0x0403, P256, (ec.ECDSA(SHA256),)),
    (0x0503, P384, (ec.ECDSA(SHA384),)),
    (0x0603, P521, (ec.ECDSA(SHA512),)),
    (0x0807, ED25519, ()),
    (0x0808, ED448, ()),
    (0x0804, RSA, pss(SHA256)),
    (0x0805, RSA, pss(SHA384)),
    (0x0806, RSA, pss(SHA512)),
    (0x0804, SHORT_RSA, pss(SHA256)),
]
ONLY_TLS12: list[tuple[int, Any, tuple[Any, ...]]] = [
    (0x0401, RSA, (padding.PKCS1v15(), SHA256)),
    (0x0501, RSA, (padding.PKCS1v15(), SHA384)),
    (0x0601, RSA, (padding.PKCS1v15(), SHA512)),
    (0x0403, P384, (ec.ECDSA(SHA256),)),
]
BAD: list[tuple[int, Any, tuple[Any, ...]]] = [
    (0x0201, RSA, (padding.PKCS1v15(), hashes.SHA1())),  # which is not offered
    (0x0203, P256, (ec.ECDSA(hashes.SHA1()),)),  # which is not offered
    (0x0401, RSA, pss(SHA256)),
    (0x0804, RSA, (padding.PKCS1v15(), SHA256)),
    (0x0403, P256, (ec.ECDSA(SHA384),)),
    (0x0807, P256, (ec.ECDSA(SHA256),)),
    (0x0403, ED25519, ()),
]


def certificate(key: Any) -> bytes:
    return certify(key.public_key(), CA).public_bytes(Encoding.DER)


def is_proof(version: str, number: int, key: Any, signature: bytes, message: bytes = MESSAGE) -> bool:
    return ClientVerifier(None).is_proof(version, number, certificate(key), message, signature)


@pytest.mark.parametrize(("number", "key", "arguments"), [*GOOD, *ONLY_TLS12])
def test_signature_of_the_key_and_no_other(number: int, key: Any, arguments: tuple[Any, ...]) -> None:
    signature = key.sign(MESSAGE, *arguments)
    is_for_both = (number, key, arguments) in GOOD
    assert is_proof("1.2", number, key, signature)
    assert is_proof("1.3", number, key, signature) is is_for_both
    for version in ("1.2", "1.3"):
        assert not is_proof(version, number, key, signature, message=MESSAGE + b".")
        assert not is_proof(version, number, key, b"")
        assert not is_proof(version, number, key, signature[:-1])
        assert not is_proof(version, number, CA, signature)


def test_signature_of_another_key_of_the_same_kind() -> None:
    for number, other, arguments in (
        (0x0807, ed25519.Ed25519PrivateKey.generate(), ()),
        (0x0808, ed448.Ed448PrivateKey.generate(), ()),
        (0x0403, ec.generate_private_key(ec.SECP256R1()), (ec.ECDSA(SHA256),)),
    ):
        signature = other.sign(MESSAGE, *arguments)
        assert is_proof("1.3", number, other, signature)
        key = {0x0807: ED25519, 0x0808: ED448, 0x0403: P256}[number]
        assert not is_proof("1.3", number, key, signature)


@pytest.mark.parametrize(("number", "key", "arguments"), BAD)
def test_scheme_that_the_key_does_not_have(number: int, key: Any, arguments: tuple[Any, ...]) -> None:
    signature = key.sign(MESSAGE, *arguments)
    assert not is_proof("1.2", number, key, signature)
    assert not is_proof("1.3", number, key, signature)


def test_certificates_that_nobody_may_have() -> None:
    verifier = ClientVerifier(None)
    assert verifier.problem([certificate(P256)]) == ""
    assert "can't be read" in verifier.problem([b"no certificate"])
    assert "at most 8 are allowed" in verifier.problem([certificate(P256)] * 9)
    small = rsa.generate_private_key(65537, 1024)
    assert verifier.problem([certificate(small), b"not even read"]) == ""
    other = ec.generate_private_key(ec.SECP256K1())
    assert "secp256k1" in verifier.problem([certificate(other)])

"""The ciphertexts of keys with several versions, and what was stored and encrypted once is read for ever."""

from __future__ import annotations

import hmac
from base64 import b64decode
from os import urandom
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from kes_core.keys.secret import CiphertextError, KeyType, SecretKey, SecretKeys, hinted_version
from kes_core.keys.stored import KeyVersion
from kes_core.names import parse_revision_name
from tests.helpers.shared_store import Store, run
from tests.helpers.vectors import vectors


def secrets(count: int, key_type: KeyType = KeyType.AES256) -> list[SecretKey]:
    return [SecretKey(urandom(32), key_type) for _ in range(count)]


# Ciphertexts


@pytest.mark.parametrize("key_type", KeyType)
def test_each_version_opens_what_is_its_own(key_type: KeyType) -> None:
    keys = secrets(20, key_type)
    ciphertexts = [keys[0].encrypt(b"text", b"context")]
    ciphertexts += [SecretKeys(keys[:count]).encrypt(b"text", b"context") for count in range(2, 21)]
    rotated = SecretKeys(keys)
    assert [rotated.decrypt(ciphertext, b"context") for ciphertext in ciphertexts] == [b"text"] * 20
    assert [hinted_version(ciphertext) for ciphertext in ciphertexts[1:]] == list(range(2, 21))
    for ciphertext in ciphertexts:
        with pytest.raises(CiphertextError):
            rotated.decrypt(ciphertext, b"another context")


def test_ciphertext_of_a_later_version_is_an_ordinary_one_to_its_key() -> None:
    """A server without versions that has the key of the version decrypts it: the iv is just an iv."""
    keys = secrets(3)
    assert keys[2].decrypt(SecretKeys(keys).encrypt(b"text", b"c"), b"c") == b"text"


def test_iv_of_version_1_that_looks_like_a_hint_decrypts() -> None:
    keys = secrets(3)
    for hint in (1, 2, 3, 4, 1000, 2**32 - 1):
        ciphertext = keys[0].seal(hint.to_bytes(4, "big") + urandom(24), b"text", b"")
        assert SecretKeys(keys).decrypt(ciphertext) == b"text"


def test_iv_has_12_random_bytes_and_never_repeats() -> None:
    rotated = SecretKeys(secrets(2))
    ivs = {rotated.encrypt(b"")[-28:-12] for _ in range(1000)}
    assert len({iv[4:] for iv in ivs}) == 1000
    assert {iv[:4] for iv in ivs} == {b"\0\0\0\2"}


@given(st.binary(max_size=80))
def test_no_ciphertext_of_an_attacker_is_authentic(ciphertext: bytes) -> None:
    with pytest.raises(CiphertextError):
        ROTATED.decrypt(ciphertext)
    assert 1 <= hinted_version(ciphertext) <= 1000


ROTATED = SecretKeys(secrets(3))


@given(st.integers(2, 5), st.integers(2, 5))
def test_hint_of_another_version_opens_nothing(version: int, claimed: int) -> None:
    """An attacker moves a ciphertext from one version to another."""
    keys = secrets(5)
    ciphertext = bytearray(SecretKeys(keys[:version]).encrypt(b"text"))
    ciphertext[-28:-24] = claimed.to_bytes(4, "big")
    if version == claimed:
        assert SecretKeys(keys).decrypt(bytes(ciphertext)) == b"text"
    else:
        with pytest.raises(CiphertextError):
            SecretKeys(keys).decrypt(bytes(ciphertext))


# What was stored and encrypted once is read for ever

VECTORS = vectors("key_versions")["cases"]


@pytest.mark.parametrize("case", VECTORS, ids=[case["key_type"] for case in VECTORS])
def test_vectors(case: dict[str, Any]) -> None:
    async def check(store: Store) -> None:
        for name, value in case["entries"].items():
            await store.create(name, value.encode())
        key = await store.server().get("my-key")
        assert key.version == 3
        for vector in case["ciphertexts"]:
            ciphertext, context = b64decode(vector["ciphertext"]), b64decode(vector["context"])
            assert key.key.decrypt(ciphertext, context) == b64decode(vector["plaintext"])
            assert vector["version"] == 1 or hinted_version(ciphertext) == vector["version"]
        assert key.hmac_key is not None
        assert key.hmac_key.digest(b64decode(case["hmac"]["message"])) == b64decode(case["hmac"]["hmac"])

    run(check)


def test_vectors_decrypt_as_the_protocol_says() -> None:
    """With nothing but HMAC-SHA-256 and AES-GCM, as a server without versions does it with the key of a version."""
    case = next(case for case in VECTORS if case["key_type"] == "AES256")
    for name, value in case["entries"].items():
        parts = parse_revision_name(name)
        secret = KeyVersion.decode(value.encode()).key._key
        for vector in case["ciphertexts"]:
            if vector["version"] == (parts.number if parts else 1):
                ciphertext = b64decode(vector["ciphertext"])
                derived = AESGCM(hmac.digest(secret, ciphertext[-28:-12], "sha256"))
                plaintext = derived.decrypt(ciphertext[-12:], ciphertext[:-28], b64decode(vector["context"]))
                assert plaintext == b64decode(vector["plaintext"])

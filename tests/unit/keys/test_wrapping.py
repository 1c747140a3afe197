"""How keys are wrapped: what other programs have wrapped is unwrapped, and nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.keys.wrapping import (
    WRAPPED_SIZE,
    UnwrapError,
    public_key_id,
    public_key_pem,
    read_public_key,
    unwrap,
    wrap,
)
from tests.helpers.effort import scaled
from tests.helpers.wrapping import VECTORS, private_key

KEY = base64.b64decode(VECTORS["key"])
PRIVATE, OTHER = private_key(0), private_key(1)
PUBLIC = PRIVATE.public_key()
WRAPPED = wrap(PUBLIC, KEY)
REFUSAL = "the key can't be unwrapped: it was wrapped in another way or for another wrapping key, or changed"


@pytest.mark.parametrize("case", VECTORS["accepted"], ids=lambda case: case["made_by"])
def test_keys_that_other_programs_wrapped_are_unwrapped(case: dict[str, Any]) -> None:
    wrapped = base64.b64decode(case["wrapped_key"])
    assert len(wrapped) == WRAPPED_SIZE
    assert unwrap(PRIVATE, wrapped) == KEY


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["fault"])
def test_every_fault_is_the_same_error(case: dict[str, Any]) -> None:
    with pytest.raises(UnwrapError) as caught:
        unwrap(PRIVATE, base64.b64decode(case["wrapped_key"]))
    assert str(caught.value) == REFUSAL
    assert caught.value.__cause__ is None


@scaled(20)
@given(st.integers(0, WRAPPED_SIZE * 8 - 1))
def test_changed_bit_is_refused(bit: int) -> None:
    changed = bytearray(WRAPPED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnwrapError):
        unwrap(PRIVATE, bytes(changed))


@scaled(20)
@given(st.binary(min_size=1, max_size=100))
def test_what_is_wrapped_comes_back(key: bytes) -> None:
    wrapped = wrap(PUBLIC, key)
    assert unwrap(PRIVATE, wrapped) == key
    assert wrap(PUBLIC, key) != wrapped
    with pytest.raises(UnwrapError):
        unwrap(OTHER, wrapped)


@scaled(20)
@given(st.binary(max_size=600))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(UnwrapError):
        unwrap(PRIVATE, data)


def test_id_is_that_of_the_public_key() -> None:
    for facts, key in zip(VECTORS["wrapping_keys"], (PRIVATE, OTHER), strict=True):
        public = read_public_key(facts["public_key"].encode())
        assert public_key_id(public) == public_key_id(key.public_key()) == facts["id"]
        assert public_key_pem(public) == facts["public_key"]


@pytest.mark.parametrize("text", ["", "text", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_text_that_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it holds no public key in PEM"):
        read_public_key(text.encode())


def test_public_key_of_another_kind_is_refused() -> None:
    for pem in VECTORS["other_public_keys"]:
        with pytest.raises(ValueError, match="its key is not an RSA key of 4096 bits"):
            read_public_key(pem.encode())

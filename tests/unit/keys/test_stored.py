from __future__ import annotations

import base64
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from kes_core.keys import stored_key_pb2 as pb
from kes_core.keys.secret import HMACKey, KeyType, SecretKey
from kes_core.keys.stored import KeyVersion, StoredKeyError, Timestamp
from tests.helpers.vectors import vectors

ENCODINGS = vectors("key_encoding")
# Our server serves this key without HMAC; the Go server fails.
SERVED = "protobuf, no HMAC key"


def b64(text: str) -> bytes:
    return base64.b64decode(text)


def key_of(case: dict[str, Any]) -> KeyVersion:
    return KeyVersion(
        SecretKey(b64(case["key"]), KeyType.from_cipher(case["key_type"])),
        HMACKey(b64(case["hmac_key"])) if case["hmac_key"] else None,
        Timestamp.parse(case["created_at"]),
        case["created_by"],
    )


@pytest.mark.parametrize("case", ENCODINGS["cases"], ids=[case["name"] for case in ENCODINGS["cases"]])
def test_stored_keys_of_the_vectors(case: dict[str, Any]) -> None:
    raw = case["raw"].encode()
    if case["name"] == SERVED:
        assert KeyVersion.decode(raw).hmac_key is None
    elif case.get("should_fail"):
        with pytest.raises(StoredKeyError):
            KeyVersion.decode(raw)
    else:
        assert KeyVersion.decode(raw) == key_of(case)
        assert KeyVersion.decode(raw).created_at.rfc3339() == case["created_at"]


WRITTEN = [case for case in ENCODINGS["encode"] if case["key"] and case["hmac_key"]]


@pytest.mark.parametrize("case", WRITTEN, ids=[case["name"] for case in WRITTEN])
def test_keys_are_written_byte_for_byte_as_the_other_server_does(case: dict[str, Any]) -> None:
    assert key_of(case).encode() == case["encoded"].encode()


def test_a_key_without_hmac_key_is_not_written() -> None:
    (case,) = [case for case in ENCODINGS["encode"] if case["name"] == "no HMAC key"]
    with pytest.raises(ValueError, match="a key without an HMAC key can't be stored"):
        key_of(case).encode()


def test_generated_module_runs_with_several_major_versions_of_protobuf() -> None:
    """Code from a newer protoc would refuse to run with an older protobuf."""
    assert not any("runtime_version" in name for name in vars(pb)), "generate it as kes_core/keys/stored_key.proto says"


@given(
    st.binary(min_size=32, max_size=32),
    st.sampled_from(KeyType),
    st.integers(-62135596800, 253402300799),
    st.integers(0, 10**9 - 1),
    st.text(st.characters(codec="utf-8"), max_size=80),
)
def test_keys_survive_being_stored(key: bytes, key_type: KeyType, seconds: int, nanos: int, owner: str) -> None:
    stored = KeyVersion(SecretKey(key, key_type), HMACKey(key), Timestamp(seconds, nanos), owner)
    encoded = stored.encode()
    assert KeyVersion.decode(encoded) == stored
    message = MessageToDict(pb.KeyVersion.FromString(b64(encoded.decode())), preserving_proto_field_name=True)
    assert b64(message["key"]["key"]) == key
    assert message["key"]["type"] == int(key_type)
    assert message["hmac_key"]["hash"] == 1
    assert message.get("created_by", "") == owner


@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode), st.binary().map(base64.b64encode)))
def test_nothing_makes_reading_raise_another_error(raw: bytes) -> None:
    try:
        KeyVersion.decode(raw)
    except StoredKeyError as error:
        assert raw.decode("utf-8", "replace")[:20] not in str(error) or len(raw) < 20  # noqa: PT017 # either may happen


# A fixed key, because the length of an encoded key varies with the time of its creation.
STORED = KeyVersion(
    SecretKey(bytes(32), KeyType.AES256), HMACKey(bytes(32)), Timestamp(1_700_000_000, 5), "me"
).encode()


@given(st.data())
def test_an_altered_value_is_an_error_or_another_key(data: st.DataObject) -> None:
    raw = bytearray(STORED)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert len(repr(KeyVersion.decode(bytes(raw)))) > 0
    except StoredKeyError:
        pass


@pytest.mark.parametrize("raw", [b"{" * 100_000, b'{"bytes":' + b"[" * 100_000, b'{"bytes":"' + b"9" * 10**6])
def test_bombs_are_just_no_key(raw: bytes) -> None:
    with pytest.raises(StoredKeyError):
        KeyVersion.decode(raw)


@given(st.integers(-62135596800, 253402300799), st.integers(0, 10**9 - 1))
def test_times_survive_being_written(seconds: int, nanos: int) -> None:
    moment = Timestamp(seconds, nanos)
    assert Timestamp.parse(moment.rfc3339()) == moment


@pytest.mark.parametrize("text", ["", "now", "2024-01-01", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "\u0662024"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Timestamp.parse(text)

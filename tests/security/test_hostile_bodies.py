"""Malicious bodies, stored keys and durations: each ends at once, with a value or one kind of error."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.access.errors import RequestError
from kes_core.encoding import decode_json, encode_base64
from kes_core.keys.stored import KeyVersion, StoredKeyError, Timestamp
from kes_core.keys.stored_key_pb2 import KeyVersion as StoredKey
from kes_core.keystore import KeyStoreError, page_of
from kes_core.server.api.call import binary_member
from kes_core.units import parse_duration
from tests.helpers.certificates import make_credentials
from tests.helpers.server import Server, start_server

KEY = encode_base64(bytes(range(32)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = start_server(tmp_path_factory.mktemp("server"), {"keys": [{"name": "k"}]})
    yield server
    server.stop()


def put(server: Server, path: str, body: str | bytes) -> httpx.Response:
    with server.client() as client:
        return client.put(path, content=body)


REFUSED = {
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "deep in another member": b'{"plaintext":"AAAA","other":' + b"[" * 100_000,
    "not a number": b'{"plaintext":NaN}',
    "not a number in another member": b'{"plaintext":"AAAA","other":Infinity}',
    "digits": b'{"plaintext":' + b"1" * 100_000 + b"}",
    "a number": b'{"plaintext":0}',
    "false": b'{"plaintext":false}',
    "an object": b'{"plaintext":{}}',
    "invalid UTF-8": b'{"plaintext":"\xff\xfe"}',
    "half a surrogate pair": b'{"plaintext":"\\ud800"}',
    "another spelling": b'{"PLAINTEXT":0}',
    "a list": b"[]",
    "text": b'"AAAA"',
    "a zero": b"0",
}


@pytest.mark.parametrize("name", REFUSED)
def test_body_that_is_refused(server: Server, name: str) -> None:
    answer = put(server, "/v1/key/encrypt/k", REFUSED[name])
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})


@pytest.mark.parametrize("body", [b"{}", b"0", b"false", b'""', b"[0]", b'[{"ciphertext":0}]', b"[[]]"])
def test_bulk_body_of_another_kind(server: Server, body: bytes) -> None:
    answer = put(server, "/v1/key/bulk/decrypt/k", body)
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})


@pytest.mark.parametrize("body", [b"null", b"[]"])
def test_bulk_body_without_ciphertexts(server: Server, body: bytes) -> None:
    answer = put(server, "/v1/key/bulk/decrypt/k", body)
    assert (answer.status_code, answer.json()) == (200, [])


def test_a_null_in_a_bulk_body_is_an_empty_ciphertext(server: Server) -> None:
    answer = put(server, "/v1/key/bulk/decrypt/k", b"[null]")
    assert answer.json() == {"message": "decryption failed: ciphertext is not authentic"}


@pytest.mark.parametrize("cipher", ["0", "false", "[]", "{}", "1.5"])
def test_cipher_that_is_not_text(server: Server, cipher: str) -> None:
    answer = put(server, "/v1/key/import/i", f'{{"key":"{KEY}","cipher":{cipher}}}')
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid import key request body"})


def test_cipher_with_half_a_surrogate_pair(server: Server) -> None:
    answer = put(server, "/v1/key/import/i", f'{{"key":"{KEY}","cipher":"\\ud800"}}')
    assert (answer.status_code, answer.json()) == (406, {"message": "algorithm '?' is not supported"})


def test_huge_number_in_a_member_that_is_not_used(server: Server) -> None:
    body = '{"plaintext":"aGVsbG8=","other":[' + "1" * 100_000 + ",-1e999999]}"
    assert put(server, "/v1/key/encrypt/k", body).status_code == 200


SPELLINGS = [
    ('{"Plaintext":"aGVsbG8=","CONTEXT":"AAAA"}', "aGVsbG8=", "AAAA"),
    ('{"plaintext":"AAAA","Plaintext":"aGVsbG8="}', "aGVsbG8=", ""),
    ('{"Plaintext":"AAAA","plaintext":"aGVsbG8="}', "aGVsbG8=", ""),
    ('{"plaintext":"AAAA","Plaintext":"AAAA","plaintext":"aGVsbG8="}', "aGVsbG8=", ""),
    ('{"plaintext":"AAAA","Plaintext":null}', "", ""),
    ('{"pla\\u0131ntext":"AAAA","plaintext":"aGVsbG8="}', "aGVsbG8=", ""),
]


@pytest.mark.parametrize(("body", "plaintext", "context"), SPELLINGS)
def test_names_match_without_regard_to_case(server: Server, body: str, plaintext: str, context: str) -> None:
    ciphertext = put(server, "/v1/key/encrypt/k", body).json()["ciphertext"]
    opened = put(server, "/v1/key/decrypt/k", json.dumps({"CipherText": ciphertext, "ConText": context}))
    assert opened.json() == {"plaintext": plaintext}
    [item] = put(server, "/v1/key/bulk/decrypt/k", json.dumps([{"CIPHERTEXT": ciphertext, "Context": context}])).json()
    assert item == {"plaintext": plaintext}


def test_every_body_takes_other_spellings(server: Server) -> None:
    assert put(server, "/v1/key/import/spelled", f'{{"\u212aey":"{KEY}","Cipher":"AES256"}}').status_code == 200
    mac = put(server, "/v1/key/hmac/k", '{"message":"aGVsbG8="}').json()
    assert put(server, "/v1/key/hmac/k", '{"Me\u017fSage":"aGVsbG8="}').json() == mac
    made = put(server, "/v1/key/generate/k", '{"Context":"AAAA"}').json()
    body = {"ciphertext": made["ciphertext"], "context": "AAAA"}
    assert put(server, "/v1/key/decrypt/k", json.dumps(body)).json() == {"plaintext": made["plaintext"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["plaintext", "Plaintext", "x"]) | st.text(), inner)
    ),
)


@given(JSON.map(json.dumps) | st.text())
def test_any_body_gives_values_or_one_kind_of_error(body: str) -> None:
    try:
        value = decode_json(body)
    except ValueError:
        return
    with contextlib.suppress(RequestError):
        assert isinstance(binary_member(value, "plaintext"), bytes)


TIMES = [
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:60Z",
    "9999-12-31T23:59:59-00:01",
    "2024-02-30T00:00:00Z",
    "2024-01-01T00:00:00+24:00",
]


@pytest.mark.parametrize("time", TIMES)
def test_stored_time_at_the_ends_of_time(time: str) -> None:
    with pytest.raises(StoredKeyError, match="created_at"):
        KeyVersion.decode(json.dumps({"bytes": KEY, "created_at": time}).encode())


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"])
def test_first_and_last_time(time: str) -> None:
    key = KeyVersion.decode(json.dumps({"Bytes": KEY, "created_AT": time}).encode())
    assert key.created_at.rfc3339() == time


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_any_stored_time_can_be_written_or_is_refused(seconds: int, nanos: int) -> None:
    message = StoredKey()
    message.key.key, message.key.type = bytes(32), 1
    message.created_at.seconds, message.created_at.nanos = seconds, nanos
    try:
        key = KeyVersion.decode(encode_base64(message.SerializeToString()).encode())
    except StoredKeyError:
        return
    assert Timestamp.parse(key.created_at.rfc3339()) == (seconds, nanos)


STORED = st.fixed_dictionaries(
    {},
    optional={
        "bytes": st.just(KEY) | JSON,
        "algorithm": st.sampled_from(["AES256", "ChaCha20"]) | JSON,
        "created_at": st.datetimes().map(lambda time: time.isoformat() + "+14:00") | st.sampled_from(TIMES) | JSON,
        "created_by": st.text() | JSON,
    },
)


@given(STORED.map(json.dumps).map(str.encode) | st.binary() | st.binary().map(lambda b: encode_base64(b).encode()))
def test_any_stored_value_is_a_key_or_an_error(raw: bytes) -> None:
    try:
        key = KeyVersion.decode(raw)
    except StoredKeyError:
        return
    assert key.created_at.rfc3339()
    json.dumps(key.created_by)


@pytest.mark.parametrize("text", ["1" * 60_000, "1" * 60_000 + "s", "1s" * 30_000, "." * 60_000, "1." * 30_000])
def test_endless_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.text(alphabet="0123456789.+-hmsnu\u00b5 ") | st.text())
def test_any_duration_is_a_number_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= parse_duration(text) < 2**63 / 1e9


@pytest.mark.parametrize("entry", [1, None, ["a"], b"a"])
def test_listing_with_an_entry_that_is_not_text(entry: Any) -> None:
    with pytest.raises(KeyStoreError, match="not text"):
        page_of(["b", entry, "a"], "")


@pytest.mark.parametrize("address", ["fe80::1%eth0", 'fe80::1%"],x', "1.2.3.4.5", "localhost", "10.1.2.3:80", "\u0661"])
def test_forwarded_address_that_is_not_an_address(tmp_path: Path, address: str) -> None:
    """The zone of an address may be any text, and would reach logs and policy engines."""
    proxy, client = make_credentials(tmp_path, "proxy"), make_credentials(tmp_path, "app")
    overrides = {
        "admin": {"identity": client.identity},
        "tls": {"key": "server.key", "cert": "server.crt", "proxy": {"identities": [proxy.identity]}},
        "log": {"audit": "on"},
    }
    server = start_server(tmp_path, overrides)
    try:
        headers = [(b"X-Tls-Client-Cert", quote(client.cert.read_text()).encode())]
        with server.client(proxy) as session:
            for forwarded in (address, "fe80::1"):
                own = [*headers, (b"X-Forwarded-For", forwarded.encode())]
                assert session.get("/v1/key/list/*", headers=own).status_code == 200
        found = [server.next_audit_record()["request"]["ip"] for _ in range(2)]
        assert found == ["127.0.0.1", "fe80::1"]
    finally:
        server.stop()

"""All parsers of data from strangers, clients or key stores, as functions of bytes.

A target returns if the parser accepts the input or refuses it with its documented error. Any other exception is a
defect. `test_fuzz.py` calls the targets with inputs of hypothesis, `scripts/fuzz.py` with those of atheris.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import h2.connection
import h2.settings
import msgpack
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.access.errors import RequestError
from kes_core.access.routing import decode_path
from kes_core.access.rules import AccessRules
from kes_core.access.sender import ProvenClient, identify
from kes_core.identity import APIKey, IdentityError, certificate_facts, identity_of_chain, load_certificates
from kes_core.keys.secret import CiphertextError, HMACKey, KeyType, SecretKey
from kes_core.keys.stored import KeyVersion, StoredKeyError, Timestamp
from kes_core.names import is_valid_name, is_valid_pattern
from kes_core.protocol import ROUTES, Argument
from tests.helpers.in_process import ask, talk
from tests.helpers.vectors import vectors
from tests.helpers.wrapping import VECTORS, wrapping_key

__all__ = ["TARGETS", "Target"]


class Target(NamedTuple):
    """A parser, and inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


# Identities


def _api_key(data: bytes) -> None:
    try:
        key = APIKey.parse(data.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        assert str(error).startswith("not an API key"), error  # noqa: PT017 # the input may also be valid
    else:
        assert APIKey.parse(str(key)) == key


@functools.cache
def _certificates() -> tuple[bytes, ...]:
    cases = vectors("api_keys")["certificates"]
    return (APIKey(bytes(32)).certificate()[1], *(case["pem"].encode() for case in cases))


def _certificate(data: bytes) -> None:
    """Read a chain as in a handshake: DER, one certificate or several."""
    armour = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"
    _check_chain(armour)


def _check_chain(pem: bytes) -> None:
    try:
        chain = load_certificates(pem)
        identity, leaf = identity_of_chain(chain)
    except IdentityError:
        return
    assert len(bytes.fromhex(identity)) == 32
    assert leaf is chain[0]
    try:
        certificate_facts(leaf, verified=False)
    except IdentityError:
        return
    assert ProvenClient.from_chain(chain, verified=False).identity == identity


def _forwarded(data: bytes) -> None:
    """Read the headers of a TLS proxy: the certificate, a line end, and the addresses."""
    header, _, addresses = data.partition(b"\n")
    proxy = ProvenClient("0" * 64, "", None, verified=False, presented=True, address="192.0.2.1")
    rules = AccessRules(proxies=frozenset([proxy.identity]), proxy_header=b"x-tls-client-cert")
    try:
        client = identify(proxy, [(rules.proxy_header, header), (b"x-forwarded-for", addresses)], rules)
    except RequestError as error:
        assert error.status == 400, error  # noqa: PT017 # as above
        return
    assert client.identity != proxy.identity
    ipaddress.ip_address(client.address)
    _check_chain(unquote_to_bytes(header))


_FORWARDED_FOR: Final = (b"192.0.2.7", b"2001:db8::1, 10.0.0.1", b"unknown", b"fe80::1%eth0", b"\xff, 1.2.3.4", b"")

# Requests


def _check_answer(answer: Any) -> None:
    assert answer.status < 500 or answer.status == 502, answer
    if answer.status >= 400 and answer.headers.get(b"content-type") == b"application/json":
        assert set(json.loads(answer.body)) == {"message"}


def _path(data: bytes) -> None:
    """Route and authorize a request target. The first byte of the input picks the method."""
    if not data:
        return
    method = ("GET", "PUT", "DELETE", "POST", "HEAD")[data[0] % 5]
    target = data[1:]
    _check_answer(ask(method, target))
    raw_path = target.partition(b"?")[0]
    decoded = decode_path(raw_path)
    # The policies see exactly the bytes that were sent: different bytes never decode to the same path.
    assert decoded.encode("utf-8", "surrogateescape") == unquote_to_bytes(raw_path)


def _name(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if is_valid_name(text):
        assert is_valid_pattern(text)
        assert text.isascii()
        assert 1 <= len(text) <= 80
        assert "/" not in text
        assert "." not in text
    is_valid_pattern(text)


_BODIES: Final = [route for route in ROUTES if route.max_body]
_CHANGING: Final = {
    *("/v1/key/rotate/", "/v1/key/import-version/", "/v1/key/disable/"),
    *("/v1/key/schedule-delete/", "/v1/key/min-version/"),
}
"""The routes that would change the key of the other inputs."""


def _body(data: bytes) -> None:
    """Send a body to the route that the first byte picks."""
    if not data:
        return
    route = _BODIES[data[0] % len(_BODIES)]
    if route.path in _CHANGING:  # the key stays as it is for the next input
        name, statuses = b"no-key", {400, 404, 406, 409}
    else:
        name, statuses = b"my-key", {200, 400, 406}
    answer = ask(route.method, route.path.encode() + name, data[1:])
    _check_answer(answer)
    assert answer.status in statuses, answer


_CONTEXT: Final = base64.b64encode(b"context").decode()
_BODY_SEEDS: Final = (
    {"key": base64.b64encode(bytes(32)).decode(), "cipher": "AES256"},
    {"wrapped_key": VECTORS["accepted"][0]["wrapped_key"], "wrapping_key": wrapping_key().id, "cipher": "AES256"},
    {"context": _CONTEXT},
    {"plaintext": _CONTEXT, "context": _CONTEXT},
    {"ciphertext": base64.b64encode(bytes(64)).decode(), "context": _CONTEXT},
    {"message": _CONTEXT},
    [{"ciphertext": base64.b64encode(bytes(64)).decode(), "context": None}],
)

# Keys and ciphertexts

_KEYS: Final = [SecretKey(bytes(range(32)), kind, named_cipher=named) for kind in KeyType for named in (False, True)]


def _ciphertext(data: bytes) -> None:
    for key in _KEYS:
        try:
            key.decrypt(data, b"context")
        except CiphertextError as error:
            assert error.__cause__ is None  # noqa: PT017 # the message must not name the cause


@functools.cache
def _ciphertexts() -> tuple[bytes, ...]:
    sealed = [key.encrypt(b"plaintext", b"context") for key in _KEYS]
    parts = [(value[-28:-12], value[-12:], value[:-28]) for value in sealed]
    as_json = [
        json.dumps(
            {
                "aead": ("AES-256-GCM-HMAC-SHA-256", "ChaCha20Poly1305")[number // 2],
                "id": "",
                **{
                    name: base64.b64encode(part).decode()
                    for name, part in zip(("iv", "nonce", "bytes"), each, strict=True)
                },
            }
        ).encode()
        for number, each in enumerate(parts)
    ]
    as_msgpack = [
        msgpack.packb([("AES256-GCM_SHA256", "XCHACHA20-POLY1305")[number // 2], "id", *each])
        for number, each in enumerate(parts)
    ]
    return (*sealed, *as_json, *as_msgpack)


def _stored_key(data: bytes) -> None:
    _check_stored_key(data)
    _check_stored_key(base64.b64encode(data))


def _check_stored_key(data: bytes) -> None:
    try:
        key = KeyVersion.decode(data)
    except StoredKeyError:
        return
    # An accepted key can be described, used and stored again.
    assert Timestamp.parse(key.created_at.rfc3339()) == key.created_at
    assert key.key.decrypt(key.key.encrypt(b"text")) == b"text"
    if key.hmac_key is not None:
        assert KeyVersion.decode(key.encode()) == key


def _stored_keys() -> Sequence[bytes]:
    key = KeyVersion(SecretKey(bytes(32), KeyType.AES256), HMACKey(bytes(32)), Timestamp(0, 1), "0" * 64)
    encoded = key.encode()
    old = {"bytes": base64.b64encode(bytes(32)).decode(), "algorithm": "", "created_at": "2022-01-02T03:04:05.6+01:00"}
    ends = ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00")
    beyond = [json.dumps({**old, "created_at": end}).encode() for end in ends]
    return (
        *beyond,
        encoded,
        base64.b64decode(encoded),
        json.dumps(old).encode(),
        json.dumps({**old, "version": "v1"}).encode(),
    )


# HTTP


def _pieces(data: bytes) -> Sequence[bytes]:
    """Split an input into pieces of a size that its first byte sets, as a connection delivers pieces of any size."""
    size = data[0] * 4 + 1
    return [data[place : place + size] for place in range(1, len(data), size)]


def _http1(data: bytes) -> None:
    if not data:
        return
    said = talk(_pieces(data), http2=False)
    # The server answers with complete responses, none of them a 500.
    assert not said or said.startswith(b"HTTP/1.1 "), said
    assert b"HTTP/1.1 500 " not in said, said


_HTTP1_SEEDS: Final = (
    b"\xffGET /version HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00PUT /v1/key/hmac/my-key HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x08POST /v1/key/encrypt/my-key HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"\xffGET /v1/log/audit HTTP/1.1\r\nHost: a\r\n\r\nGET /version HTTP/1.0\r\n\r\n",
    b"\xffPUT /v1/key/hmac/my-key HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"\xffGET /version HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
)

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _http2(data: bytes) -> None:
    """Send the bytes as they are, after a preface, or as frames: type, flags, stream, length and payload each."""
    if len(data) < 2:
        return
    kind, data = data[0] % 3, data[1:]
    if kind == 0:
        pieces = _pieces(data)
    elif kind == 1:
        pieces = [_PREFACE, *_pieces(data)]
    else:
        pieces = [_PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", *_frames(data)]
    talk(pieces, http2=True)


def _frames(data: bytes) -> Sequence[bytes]:
    frames = []
    while len(data) >= 4:
        kind, flags, stream, size = data[:4]
        payload, data = data[4 : 4 + size], data[4 + size :]
        head = len(payload).to_bytes(3) + bytes([kind % 12, flags]) + (stream % 16).to_bytes(4)
        frames.append(head + payload)
    return frames


@functools.cache
def _http2_seeds() -> tuple[bytes, ...]:
    seeds = []
    for method, path, body, window in (
        ("GET", "/version", b"", 65535),
        ("PUT", "/v1/key/encrypt/my-key", b"{}", 65535),
        ("GET", "/v1/log/error", b"", 65535),
        ("GET", "/v1/api", b"", 0),  # the window never opens, so the answer waits
    ):
        client = h2.connection.H2Connection()
        client.initiate_connection()
        client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        headers = [(":method", method), (":scheme", "https"), (":authority", "a"), (":path", path)]
        client.send_headers(1, headers, end_stream=not body)
        if body:
            client.send_data(1, body, end_stream=True)
        client.ping(b"12345678")
        said = client.data_to_send()
        seeds += [b"\x00\xff" + said, b"\x00\x01" + said, b"\x02" + _as_input(said.removeprefix(_PREFACE))]
    # A window update beyond the maximum, a reset, a stream that depends on itself, a continuation without headers.
    frames = [
        (8, 0, 0, b"\x7f\xff\xff\xff"),
        (3, 0, 1, b"\x00\x00\x00\x08"),
        (2, 0, 1, b"\x00\x00\x00\x01\x10"),
        (9, 4, 1, b""),
    ]
    seeds.append(
        b"\x02" + b"".join(bytes([kind, flags, stream, len(data)]) + data for kind, flags, stream, data in frames)
    )
    return tuple(seeds)


def _as_input(said: bytes) -> bytes:
    """Encode frames in the form that `_frames` reads."""
    result = b""
    while said:
        size = int.from_bytes(said[:3])
        result += bytes([said[3], said[4], said[8], size]) + said[9 : 9 + size]
        said = said[9 + size :]
    return result


def _paths() -> Sequence[bytes]:
    examples = {None: "", Argument.NAME: "my-key", Argument.PATTERN: "my*"}
    methods = {"GET": b"\x00", "PUT": b"\x01", "DELETE": b"\x02"}
    written = [methods[route.method] + (route.path + examples[route.argument]).encode() for route in ROUTES]
    tricks = (
        b"\x00/v1/key/list/~a",
        b"\x00/v1//key/../status",
        b"\x00/v1/%6bey/list/%2e%2e%2f*",
        b"\x00*",
        b"\x01/v1/key/create/%ff%00",
    )
    return (*written, *tricks)


TARGETS: Final[Mapping[str, Target]] = {
    "api_key": Target(_api_key, lambda: [str(APIKey(bytes(32))).encode(), b"AA==", b"kes:v1:"]),
    "certificate": Target(
        _certificate,
        lambda: [
            certificate.public_bytes(Encoding.DER)
            for pem in _certificates()
            for certificate in x509.load_pem_x509_certificates(pem)
        ],
    ),
    "forwarded": Target(
        _forwarded,
        lambda: [
            quote(pem).encode() + b"\n" + addresses for pem in _certificates()[:3] for addresses in _FORWARDED_FOR
        ],
    ),
    "path": Target(_path, _paths),
    "name": Target(_name, lambda: [b"my-key", b"_-___---_", b"my*", b"*", b"-a", b"_"]),
    "body": Target(
        _body, lambda: [bytes([number]) + json.dumps(body).encode() for number, body in enumerate(_BODY_SEEDS)]
    ),
    "ciphertext": Target(_ciphertext, _ciphertexts),
    "stored_key": Target(_stored_key, _stored_keys),
    "http1": Target(_http1, lambda: _HTTP1_SEEDS),
    "http2": Target(_http2, _http2_seeds),
}
"""The targets by name."""

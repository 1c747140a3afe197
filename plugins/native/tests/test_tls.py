"""TLS of the native part, which keeps no buffers of rustls: records come in pieces, or many at once."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

pytest.importorskip("kes_native._native", reason="the native part of kes-native is not built")

from tests.helpers.native_wire import Conversation, stranger
from tests.helpers.wire import Recorder

REQUEST = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
LARGEST = 16 * 1024
"""The bytes that a record holds at most."""
HANDSHAKE = 22
"""The type of records with messages of a handshake, which a client may also send later (RFC 8446, section 4.6)."""


def run(
    version: ssl.TLSVersion,
    scenario: Callable[[Recorder, Conversation], Awaitable[None]],
    secrets: Path | None = None,
) -> None:
    """Run a scenario on a connection with this version of TLS. Its `secrets` are written to a file."""

    async def start() -> None:
        context = stranger()
        context.minimum_version = context.maximum_version = version
        if secrets is not None:
            context.keylog_filename = str(secrets)
        application = Recorder()
        await scenario(application, Conversation(application, http2=False, context=context))

    asyncio.run(start())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_records_in_pieces(version: ssl.TLSVersion, size: int) -> None:
    async def scenario(application: Recorder, conversation: Conversation) -> None:
        records = conversation.encrypt(REQUEST) + conversation.encrypt(REQUEST)
        for start in range(0, len(records), size):
            conversation.send_encrypted(records[start : start + size])
        await conversation.settle(patience=0.05)
        assert application.requests == [("GET", "/a", b"")] * 2
        assert conversation.said.count(b"HTTP/1.1 200") == 2

    run(version, scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_body_and_answer_of_many_records(version: ssl.TLSVersion) -> None:
    """The last record comes with the beginning of the next request's first one."""
    body = bytes(range(256)) * 400

    async def scenario(application: Recorder, conversation: Conversation) -> None:
        head = b"PUT /b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        records = conversation.encrypt(head + body)
        assert len(records) > 6 * LARGEST
        following = conversation.encrypt(REQUEST)
        conversation.send_encrypted(records + following[:20])
        await conversation.settle(patience=0.05)
        assert application.requests == [("PUT", "/b", body)]
        assert conversation.said.endswith(body)
        conversation.send_encrypted(following[20:])
        await conversation.settle(patience=0.05)
        assert application.requests[1:] == [("GET", "/a", b"")]

    run(version, scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_changed_record_ends_the_connection_with_an_alert(version: ssl.TLSVersion) -> None:
    async def scenario(application: Recorder, conversation: Conversation) -> None:
        records = conversation.encrypt(REQUEST)
        conversation.send_encrypted(records[:-1] + bytes([records[-1] ^ 1]))
        with pytest.raises(ssl.SSLError, match=r"(?i)bad record mac"):
            conversation.read()
        assert conversation.is_closed
        assert application.requests == []

    run(version, scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_end_of_the_session_is_answered(version: ssl.TLSVersion) -> None:
    async def scenario(_application: Recorder, conversation: Conversation) -> None:
        conversation.send(REQUEST)
        conversation.end()
        await conversation.settle(patience=0.05)
        assert conversation.said.startswith(b"HTTP/1.1 200")
        assert conversation.is_closed
        assert conversation.has_ended  # an alert says that nothing is missing

    run(version, scenario)


@pytest.mark.parametrize("size", [LARGEST + 2049, 0xFFFF])
def test_record_that_is_too_long_is_refused_at_once(size: int) -> None:
    async def scenario(application: Recorder, conversation: Conversation) -> None:
        conversation.send_encrypted(b"\x17\x03\x03" + struct.pack(">H", size))
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            conversation.read()
        assert conversation.is_closed
        assert application.requests == []

    run(ssl.TLSVersion.TLSv1_3, scenario)


def records_of(kind: int, pieces: Iterator[bytes], secrets: Path) -> Iterator[bytes]:
    """Encrypt records as the client, of a kind that no TLS library sends at that time (RFC 8446, sections 5.2 and 7.3).

    The cipher suite is TLS_AES_256_GCM_SHA384, and the client has not encrypted any record before.
    """
    (secret,) = [line.split()[2] for line in secrets.read_text().splitlines() if "CLIENT_TRAFFIC_SECRET_0" in line]

    def derived(label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack(">HB", length, len(label)) + label + b"\0"
        return HKDFExpand(SHA384(), length, info).derive(bytes.fromhex(secret))

    cipher, iv = AESGCM(derived(b"key", 32)), derived(b"iv", 12)
    for number, piece in enumerate(pieces):
        head = b"\x17\x03\x03" + struct.pack(">H", len(piece) + 17)
        nonce = (int.from_bytes(iv) ^ number).to_bytes(12)
        yield head + cipher.encrypt(nonce, piece + bytes([kind]), head)


@pytest.mark.parametrize("size", [1, 1000, LARGEST])
def test_message_that_never_ends_has_a_limit(tmp_path: Path, size: int) -> None:
    """The server has to keep its pieces until it is complete. It keeps 64 KiB."""
    secrets = tmp_path / "secrets"

    async def scenario(application: Recorder, conversation: Conversation) -> None:
        message = b"\x18\x00\xff\xff" + bytes(0xFFFF - 1)  # a change of keys, of which only the last byte is missing
        pieces = (message[start : start + size] for start in range(0, len(message), size))
        taken = 0
        for record in records_of(HANDSHAKE, pieces, secrets):
            assert not conversation.is_closed
            conversation.send_encrypted(record)
            taken += len(record)
            if taken > 0xFFFF:
                break
        assert conversation.is_closed
        assert application.requests == []

    run(ssl.TLSVersion.TLSv1_3, scenario, secrets)

"""The bodies that the native part holds count as those of the other runtime do."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.connection
import pytest

pytest.importorskip("kes_native._native", reason="the native part of kes-native is not built")

from kes_core.server.wire import stream
from kes_core.server.wire.stream import BodyAllowance
from tests.helpers.native_wire import Conversation
from tests.helpers.wire import Recorder

HEAD = b"PUT /frequent HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n"


class Application(Recorder):
    frequent = ("/frequent",)


async def begun(application: Application) -> Conversation:
    """Return a connection with a part of a request's body."""
    conversation = Conversation(application, http2=False)
    conversation.send(HEAD + bytes(8000))
    await conversation.settle(patience=0.05)
    return conversation


async def finished(conversation: Conversation) -> bytes:
    """Send the rest of the body; return the beginning of the answer."""
    conversation.send(bytes(1000))
    await conversation.settle(patience=0.05)
    return bytes(conversation.said[:12])


def held() -> int:
    return BodyAllowance._held_by_all


def test_unfinished_bodies_of_many_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_BODIES", 20_000)

    async def scenario() -> None:
        application, before = Application(), held()
        first, second = await begun(application), await begun(application)
        assert held() == before + 16_000
        third = await begun(application)
        assert bytes(third.said[:12]) == b"HTTP/1.1 503"
        assert held() == before + 16_000
        assert await finished(first) == b"HTTP/1.1 200"
        assert held() == before + 8_000
        second.abort()
        await asyncio.sleep(0)
        await second.settle(patience=0.05)
        assert held() == before
        assert await finished(await begun(application)) == b"HTTP/1.1 200"
        assert held() == before

    asyncio.run(scenario())


def test_bodies_that_do_not_wait_any_longer_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_BODIES", 10_000)

    async def scenario() -> None:
        before = held()
        conversation = await begun(Application())
        await conversation.connection.start_waiting()
        await conversation.settle(patience=0.05)
        assert held() == before + 8_000
        assert await finished(conversation) == b"HTTP/1.1 200"
        assert held() == before

    asyncio.run(scenario())


def test_bodies_of_a_connection_over_http2_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_BODIES", 20_000)

    async def scenario() -> None:
        before = held()
        conversation = Conversation(Application(), http2=True)
        conversation.send(client_bytes([(1, 8_000), (3, 8_000)]))
        await conversation.settle(patience=0.05)
        assert held() == before + 16_000
        conversation.abort()
        await asyncio.sleep(0)
        await conversation.settle(patience=0.05)
        assert held() == before

    asyncio.run(scenario())


def client_bytes(requests: list[tuple[int, int]]) -> bytes:
    """Return what a client sends that begins requests, each with a stream and the size of the beginning of its body."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for number, size in requests:
        fields: list[Any] = [(":method", "PUT"), (":scheme", "https"), (":authority", "a"), (":path", "/frequent")]
        client.send_headers(number, fields)
        client.send_data(number, bytes(size))
    return client.data_to_send()

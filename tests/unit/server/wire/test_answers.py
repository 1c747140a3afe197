"""What every answer has, and limits of HTTP/2 that no request may exceed."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import h2.events
import h2.exceptions
import h2.settings
import pytest

from kes_core.server.wire.app import Message
from kes_core.server.wire.listener import MAX_STREAMS
from tests.helpers.wire import Recorder, Wire, exchange, http2_peer, statuses

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


def is_now(date: bytes) -> bool:
    return abs(parsedate_to_datetime(date.decode()) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def headers_of(answer: bytes) -> dict[bytes, bytes]:
    head = answer.partition(b"\r\n\r\n")[0]
    return {
        name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }


def test_answers_have_a_date() -> None:
    for request in (GET, b"GET /a HTTP/1.1\r\n\r\n"):
        assert is_now(headers_of(exchange(request)[0])[b"date"])
    with http2_peer(Recorder()) as peer:
        peer.request("GET", "/a")
        (answer,) = [event for event in peer.exchange() if isinstance(event, h2.events.ResponseReceived)]
        assert is_now(dict(answer.headers)[b"date"])


class Greeting(Recorder):
    """Answers in two parts."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__()
        self.headers = list(headers)

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        await receive()
        self.requests.append((scope["method"], scope["path"], b""))
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"hello, ", "more_body": True})
        await send({"type": "http.response.body", "body": b"world"})


def answer_over_http1(app: Recorder, *pieces: bytes) -> bytes:
    async def run() -> bytes:
        wire = Wire(app)
        await wire.feed(*pieces)
        return wire.sent

    return asyncio.run(run())


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"12")]])
def test_answer_to_head_has_no_body(headers: list[tuple[bytes, bytes]]) -> None:
    app = Greeting(headers)
    answer = answer_over_http1(app, b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == answer.count(b"HTTP/1.1 200") == 2
    with http2_peer(app) as peer:
        peer.request("HEAD", "/a")
        events = peer.exchange()
    assert not [event for event in events if isinstance(event, h2.events.DataReceived) and event.data]
    assert len([event for event in events if isinstance(event, h2.events.StreamEnded)]) == 1
    assert [method for method, _, _ in app.requests] == ["HEAD"] * 3


def test_answer_of_unknown_length() -> None:
    """HTTP/1.1 gets it in chunks; HTTP/1.0, which does not know them, until the connection ends."""
    answer = answer_over_http1(Greeting(), GET)
    assert headers_of(answer)[b"transfer-encoding"] == b"chunked"
    assert answer.endswith(b"\r\n\r\n7\r\nhello, \r\n5\r\nworld\r\n0\r\n\r\n")
    answer = answer_over_http1(Greeting(), b"GET /a HTTP/1.0\r\n\r\n" * 2)
    assert b"transfer-encoding" not in headers_of(answer)
    assert answer.endswith(b"\r\n\r\nhello, world")
    with http2_peer(Greeting()) as peer:
        peer.request("GET", "/a")
        events = peer.exchange()
    assert b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived)) == b"hello, world"


def test_http2_streams_at_once_have_a_limit() -> None:
    app = Recorder()
    with http2_peer(app) as peer:
        assert peer.h2.remote_settings.max_concurrent_streams == MAX_STREAMS
        peer.h2.remote_settings = h2.settings.Settings(client=False)  # forget it
        streams = [peer.request("PUT", "/a", end=False) for _ in range(MAX_STREAMS + 50)]
        peer.exchange()
        for stream in streams:
            try:
                peer.h2.end_stream(stream)
            except h2.exceptions.ProtocolError:
                continue  # the server has reset the stream, or closed the connection
        peer.exchange()
    assert len(app.requests) <= MAX_STREAMS


def test_http2_headers_have_a_limit() -> None:
    app = Recorder()
    with http2_peer(app) as peer:
        peer.request("GET", "/a", extra=[("x-a", "b" * 31_000)])
        assert set(statuses(peer.exchange()).values()) == {200}
    with http2_peer(app) as peer:
        peer.request("GET", "/a", extra=[(f"x-{number}", "b" * 1000) for number in range(33)])
        assert 200 not in statuses(peer.exchange()).values()
    assert len(app.requests) == 1

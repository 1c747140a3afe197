"""A malformed HTTP/2 request ends its own stream, and no other one of its connection."""

from __future__ import annotations

from typing import Any

import h2.errors
import h2.events
import pytest

from tests.helpers.http2 import Http2Client
from tests.helpers.server import Server

GOOD = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/version")]


@pytest.mark.parametrize(
    "headers",
    [
        [*GOOD, ("x-a", " b")],
        [*GOOD, ("x-a", "b ")],
        [*GOOD, ("x-a", "b\nc")],
        [*GOOD, ("connection", "close")],
        [*GOOD, ("transfer-encoding", "chunked")],
        [*GOOD, ("te", "gzip")],
        [*GOOD, ("X-A", "b")],
        [*GOOD, ("x a", "b")],
        [*GOOD, (":unknown", "b")],
        [*GOOD, ("x-a", "b"), (":path", "/version")],
        [("x-a", "b"), *GOOD],
        [*GOOD, ("host", "elsewhere")],
        GOOD[1:],
        GOOD[:1] + GOOD[2:],
        GOOD[:3],
        [*GOOD[:3], (":path", "")],
        [("x-a", "b")],
    ],
)
def test_malformed_request_ends_its_stream_only(server: Server, headers: list[tuple[str, str]]) -> None:
    with server.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        waiting = client.request("PUT", "/v1/key/encrypt/none", end=False)
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        bad = client.h2.get_next_available_stream_id()
        client.h2.send_headers(bad, headers, end_stream=True)
        client.flush()
        reset = wait_for(client, h2.events.StreamReset, bad)
        assert reset.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
        client.h2.send_data(waiting, b"{}", end_stream=True)
        client.flush()
        answer = wait_for(client, h2.events.ResponseReceived, waiting)
        assert dict(answer.headers)[b":status"] == b"404"


def test_malformed_requests_without_end_are_cut_off(server: Server) -> None:
    with server.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        client.h2.config.validate_outbound_headers = False
        client.h2.config.normalize_outbound_headers = False
        with pytest.raises((ConnectionError, AssertionError)):
            send_malformed(client, 1000)
    assert not [line for line in server.errors if "internal error" in line]


def send_malformed(client: Http2Client, count: int) -> None:
    """Send as many requests, a few at a time, each of which is reset."""
    for _ in range(count // 100):
        stream = 0
        for _ in range(100):
            stream = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream, [*GOOD, ("connection", "close")], end_stream=True)
        client.flush()
        wait_for(client, h2.events.StreamReset, stream)


def wait_for(client: Http2Client, kind: type[h2.events.Event], stream: int) -> Any:
    while True:
        for event in client.events():
            assert not isinstance(event, h2.events.ConnectionTerminated), event
            if isinstance(event, kind) and getattr(event, "stream_id", None) == stream:
                return event

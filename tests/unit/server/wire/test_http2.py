"""HTTP/2: a malformed request ends its stream, and a client that keeps sending them loses the connection."""

from __future__ import annotations

import h2.errors
import h2.events
import pytest

from tests.helpers.server import is_native
from tests.helpers.wire import HTTP2Peer, Recorder, http2_peer, statuses

GOOD = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/version")]


@pytest.mark.parametrize(
    "headers",
    [
        [*GOOD, ("x-a", " b")],
        [*GOOD, ("x-a", "b ")],
        [*GOOD, ("connection", "close")],
        [*GOOD, ("transfer-encoding", "chunked")],
        [*GOOD, ("te", "gzip")],
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
def test_malformed_request_ends_its_stream_only(headers: list[tuple[str, str]]) -> None:
    app = Recorder()
    with http2_peer(app) as peer:
        waiting = peer.request("PUT", "/a", end=False)
        peer.allow_malformed_headers()
        bad = peer.h2.get_next_available_stream_id()
        peer.h2.send_headers(bad, headers, end_stream=True)
        (reset,) = [event for event in peer.exchange() if isinstance(event, h2.events.StreamReset)]
        assert (reset.stream_id, reset.error_code) == (bad, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        peer.h2.send_data(waiting, b"{}", end_stream=True)
        assert statuses(peer.exchange()) == {waiting: 200}
    assert app.requests == [("PUT", "/a", b"{}")]


@pytest.mark.parametrize("header", [("x-a", "b\nc"), ("X-A", "b"), ("x a", "b"), (":unknown", "b")])
def test_header_that_no_request_may_have_ends_its_stream(header: tuple[str, str]) -> None:
    """The native runtime ends the connection, as its HTTP/2 library does."""
    app = Recorder()
    with http2_peer(app) as peer:
        peer.allow_malformed_headers()
        bad = peer.h2.get_next_available_stream_id()
        peer.h2.send_headers(bad, [*GOOD, header], end_stream=True)
        (end,) = peer.exchange()
        assert isinstance(end, h2.events.ConnectionTerminated if is_native() else h2.events.StreamReset)
        assert end.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert app.requests == []


def is_cut_off(events: list[h2.events.Event]) -> bool:
    """Tell whether the server ends the connection because the client sends too many useless frames."""
    ends = [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
    return bool(ends) and ends[0].error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def test_client_that_goes_on_with_malformed_requests_is_cut_off() -> None:
    app = Recorder()
    with http2_peer(app) as peer:
        peer.allow_malformed_headers()
        for _ in range(10):
            for _ in range(100):
                stream = peer.h2.get_next_available_stream_id()
                peer.h2.send_headers(stream, [*GOOD, ("connection", "close")], end_stream=True)
            if is_cut_off(peer.exchange()):
                break
        assert peer.is_closed
    assert app.requests == []


def reset_many(peer: HTTP2Peer, count: int) -> None:
    """Open streams and reset each at once."""
    for _ in range(count):
        peer.h2.reset_stream(peer.request("GET", "/version"), h2.errors.ErrorCodes.CANCEL)


def test_rapid_resets_end_the_connection() -> None:
    """The server disconnects a client that opens streams and resets them at once (CVE-2023-44487)."""
    with http2_peer(Recorder()) as peer:
        for _ in range(20):
            reset_many(peer, 100)
            if is_cut_off(peer.exchange()):
                break
        assert peer.is_closed


def test_body_shorter_than_declared_is_not_passed_on() -> None:
    app = Recorder()
    with http2_peer(app) as peer:
        stream = peer.request("PUT", "/a", end=False, extra=[("content-length", "10")])
        peer.h2.send_data(stream, b"{}", end_stream=True)
        assert statuses(peer.exchange()) == {}
    assert app.requests == []

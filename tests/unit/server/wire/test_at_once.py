"""Requests that the application serves at once, as soon as their body is complete."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from itertools import pairwise
from typing import Any

import h2.connection
import h2.events
import pytest

from kes_core.server.wire.app import Answer, Message
from kes_core.server.wire.stream import SMALL_BODY
from tests.helpers.server import is_native
from tests.helpers.wire import Recorder, Wire, http2_peer, statuses


class AtOnce(Recorder):
    """Serves all requests at once; notes by which way each one came."""

    frequent = ("/",)

    def __init__(self, *, waits: bool = False, fails: bool = False) -> None:
        super().__init__()
        self.at_once: list[bytes] = []
        self._waits = waits
        self._fails = fails

    def may_begin(self, scope: Message) -> bool:
        return True

    def begin(self, scope: Message, body: bytes) -> Answer | Awaitable[Answer]:
        if self._fails:
            raise RuntimeError
        self.at_once.append(body)
        answer = Answer(200, [(b"content-length", b"%d" % len(body[:5]))], body[:5])
        return self._later(answer) if self._waits else answer

    @staticmethod
    async def _later(answer: Answer) -> Answer:
        await asyncio.sleep(0.01)
        return answer


HEAD = b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def exchange(app: Recorder, *pieces: bytes, then: Any = None) -> bytes:
    async def run() -> bytes:
        wire = Wire(app)
        await wire.feed(*pieces)
        if then is not None:
            await then(wire)
            await wire.settle()
        return wire.sent

    return asyncio.run(run())


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("cut", [1, 10, len(HEAD), len(HEAD) + 2])
def test_whole_and_divided_requests_in_http1(cut: int, waits: bool) -> None:
    app = AtOnce(waits=waits)
    request = HEAD % 5 + b"hello"
    answer = exchange(app, request[:cut], request[cut:] + request, request)
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"\r\n\r\nhello") == 3
    assert (app.at_once, app.requests) == ([b"hello"] * 3, [])


def test_chunked_body_in_http1() -> None:
    app = AtOnce()
    head = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(app, head, b"5\r\nhello\r\n", b"0\r\n\r\n").endswith(b"hello")
    assert app.at_once == [b"hello"]


def test_client_that_waits_for_100_continue() -> None:
    app = AtOnce()
    head = b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    async def send_body(wire: Wire) -> None:
        assert re.fullmatch(rb"HTTP/1\.1 100 \w*\r\n\r\n", wire.sent)
        await wire.feed(b"hello")

    assert exchange(app, head, then=send_body).endswith(b"hello")
    assert (app.at_once, app.requests) == ([], [("PUT", "/a", b"hello")])


def test_large_body_and_malformed_body_go_the_ordinary_way() -> None:
    app = AtOnce()
    exchange(app, HEAD % (SMALL_BODY + 2), b"a" * (SMALL_BODY + 1), b"a")
    head = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"HTTP/1.1 400" in exchange(app, head + b"5\r\nhello\r\n", b"zz\r\n")
    assert (app.at_once, len(app.requests)) == ([], 1)


def test_incomplete_request_is_passed_on_after_a_while() -> None:
    """Then its own time limit counts."""
    app = AtOnce()

    async def wait(wire: Wire) -> None:
        await wire.protocol.start_waiting()
        await wire.feed(b"llo")

    assert exchange(app, HEAD % 5 + b"he", then=wait).endswith(b"hello")
    assert (app.at_once, app.requests) == ([], [("PUT", "/a", b"hello")])


def test_fault_of_the_application_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    assert exchange(AtOnce(fails=True), HEAD % 0).startswith(b"HTTP/1.1 500")
    assert "internal error: RuntimeError" in caplog.text


class _Client(h2.connection.H2Connection):
    """Makes the bytes of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.initiate_connection()

    def requests(self, count: int) -> bytes:
        head = [(":method", "PUT"), (":scheme", "https"), (":authority", "a"), (":path", "/a")]
        for _request in range(count):
            self.send_headers(self.get_next_available_stream_id(), head, end_stream=True)
        return self.data_to_send()


class LargeAnswers(AtOnce):
    """Answers at once with more than a client's flow-control window takes."""

    def begin(self, scope: Message, body: bytes) -> Answer:
        return Answer(200, [(b"content-length", b"200000")], b"a" * 200_000)


def test_answer_larger_than_the_window_does_not_keep_the_server_from_reading() -> None:
    """Otherwise the server would never learn that the client has opened its window again."""

    async def run() -> int:
        wire, client, received = Wire(LargeAnswers(), http2=True), _Client(), 0
        await wire.protocol.initiate()
        pieces = [client.requests(1)]
        while received < 200_000:
            await wire.feed(*filter(None, pieces))
            sent, wire.sent = wire.sent, b""
            for event in client.receive_data(sent):
                if isinstance(event, h2.events.DataReceived):
                    received += len(event.data)
                    client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            pieces = [client.data_to_send()]
        return received

    async def in_time() -> int:
        async with asyncio.timeout(10):
            return await run()

    assert asyncio.run(in_time()) == 200_000


@pytest.mark.parametrize(("http2", "most"), [(False, 16 if is_native() else 1), (True, 16)])
def test_many_requests_in_one_piece_do_not_keep_others_waiting(http2: bool, most: int) -> None:
    app = AtOnce()
    served: list[int] = []

    async def watch() -> None:
        while True:
            served.append(len(app.at_once))
            await asyncio.sleep(0)

    async def run() -> None:
        wire, watching = Wire(app, http2=http2), asyncio.create_task(watch())
        await wire.protocol.initiate()
        await wire.feed(_Client().requests(200) if http2 else (HEAD % 5 + b"hello") * 200)
        watching.cancel()

    asyncio.run(run())
    assert len(app.at_once) == 200
    assert max(later - earlier for earlier, later in pairwise(served)) == most


@pytest.mark.parametrize("waits", [False, True])
def test_whole_and_divided_requests_in_http2(waits: bool) -> None:
    app = AtOnce(waits=waits)
    with http2_peer(app) as peer:
        whole, divided, empty = (peer.request("PUT", "/a", end=False) for _ in range(3))
        peer.h2.send_data(whole, b"hello", end_stream=True)
        peer.h2.send_data(divided, b"he")
        peer.h2.end_stream(empty)
        assert statuses(peer.exchange()) == {whole: 200, empty: 200}
        peer.h2.send_data(divided, b"llo", end_stream=True)
        assert statuses(peer.exchange()) == {divided: 200}
    assert (sorted(app.at_once), app.requests) == ([b"", b"hello", b"hello"], [])


def test_bodies_count_as_read() -> None:
    """Else the client's window for the connection would be used up."""
    with http2_peer(AtOnce()) as peer:
        for _request in range(30):
            stream = peer.request("PUT", "/a", end=False)
            peer.h2.send_data(stream, b"a" * 5000, end_stream=True)
            assert statuses(peer.exchange()) == {stream: 200}


def test_large_body_in_http2_goes_the_ordinary_way() -> None:
    app = AtOnce()
    with http2_peer(app) as peer:
        stream = peer.request("PUT", "/a", end=False)
        for _part in range(2):
            peer.h2.send_data(stream, b"a" * 10_000)
        peer.exchange()
        peer.h2.send_data(stream, b"", end_stream=True)
        assert statuses(peer.exchange()) == {stream: 200}
    assert (app.at_once, len(app.requests)) == ([], 1)


class Noting(AtOnce):
    """Notes what an application sees that is served in the ordinary way."""

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.requests.append((scope["method"], (await receive())["type"], b""))


def test_reset_request_reaches_the_application_which_records_it() -> None:
    app = Noting()
    with http2_peer(app) as peer:
        stream = peer.request("PUT", "/a", end=False)
        peer.exchange()
        peer.h2.reset_stream(stream)
        peer.exchange()
    assert (app.at_once, app.requests) == ([], [("PUT", "http.disconnect", b"")])


@pytest.mark.parametrize("ending", [Wire.end, Wire.close])
def test_incomplete_request_of_a_client_that_leaves_reaches_the_application(ending: Any) -> None:
    app = Noting()
    exchange(app, HEAD % 5 + b"he", then=ending)
    assert (app.at_once, app.requests) == ([], [("PUT", "http.disconnect", b"")])

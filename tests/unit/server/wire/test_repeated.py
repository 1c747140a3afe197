"""A request over HTTP/1.1 whose head the server has read before gets the same answer as the first one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.server.wire import http1
from kes_core.server.wire.app import Answer, Message
from kes_core.server.wire.repeated import MAX_REMEMBERED
from kes_core.server.wire.stream import SMALL_BODY
from tests.helpers.server import is_native
from tests.helpers.wire import Recorder, Wire

pytestmark = pytest.mark.skipif(is_native(), reason="about HTTP/1.1 in Python")

SERVED = list[tuple[str, bytes, bytes]]


class Repeater(Recorder):
    """Serves all requests at once, the second one of a kind by `direct`; notes both."""

    frequent = ("/",)

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__()
        self.served: SERVED = []
        self.directly = 0
        self._known: set[tuple[str, bytes]] = set()
        self._waits = waits

    def may_begin(self, scope: Message) -> bool:
        return True

    def begin(self, scope: Message, body: bytes) -> Answer:
        method, path = scope["method"], scope["raw_path"]
        if not scope["query_string"]:
            self._known.add((method, path))
        return self._answer(method, path, body)

    def direct(  # type: ignore[override] # `Recorder` never serves a request in this way
        self, client: object, method: str, raw_path: bytes, body: bytes
    ) -> bytes | Awaitable[Answer] | None:
        if (method, raw_path) not in self._known:
            return None
        self.directly += 1
        answer = self._answer(method, raw_path, body)
        return self._later(answer) if self._waits else answer.body

    def _answer(self, method: str, path: bytes, body: bytes) -> Answer:
        self.served.append((method, path, body))
        text = b'"%d"' % len(self.served)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        return Answer(200, headers, text)

    @staticmethod
    async def _later(answer: Answer) -> Answer:
        await asyncio.sleep(0.001)
        return answer


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    http1.HEADS.clear()


def talk(app: Repeater, *pieces: bytes) -> bytes:
    """Send `pieces` on one connection; return the answers without their dates."""

    async def run() -> bytes:
        wire = Wire(app)
        await wire.feed(*pieces)
        return re.sub(rb"(?i)\r\ndate: [^\r]*", b"", wire.sent)

    return asyncio.run(run())


REQUEST = b"PUT /v1/key/generate/a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize("waits", [False, True])
def test_requests_after_the_first_need_no_parser(waits: bool) -> None:
    app = Repeater(waits=waits)
    answers = talk(app, REQUEST, REQUEST + REQUEST, REQUEST, REQUEST[:-1], REQUEST[-1:] + REQUEST[:9], REQUEST[9:])
    assert [answer[-3:] for answer in answers.split(b"HTTP/1.1 200 OK")[1:]] == [b'"%d"' % n for n in range(1, 7)]
    assert app.served == [("PUT", b"/v1/key/generate/a", b"hello")] * 6
    assert app.directly >= (1 if waits else 3)


ORDINARY = {
    "a query": REQUEST.replace(b"/a HTTP", b"/a?b HTTP"),
    "a full URL": REQUEST.replace(b" /v1", b" https://a/v1"),
    "the last request": REQUEST.replace(b"keep-alive", b"close"),
    "perhaps the last request": REQUEST.replace(b"Connection", b"Connection: close\r\nConnection"),
    "a version that closes": REQUEST.replace(b"1.1", b"1.0"),
    "a client that waits": REQUEST.replace(b"keep-alive", b"keep-alive\r\nExpect: 100-continue"),
    "a chunked body": REQUEST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(
        b"hello", b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "a credential": REQUEST.replace(b"Host", b"Authorization: Bearer x\r\nHost"),
    "a long head": REQUEST.replace(b"Host", b"A: " + b"a" * MAX_REMEMBERED + b"\r\nHost"),
    "a large body": REQUEST.replace(b"5", b"%d" % (SMALL_BODY + 1)).replace(b"hello", b"a" * (SMALL_BODY + 1)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_not_remembered(name: str) -> None:
    app = Repeater()
    request = ORDINARY[name]
    for _connection in range(2):
        assert b"HTTP/1.1 200" in talk(app, request)
    assert (len(app.served) + len(app.requests), app.directly) == (2, 0)


def test_memory_is_limited() -> None:
    app = Repeater()
    talk(app, *(REQUEST.replace(b"/a ", b"/%d " % number) for number in range(2100)))
    assert 0 < len(http1.HEADS._heads) <= 2048


def _mutated(request: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    for position, text, removed in edits:
        place = position % (len(request) + 1)
        request = request[:place] + text + request[place + removed :]
    return request


TEXTS = st.sampled_from(
    [
        *[b"", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b"\r\n ", b"\r\n\r\n", b"0", b"6", b"?a", b"\xff"],
        *[b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"GET "],
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, 200), TEXTS, st.integers(0, 3)), max_size=3)


@given(st.lists(EDITS, min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=3))
def test_memory_changes_no_answer(requests: list[list[tuple[int, bytes, int]]], cuts: list[int]) -> None:
    """Also not for hostile requests that resemble a remembered one, in any pieces."""
    data = REQUEST + b"".join(_mutated(REQUEST, edits) for edits in requests)
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places) if start < end]
    results: list[tuple[bytes, SERVED]] = []
    for whole in (False, True):
        http1.HEADS.clear()
        if whole:  # remember what can be remembered
            for edits in ([], *requests):
                talk(Repeater(), _mutated(REQUEST, edits))
        app = Repeater()
        results.append((talk(app, *([REQUEST, *pieces] if whole else [REQUEST, *_by_bytes(data)])), app.served))
    assert results[0] == results[1]


def _by_bytes(data: bytes) -> list[bytes]:
    """Return pieces that are never whole requests, so that h11 reads them all."""
    return [data[start : start + 7] for start in range(0, len(data), 7)]

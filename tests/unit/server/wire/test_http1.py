"""HTTP/1.1: the server refuses requests that proxies may interpret differently, and those that are too long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.wire import exchange

LONG = 33 * 1024
PIPELINED = (
    b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfirst"
    b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
    b"PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n5;x=y\r\n\n\n \r\n\r\n0\r\n\r\n"
    b"PUT /d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\n "
)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\nX-C: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\tc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n", 400),
        (b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"b" * LONG + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * (LONG // 8) + b"\r\n", 431),
        (b"GET /" + b"b" * LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    ],
    ids=[
        "line feed after the request line",
        "line feed after the last header",
        "line feed between headers",
        "line feed as the blank line",
        "line feed before the request",
        "folded with a space",
        "folded with a tab",
        "folded first header",
        "chunked in HTTP/1.0",
        "long header",
        "many headers",
        "long path",
    ],
)
def test_ambiguous_or_too_long_head_is_refused(request_bytes: bytes, status: int) -> None:
    """The server refuses the head in one piece or in several, and ignores what follows it."""
    follow = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    middle = len(request_bytes) // 2
    for pieces in ([request_bytes + follow], [request_bytes[:middle], request_bytes[middle:], follow]):
        answer, requests = exchange(*pieces)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert requests == []


@pytest.mark.parametrize(
    "end",
    [b"0\r\n\n", b"0\r\nX-A: b\r\n\r\n", b"0\r\nX-A: b\n\n", b"0\r\nX-A: b\r\n c\r\n\r\n", b"0\n\r\n", b"0\r\n\n\r\n"],
)
def test_chunked_body_with_another_end_is_refused(end: bytes) -> None:
    head = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    follow = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    whole = head + b"2\r\n{}\r\n" + end
    for pieces in ([whole + follow], [bytes([byte]) for byte in whole] + [follow]):
        answer, requests = exchange(*pieces)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert requests == []


@given(cuts=st.lists(st.integers(0, len(PIPELINED)), max_size=6))
def test_requests_mean_the_same_in_whatever_pieces_they_come(cuts: list[int]) -> None:
    bounds = [0, *sorted(set(cuts) - {0, len(PIPELINED)}), len(PIPELINED)]
    answer, requests = exchange(*(PIPELINED[start:end] for start, end in pairwise(bounds)))
    assert requests == [
        ("PUT", "/a", b"first"),
        ("GET", "/b", b""),
        ("PUT", "/c", b"second\n\n \r\n"),
        ("PUT", "/d", b"\r\n\n "),
    ]
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 4


@pytest.mark.parametrize("start", [b" ", b"\t", b"\r\n", b"\n"])
def test_body_may_begin_with_any_byte(start: bytes) -> None:
    body = start + b"{}"
    answer, requests = exchange(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert requests == [("PUT", "/a", body)]


def test_head_up_to_the_limit_is_taken() -> None:
    answer, requests = exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"b" * (LONG - 2048) + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(requests) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: -1",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked",
        b"Content-Length: " + b"9" * 21,
    ],
    ids=["two", "negative", "chunked as well", "21 digits"],
)
def test_body_whose_length_is_not_clear_is_refused(head: bytes) -> None:
    """The server does not take the following bytes for another request."""
    answer, requests = exchange(
        b"PUT /a HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert requests == []


def test_bytes_after_the_declared_length_are_no_part_of_the_body() -> None:
    answer, requests = exchange(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n" + b'{"context":""}')
    assert requests == [("PUT", "/a", b"{")]
    assert answer.count(b"HTTP/1.1 2") == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"G" * 70_000,
        b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["zeros", "unknown version", "70,000 bytes", "byte over 127 in the path", "HTTP/2 preface"],
)
def test_what_is_not_http_1_1_is_refused(garbage: bytes) -> None:
    answer, requests = exchange(garbage)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert requests == []

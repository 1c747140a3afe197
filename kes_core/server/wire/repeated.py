"""Requests over HTTP/1.1 that begin with the same bytes as an earlier one.

An application sends nearly the same request again and again: for the same key, with a body of the same length. h11
takes most of the time of such a request. So the server remembers what h11 has read from a head, by all of its bytes,
and what it has written. Between two requests of a connection, what h11 reads depends on nothing else.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NamedTuple

import h11

from kes_core.server.wire.app import Answer, Headers
from kes_core.server.wire.stream import DATE, SMALL_BODY

__all__ = ["BLANK_LINE", "CREDENTIALS", "REASONS", "RepeatedHead", "RepeatedHeads", "render"]

BLANK_LINE: Final = b"\r\n\r\n"
REASONS: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
MAX_REMEMBERED: Final = 1024
"""The longest head that is remembered, in bytes."""
_MAX_HEADS: Final = 2048
_MAX_RENDERED: Final = 512
CREDENTIALS: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
"""Headers that may hold a secret, which must not stay in memory. This server reads none of them."""
_UNUSUAL: Final = CREDENTIALS | {b"transfer-encoding", b"expect", b"connection", b"upgrade"}
"""Headers of requests that are not remembered: others change how the rest is read, or what follows the answer."""


_KEEP_ALIVE: Final = (b"connection", b"keep-alive")
"""A header that says nothing in HTTP/1.1."""


class RepeatedHead(NamedTuple):
    """What a head says. The other headers have no effect on the requests for which this is used."""

    method: str
    path: bytes
    """The path as the client sent it, without a query."""
    length: int
    """The length of the body."""


class RepeatedHeads:
    """The heads of earlier requests, of all connections of the process."""

    def __init__(self) -> None:
        self._heads: dict[bytes, RepeatedHead] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._heads.clear()

    def find(self, received: bytes) -> tuple[RepeatedHead, int] | None:
        """Return the head with which `received` begins, and where it ends; or None if it is not remembered."""
        end = received.find(BLANK_LINE, 0, MAX_REMEMBERED) + len(BLANK_LINE)
        found = self._heads.get(received[:end])
        return None if found is None else (found, end)

    def remember(self, received: bytes, request: h11.Request) -> None:
        """Remember the head with which `received` begins, of which h11 has made `request`."""
        end = received.find(BLANK_LINE, 0, MAX_REMEMBERED) + len(BLANK_LINE)
        start = b"%b %b HTTP/1.1\r\n" % (request.method, request.target)
        if end < len(start) or not received.startswith(start) or not request.target.startswith(b"/"):
            return
        names = {name for name, value in request.headers if (name, value.lower()) != _KEEP_ALIVE}
        length = int(dict(request.headers).get(b"content-length", 0))
        if b"?" in request.target or not _UNUSUAL.isdisjoint(names) or length > SMALL_BODY:
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()  # a client with ever new heads slows others down, but gets no more memory
        path = bytes(request.target)
        self._heads[received[:end]] = RepeatedHead(request.method.decode("ascii"), path, length)


_rendered: dict[tuple[int, tuple[tuple[bytes, bytes], ...]], bytes] = {}


def render(answer: Answer) -> bytes:
    """Return the bytes of a whole answer, after which the connection stays open."""
    status, headers, body = answer
    key = (status, (*headers, DATE.header()))
    head = _rendered.get(key)
    if head is None:
        if len(_rendered) >= _MAX_RENDERED:
            _rendered.clear()
        head = _rendered[key] = _write(status, [*key[1]])
    return head + body


def _write(status: int, headers: Headers) -> bytes:
    """Let h11 write the head of an answer."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.next_event()
    response = h11.Response(status_code=status, reason=REASONS.get(status, b""), headers=headers)
    return connection.send(response) or b""

"""A request and its response, and what HTTP/1.1 (`http1`) and HTTP/2 (`http2`) have in common.

Both are Hypercorn's protocol classes, made fit for hostile and for busy clients.

What differs from Hypercorn's own, and why:

- A request's body is handed over as it is read, and flow control is given back only then: Hypercorn queues up to ten
  pieces and then stops reading the connection, which stalls all its other requests when one handler reads no body.
- A response that fits into the flow-control window leaves in one piece, together with the others of the same turn of
  the event loop: Hypercorn takes five steps and two tasks for it, which is most of what a data key costs.
- Frames for a stream that has been answered already are dropped: in Hypercorn they end the connection.
- Clients that open and reset streams without end are cut off; stream priorities, WebSockets and upgrades are ignored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import format_date_time

from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed

if TYPE_CHECKING:
    from hypercorn.protocol.events import Event as StreamEvent

__all__ = [
    "DATE",
    "MAX_DISCARDED_BODY",
    "App",
    "Headers",
    "Link",
    "Message",
    "RequestStream",
    "Responder",
    "decode_path",
    "request_scope",
    "send_parts",
]

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_DISCARDED_BODY: Final = 256 * 1024
"""What is read of a body nobody wants; more, and the connection (HTTP/1.1) or the stream (HTTP/2) is closed."""


class Link(Protocol):
    """What a protocol knows of its connection."""

    app: App
    scope_base: Message
    """What all requests of the connection have in common in their ASGI scope."""

    def spawn(self, work: Coroutine[Any, Any, None], /) -> object:
        """Run `work` as a task."""

    def write(self, data: bytes, /) -> None:
        """Send bytes to the client."""


def decode_path(raw_path: bytes) -> str:
    """Return the decoded path of a request target. Bytes that are no UTF-8 stay distinct, as lone surrogates."""
    if b"%" not in raw_path:
        return raw_path.decode("utf-8", "surrogateescape")
    return unquote_to_bytes(raw_path).decode("utf-8", "surrogateescape")


class _Date:
    """The `Date` header, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._header = (b"date", b"")

    def header(self) -> tuple[bytes, bytes]:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._header = (b"date", format_date_time(second).encode("ascii"))
        return self._header


DATE: Final = _Date()


class RequestStream:
    """One request and its response: the ASGI interface of the application."""

    __slots__ = (
        "_body",
        "_body_size",
        "_end_told",
        "_protocol",
        "_started",
        "_waiter",
        "closed",
        "ended",
        "scope",
        "stream_id",
    )

    idle = False  # Hypercorn asks: a stream counts as work until it is closed

    def __init__(self, protocol: Responder, stream_id: int, scope: Message, *, ended: bool) -> None:
        self._protocol = protocol
        self._body: list[bytes] = []
        self._body_size = 0
        self._end_told = False
        self._waiter: asyncio.Future[None] | None = None
        self._started: tuple[int, Headers] | None = None
        self.scope = scope
        self.stream_id = stream_id
        self.ended = ended  # the whole request has been received
        self.closed = False  # the response is sent, or the client is gone

    async def run(self, app: App) -> None:
        """Run the application for this request. It answers for its own errors; a bare 500 stands in if it fails to."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if not self.closed:
                if self._started is None:
                    await self._protocol.respond(self, 500, [(b"content-length", b"0")], b"")
                else:
                    await self._protocol.abandon(self)

    # The client's side

    def feed(self, data: bytes) -> None:
        self._body.append(data)
        self._body_size += len(data)
        self._wake()

    def feed_end(self) -> None:
        self.ended = True
        self._wake()

    @property
    def unread(self) -> int:
        """How many bytes of the body wait for the application."""
        return self._body_size

    async def handle(self, event: StreamEvent) -> None:
        """Take Hypercorn's word that the stream is closed."""
        if isinstance(event, StreamClosed):
            self.closed = True
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The application's side

    async def receive(self) -> Message:
        while not self._body and not self.closed and (self._end_told or not self.ended):
            if not self.ended:
                await self._protocol.wants_body(self)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.closed:
            return {"type": "http.disconnect"}
        data = b"".join(self._body)
        size, self._body_size = self._body_size, 0
        self._body.clear()
        if size:
            self._protocol.consumed(self, size)
        self._end_told = self.ended  # from then on there is nothing to tell but that the client is gone
        return {"type": "http.request", "body": data, "more_body": not self.ended}

    async def send(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self._started = (message["status"], list(message["headers"]))
        elif message["type"] == "http.response.body" and self._started is not None:
            status, headers = self._started
            body, more = message.get("body", b""), message.get("more_body", False)
            if status and not more:
                self._started = (0, [])
                await self._protocol.respond(self, status, headers, body)
            else:
                self._started = (0, [])
                await self._protocol.respond_in_parts(self, status, headers, body, more=more)


class Sender(Protocol):
    """Hypercorn's way of sending, event by event."""

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what an event stands for."""


class Responder(Protocol):
    """What a stream asks of its protocol."""

    async def respond(self, stream: RequestStream, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""

    async def respond_in_parts(
        self, stream: RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        """Send the next part of a response; the first has a status."""

    async def abandon(self, stream: RequestStream) -> None:
        """Break off a response that was begun."""

    async def wants_body(self, stream: RequestStream) -> None:
        """The application waits for the request's body."""

    def consumed(self, stream: RequestStream, size: int) -> None:
        """The application has taken `size` bytes of the request's body."""


def request_scope(link: Link, method: bytes, target: bytes, headers: Headers, version: str) -> Message:
    """Return the ASGI scope of a request."""
    raw_path, _, query = target.partition(b"?")
    return {
        **link.scope_base,
        "http_version": version,
        "method": method.decode("ascii", "replace"),
        "path": decode_path(raw_path),
        "raw_path": raw_path,
        "query_string": query,
        "headers": headers,
    }


async def send_parts(
    protocol: Sender,
    stream: RequestStream,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    more: bool,
) -> None:
    """Send a part of a response with Hypercorn's own flow control."""
    stream_id = stream.stream_id
    if status:
        await protocol.stream_send(Response(stream_id=stream_id, headers=[*headers, DATE.header()], status_code=status))
    if body and stream.scope["method"] != "HEAD":
        await protocol.stream_send(Body(stream_id=stream_id, data=body))
    if not more:
        await protocol.stream_send(EndBody(stream_id=stream_id))
        await protocol.stream_send(StreamClosed(stream_id=stream_id))

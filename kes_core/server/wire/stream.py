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

from kes_core.protocol import INVALID_BODY, TOO_MANY_BODIES

if TYPE_CHECKING:
    from hypercorn.protocol.events import Event as StreamEvent

__all__ = [
    "DATE",
    "MAX_DISCARDED_BODY",
    "App",
    "BodyAllowance",
    "ConnectionLink",
    "Headers",
    "Message",
    "RequestRefusedError",
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
MAX_BODIES_OF_CONNECTION: Final = 8 * 1024 * 1024
"""Bytes of request bodies that the server holds for one connection."""
MAX_BODIES: Final = 128 * 1024 * 1024
"""Bytes of request bodies that one process holds for all its connections."""
MAX_LARGE_BODIES: Final = 64 * 1024 * 1024
"""The bytes held by all connections up to which a body may be larger than `SMALL_BODY`."""
SMALL_BODY: Final = 16 * 1024
"""Bytes of a body that others' large bodies do not keep out. Nearly all requests to a key have less than 1 KiB."""


class RequestRefusedError(Exception):
    """The HTTP layer refuses a request that the application has begun to work on. The message is for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class BodyAllowance:
    """Counts the bytes of request bodies that are held for one connection, and for all of this process.

    What is beyond the limits is refused at once and never waited for, so that requests can't wait for each other.
    """

    __slots__ = ("_held",)

    _held_by_all = 0

    def __init__(self) -> None:
        self._held = 0

    def take(self, size: int, so_far: int) -> bool:
        """Count `size` more bytes of a body of which `so_far` are held; return false if there is no room for them."""
        limit = MAX_BODIES if so_far + size <= SMALL_BODY else MAX_LARGE_BODIES
        if self._held + size > MAX_BODIES_OF_CONNECTION or BodyAllowance._held_by_all + size > limit:
            return False
        self._held += size
        BodyAllowance._held_by_all += size
        return True

    def give_back(self, size: int) -> None:
        """Count `size` bytes as no longer held."""
        self._held -= size
        BodyAllowance._held_by_all -= size


class ConnectionLink(Protocol):
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
        "_held",
        "_input_ended",
        "_malformed",
        "_no_room",
        "_protocol",
        "_started",
        "_waiter",
        "closed",
        "ended",
        "scope",
        "stream_id",
        "streaming",
    )

    idle = False  # Hypercorn asks: a stream counts as work until it is closed

    def __init__(self, protocol: Responder, stream_id: int, scope: Message, *, ended: bool) -> None:
        self._protocol = protocol
        self._body: list[bytes] = []
        self._body_size = 0
        self._end_told = False
        self._waiter: asyncio.Future[None] | None = None
        self._started: tuple[int, Headers] | None = None
        self._held = 0
        self._malformed = False
        self._no_room = False
        self._input_ended = False
        self.scope = scope
        self.stream_id = stream_id
        self.ended = ended  # the whole request has been received
        self.closed = False  # the response is sent, or the client is gone
        self.streaming = False  # the response goes on until one side ends it

    async def run(self, app: App) -> None:
        """Run the application for this request. It answers for its own errors; a bare 500 stands in if it fails to."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            self._let_go()
            if not self.closed:
                if self._started is None:
                    await self._protocol.respond(self, 500, [(b"content-length", b"0")], b"")
                else:
                    await self._protocol.abandon(self)

    # The client's side

    def feed(self, data: bytes) -> bool:
        """Take a part of the body; return false if it is dropped, because nobody reads it or there is no room."""
        if self._started is not None or self._malformed or self._no_room:
            return False
        if not self._protocol.bodies.take(len(data), self._held):
            self._no_room = True
            self._wake()
            return False
        self._held += len(data)
        self._body.append(data)
        self._body_size += len(data)
        self._wake()
        return True

    def feed_end(self) -> None:
        self.ended = True
        self._wake()

    def feed_malformed(self) -> None:
        """Refuse the rest of the body: it is not encoded properly."""
        self._malformed = True
        self._wake()

    def end_input(self) -> None:
        """Take the client's word that it sends no more. It may still wait for an answer that comes to an end."""
        self._input_ended = True
        self._wake()

    def _let_go(self) -> None:
        """Stop counting the body: the application is done with it."""
        self._protocol.bodies.give_back(self._held)
        self._held = 0

    @property
    def unread(self) -> int:
        """How many bytes of the body wait for the application."""
        return self._body_size

    def drop_body(self) -> int:
        """Drop what the application has not read of the body, and return how many bytes that is."""
        size, self._body_size = self._body_size, 0
        self._body.clear()
        return size

    async def handle(self, event: StreamEvent) -> None:
        """Take Hypercorn's word that the stream is closed."""
        if isinstance(event, StreamClosed):
            self.closed = True
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The application's side

    def _has_news(self) -> bool:
        """Whether there is something that the application does not know yet."""
        if self.closed or self._malformed or self._no_room or self._body:
            return True
        return self.ended and (self._input_ended or not self._end_told)

    async def receive(self) -> Message:
        """Return the next part of the request, or that the client is gone, as ASGI has it.

        Raises:
            RequestRefusedError: The request can't be read any further.
        """
        while not self._has_news():
            if not self.ended:
                await self._protocol.wants_body(self)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.closed:
            return {"type": "http.disconnect"}
        if self._malformed:
            raise RequestRefusedError(*INVALID_BODY)
        if self._no_room:
            raise RequestRefusedError(*TOO_MANY_BODIES)
        if self._end_told and not self._body:
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
            self._let_go()
            self._started = (message["status"], list(message["headers"]))
        elif message["type"] == "http.response.body" and self._started is not None:
            status, headers = self._started
            body, more = message.get("body", b""), message.get("more_body", False)
            if status and not more:
                self._started = (0, [])
                await self._protocol.respond(self, status, headers, body)
            else:
                self._started = (0, [])
                self.streaming = more
                await self._protocol.respond_in_parts(self, status, headers, body, more=more)


class EventSender(Protocol):
    """Hypercorn's way of sending, event by event."""

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what an event stands for."""


class Responder(Protocol):
    """What a stream asks of its protocol."""

    bodies: BodyAllowance
    """What is held of the bodies of the connection's requests."""

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


def request_scope(link: ConnectionLink, method: bytes, target: bytes, headers: Headers, version: str) -> Message:
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
    protocol: EventSender,
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

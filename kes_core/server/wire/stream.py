"""A request and its response, and the common part of HTTP/1.1 (`http1`) and HTTP/2 (`http2`).

Both protocols extend Hypercorn's classes, to serve busy clients and to resist hostile ones.

The differences from Hypercorn, and the reasons:

- The application gets a request's body as it reads it, and only then the client may send more. Hypercorn queues up to
  ten pieces and then stops reading the connection: one handler that does not read its body stalls all other requests.
- A response that fits into the flow-control window is sent in one piece, together with the others of the same turn of
  the event loop. Hypercorn needs five steps and two tasks, which is most of the cost of a data encryption key.
- Received data is handled in the same turn of the event loop. A frequent request over HTTP/1.1 whose head h11 has read
  before needs neither h11 nor a task.
- Frames for a stream that is answered already are dropped. Hypercorn closes the connection.
- A client that opens and resets streams without end is disconnected. Stream priorities, WebSockets and upgrades are
  ignored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol
from wsgiref.handlers import format_date_time

from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed

from kes_core.access.routing import decode_path
from kes_core.faults import log_fault
from kes_core.protocol import INVALID_BODY, TOO_MANY_BODIES
from kes_core.server.wire.app import Answer, App, Begun, Headers, Message

if TYPE_CHECKING:
    from hypercorn.protocol.events import Event as StreamEvent

__all__ = [
    "DATE",
    "MAX_DISCARDED_BODY",
    "SMALL_BODY",
    "Answer",
    "App",
    "BodyAllowance",
    "ConnectionLink",
    "Headers",
    "Message",
    "RequestRefusedError",
    "RequestStream",
    "Responder",
    "request_scope",
    "send_parts",
]

logger = logging.getLogger("kes.server")

MAX_DISCARDED_BODY: Final = 256 * 1024
"""Bytes of an unwanted body that are read and dropped; beyond that, the connection (HTTP/1.1) or the stream (HTTP/2) is
closed."""
MAX_BODIES_PER_CONNECTION: Final = 8 * 1024 * 1024
"""The limit of request bodies in memory for one connection, in bytes."""
MAX_BODIES: Final = 128 * 1024 * 1024
"""The limit of request bodies in memory for all connections of a process, in bytes."""
MAX_LARGE_BODIES: Final = 64 * 1024 * 1024
"""As `MAX_BODIES`, for bodies larger than `SMALL_BODY`: large bodies can't use up the memory for small ones."""
SMALL_BODY: Final = 16 * 1024
"""The size of a small body, in bytes. Nearly all requests to a key have less than 1 KiB."""


class RequestRefusedError(Exception):
    """The HTTP layer refuses a request that the application has started to handle. The message is for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class BodyAllowance:
    """Counts the bytes of request bodies in memory, for one connection and for the whole process.

    A body beyond the limits is refused at once. If it waited for memory, requests could block each other forever.
    """

    __slots__ = ("_held",)

    _held_by_all = 0

    def __init__(self) -> None:
        self._held = 0

    def take(self, size: int, so_far: int) -> bool:
        """Count `size` more bytes of a body that has `so_far` bytes already; return false if a limit is exceeded."""
        limit = MAX_BODIES if so_far + size <= SMALL_BODY else MAX_LARGE_BODIES
        if self._held + size > MAX_BODIES_PER_CONNECTION or BodyAllowance._held_by_all + size > limit:
            return False
        self._held += size
        BodyAllowance._held_by_all += size
        return True

    def release(self, size: int) -> None:
        """Count `size` bytes as freed."""
        self._held -= size
        BodyAllowance._held_by_all -= size


class ConnectionLink(Protocol):
    """The part of a connection that a protocol uses."""

    app: App
    scope_base: Message
    """The fields of the ASGI scope that all requests of the connection share."""

    def spawn(self, work: Coroutine[Any, Any, None], /) -> object:
        """Run `work` as a task."""

    def write(self, data: bytes, /) -> None:
        """Send bytes to the client."""

    def write_soon(self, data: bytes, /) -> None:
        """Send a whole answer at the end of this turn of the event loop, once its audit record is written."""


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
        "_body_rejected",
        "_body_size",
        "_end_delivered",
        "_held",
        "_input_ended",
        "_over_limit",
        "_protocol",
        "_started",
        "_waiter",
        "at_once",
        "closed",
        "ended",
        "scope",
        "stream_id",
        "streaming",
    )

    idle = False  # Hypercorn reads this: a stream is busy until it is closed

    def __init__(self, protocol: Responder, stream_id: int, scope: Message, *, ended: bool) -> None:
        self._protocol = protocol
        self._body: list[bytes] = []
        self._body_size = 0
        self._end_delivered = False
        self._waiter: asyncio.Future[None] | None = None
        self._started: tuple[int, Headers] | None = None
        self._held = 0
        self._body_rejected = False
        self._over_limit = False
        self._input_ended = False
        self.scope = scope
        self.stream_id = stream_id
        self.ended = ended  # the whole request was received
        self.closed = False  # the response was sent, or the client disconnected
        self.at_once = False  # the answer comes from `start`, which must not wait: it is on the way of other requests
        self.streaming = False  # the response is an endless stream, such as a log

    async def run(self, app: App | Begun) -> None:
        """Run the application for this request. If it ends without an answer, send an empty 500."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            self._release_body()
            if not self.closed:
                if self._started is None:
                    await self._protocol.respond(self, 500, [(b"content-length", b"0")], b"")
                else:
                    await self._protocol.abort_response(self)

    async def start(self, link: ConnectionLink) -> None:
        """Serve a request for which `App.may_begin` was true: at once if it is complete, else as a task."""
        is_whole = self.ended and not (self.closed or self._body_rejected or self._over_limit)
        if not is_whole or not link.app.may_begin(self.scope):  # a reload may have come between
            link.spawn(self.run(link.app))
            return
        try:
            answer = link.app.begin(self.scope, b"".join(self._body))
        except Exception as error:
            log_fault(logger, "internal error", error=error)
            answer = Answer(500, [(b"content-length", b"0")], b"")
        if isinstance(answer, Answer):
            self.at_once = True
            await self._respond(answer)
        else:
            link.spawn(self.run(Begun(answer)))

    async def _respond(self, answer: Answer) -> None:
        self._release_body()
        self._started = (0, [])
        await self._protocol.respond(self, *answer)

    # The client's side

    def feed(self, data: bytes) -> bool:
        """Accept a part of the body; return false if it is dropped: the request is answered, or a limit is exceeded."""
        if self._started is not None or self._body_rejected or self._over_limit:
            return False
        if not self._protocol.bodies.take(len(data), self._held):
            self._over_limit = True
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

    def reject_body(self) -> None:
        """Refuse the rest of the body: its encoding is not valid."""
        self._body_rejected = True
        self._wake()

    def end_input(self) -> None:
        """Record that the client sends no more data. It may still wait for the answer."""
        self._input_ended = True
        self._wake()

    def close(self) -> None:
        """Record that the client has given up the request."""
        self.closed = True
        self._wake()

    def _release_body(self) -> None:
        """Stop counting the body's memory: the application no longer needs it."""
        self._protocol.bodies.release(self._held)
        self._held = 0

    @property
    def unread(self) -> int:
        """The number of body bytes that the application has not read."""
        return self._body_size

    def drop_body(self) -> int:
        """Drop the unread part of the body; return its size in bytes."""
        size, self._body_size = self._body_size, 0
        self._body.clear()
        return size

    async def handle(self, event: StreamEvent) -> None:
        """Handle an event of Hypercorn: the stream is closed."""
        if isinstance(event, StreamClosed):
            self.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The application's side

    def _can_receive(self) -> bool:
        """Whether `receive` can return or raise at once."""
        if self.closed or self._body_rejected or self._over_limit or self._body:
            return True
        return self.ended and (self._input_ended or not self._end_delivered)

    async def receive(self) -> Message:
        """Return the next part of the request, or a disconnect (ASGI's `receive`).

        Raises:
            RequestRefusedError: The rest of the request can't be read.
        """
        while not self._can_receive():
            if not self.ended:
                await self._protocol.request_body(self)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.closed:
            return {"type": "http.disconnect"}
        if self._body_rejected:
            raise RequestRefusedError(*INVALID_BODY)
        if self._over_limit:
            raise RequestRefusedError(*TOO_MANY_BODIES)
        if self._end_delivered and not self._body:
            return {"type": "http.disconnect"}
        data = b"".join(self._body)
        size, self._body_size = self._body_size, 0
        self._body.clear()
        if size:
            self._protocol.body_consumed(self, size)
        self._end_delivered = self.ended  # after the end, only a disconnect can follow
        return {"type": "http.request", "body": data, "more_body": not self.ended}

    async def send(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self._release_body()
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
    """Hypercorn's interface to send a response event by event."""

    async def stream_send(self, event: StreamEvent) -> None:
        """Send the event."""


class Responder(Protocol):
    """The part of a protocol that a stream uses."""

    bodies: BodyAllowance
    """Counts the request bodies of the connection."""

    async def respond(self, stream: RequestStream, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""

    async def respond_in_parts(
        self, stream: RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        """Send the next part of a response. The first part has a status, the others have status 0."""

    async def abort_response(self, stream: RequestStream) -> None:
        """Abort a response after a part of it was sent."""

    async def request_body(self, stream: RequestStream) -> None:
        """Let the client send the request's body: the application waits for it."""

    def body_consumed(self, stream: RequestStream, size: int) -> None:
        """Record that the application has read `size` bytes of the request's body."""


class ScopeBase(Protocol):
    """The part of a connection that its requests have in common."""

    scope_base: Message
    """The fields of the ASGI scope that all requests of the connection share."""


def request_scope(link: ScopeBase, method: bytes, target: bytes, headers: Headers, version: str) -> Message:
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
    """Send a part of a response with Hypercorn's flow control."""
    stream_id = stream.stream_id
    if status:
        await protocol.stream_send(Response(stream_id=stream_id, headers=[*headers, DATE.header()], status_code=status))
    if body and stream.scope["method"] != "HEAD":
        await protocol.stream_send(Body(stream_id=stream_id, data=body))
    if not more:
        await protocol.stream_send(EndBody(stream_id=stream_id))
        await protocol.stream_send(StreamClosed(stream_id=stream_id))

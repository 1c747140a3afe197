"""HTTP/1.1 and HTTP/2 on Hypercorn's protocol classes, made fit for hostile and for busy clients.

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
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import format_date_time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11
from hypercorn.events import Closed, Updated
from hypercorn.protocol.events import Body, EndBody, Response, StreamClosed
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.utils import filter_pseudo_headers

if TYPE_CHECKING:
    from hypercorn.protocol.events import Event as StreamEvent

__all__ = ["App", "HTTP1Protocol", "HTTP2Protocol", "Link", "Message", "decode_path"]

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_MAX_UNREAD_BODY: Final = 64 * 1024
"""HTTP/1.1: bytes of a body that may wait for the handler. HTTP/2 has its flow-control window for this."""
_MAX_DISCARDED_BODY: Final = 256 * 1024
"""What is read of a body nobody wants; more, and the connection (HTTP/1.1) or the stream (HTTP/2) is closed."""
_MAX_PENDING_RESETS: Final = 200
"""HTTP/2: how many more streams than it lets finish a client may reset (CVE-2023-44487)."""


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


_DATE: Final = _Date()


class _RequestStream:
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

    def __init__(self, protocol: _Responder, stream_id: int, scope: Message, *, ended: bool) -> None:
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


class _Responder(Protocol):
    """What a stream asks of its protocol."""

    async def respond(self, stream: _RequestStream, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""

    async def respond_in_parts(
        self, stream: _RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        """Send the next part of a response; the first has a status."""

    async def abandon(self, stream: _RequestStream) -> None:
        """Break off a response that was begun."""

    async def wants_body(self, stream: _RequestStream) -> None:
        """The application waits for the request's body."""

    def consumed(self, stream: _RequestStream, size: int) -> None:
        """The application has taken `size` bytes of the request's body."""


def _scope(link: Link, method: bytes, target: bytes, headers: Headers, version: str) -> Message:
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


async def _send_parts(
    protocol: HTTP1Protocol | HTTP2Protocol,
    stream: _RequestStream,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    more: bool,
) -> None:
    """Send a part of a response with Hypercorn's own flow control."""
    stream_id = stream.stream_id
    if status:
        await protocol.stream_send(
            Response(stream_id=stream_id, headers=[*headers, _DATE.header()], status_code=status)
        )
    if body and stream.scope["method"] != "HEAD":
        await protocol.stream_send(Body(stream_id=stream_id, data=body))
    if not more:
        await protocol.stream_send(EndBody(stream_id=stream_id))
        await protocol.stream_send(StreamClosed(stream_id=stream_id))


def _refusal(request: h11.Request) -> int | None:
    """Return the status with which a request is refused whatever it asks for; nothing for most."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505
    names = {name for name, _value in request.headers}
    # Two lengths are how a request is smuggled past a proxy (RFC 9112, section 6.1).
    return 400 if b"transfer-encoding" in names and b"content-length" in names else None


class HTTP1Protocol(H11Protocol):
    """HTTP/1.1, one request at a time."""

    stream: Any  # a _RequestStream: Hypercorn calls only `handle`, which it has

    def __init__(self, link: Link, *args: Any) -> None:
        super().__init__(link.app, *args)  # type: ignore[arg-type] # Hypercorn's wrapper of an app; only we call it
        self._link = link
        self._discarded = 0
        self._consumed = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether no request is being worked on."""
        return self.stream is None

    @property
    def has_partial_request(self) -> bool:
        """Whether the client owes a part of a request: of the next one's header, or of a body that nobody wants."""
        return self.idle and (self.connection.their_state is h11.SEND_BODY or bool(self.connection.trailing_data[0]))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Upgrade to nothing: HTTP/2 is agreed on in the TLS handshake."""

    async def _handle_events(self) -> None:
        while True:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._refuse(error.error_status_hint)
                await self.send(Closed())
                return
            if isinstance(event, h11.Request):
                if (status := _refusal(event)) is not None:
                    await self._refuse(status)
                    await self.send(Closed())
                    return
                self._begin(event)
            elif isinstance(event, h11.Data):
                await self._take_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                if self.stream is not None:
                    self.stream.feed_end()
                else:
                    await self._maybe_recycle()
            elif event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
            else:  # more data needed, or the connection is closed
                return

    def _begin(self, request: h11.Request) -> None:
        self._discarded = 0
        self.keep_alive_requests += 1
        scope = _scope(self._link, request.method, request.target, list(request.headers), request.http_version.decode())
        stream = _RequestStream(self, STREAM_ID, scope, ended=False)
        self.stream = stream
        self._link.spawn(stream.run(self._link.app))

    async def _take_body(self, data: bytes) -> None:
        stream = self.stream
        if stream is not None:
            stream.feed(data)
            while stream.unread > _MAX_UNREAD_BODY and not stream.closed:
                self._consumed.clear()
                await self._consumed.wait()
        else:
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED_BODY:
                await self.send(Closed())

    async def _maybe_recycle(self) -> None:
        """The response is sent: go on with the next request once this one has been read to its end."""
        await self._close_stream()
        self._consumed.set()
        connection = self.connection
        if (
            not self.context.terminated.is_set()
            and connection.our_state is h11.DONE
            and connection.their_state is h11.SEND_BODY
            and not connection.they_are_waiting_for_100_continue
        ):
            await self.can_read.set()
            await self.send(Updated(idle=True))
            return
        await super()._maybe_recycle()

    async def _refuse(self, status: int) -> None:
        headers = [(b"content-length", b"0"), (b"connection", b"close"), _DATE.header()]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.EndOfMessage())

    # What a stream asks

    async def respond(self, stream: _RequestStream, status: int, headers: Headers, body: bytes) -> None:
        if self.connection.our_state is h11.SEND_RESPONSE:
            response = h11.Response(status_code=status, headers=[*headers, _DATE.header()])
            events: list[Any] = [response, h11.EndOfMessage()]
            if body and stream.scope["method"] != "HEAD":
                events.insert(1, h11.Data(data=body))
            self._link.write(b"".join(self.connection.send(event) or b"" for event in events))
        await self.stream_send(StreamClosed(stream_id=STREAM_ID))

    async def respond_in_parts(
        self, stream: _RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        await _send_parts(self, stream, status, headers, body, more=more)

    async def abandon(self, _stream: _RequestStream) -> None:
        await self.send(Closed())

    async def wants_body(self, _stream: _RequestStream) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    def consumed(self, _stream: _RequestStream, _size: int) -> None:
        self._consumed.set()


class HTTP2Protocol(H2Protocol):
    """HTTP/2, many requests at a time."""

    streams: dict[int, Any]  # of _RequestStream: Hypercorn calls only `handle` and `idle`, which it has

    def __init__(self, link: Link, *args: Any) -> None:
        super().__init__(link.app, *args)  # type: ignore[arg-type] # Hypercorn's wrapper of an app; only we call it
        self._link = link
        self._pending_resets = 0
        self._flush_scheduled = False
        self._discarded: dict[int, int] = {}
        """How much has been dropped of the body of each request that was answered before it was complete."""
        # WebSockets over HTTP/2, which Hypercorn offers, are not served.
        del self.connection.local_settings[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL]

    @property
    def has_partial_request(self) -> bool:
        """Whether the client has begun a request that is not complete enough to be worked on."""
        return False  # a preface or headers that never end are bounded by the time a connection may be idle

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self._begin(event)
            elif isinstance(event, h2.events.DataReceived):
                self._take_body(event)
            elif isinstance(event, h2.events.StreamEnded):
                self._discarded.pop(event.stream_id, None)
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.feed_end()
            elif isinstance(event, h2.events.StreamReset):
                await self._take_reset(event)
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
            else:
                await self._update_window(event)
        self._flush_soon()

    async def _update_window(self, event: h2.events.Event) -> None:
        """Go on with responses that waited for the client to take more."""
        if isinstance(event, h2.events.WindowUpdated):
            await self._window_updated(event.stream_id)
        elif (
            isinstance(event, h2.events.RemoteSettingsChanged)
            and h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings
        ):
            await self._window_updated(None)

    def _begin(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        if self.context.terminated.is_set():
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        pseudo = {name: value for name, value in request.headers if name[:1] == b":"}
        scope = _scope(
            self._link,
            pseudo.get(b":method", b""),
            pseudo.get(b":path", b""),
            filter_pseudo_headers(request.headers),
            "2",
        )
        stream = _RequestStream(self, stream_id, scope, ended=request.stream_ended is not None)
        self.streams[stream_id] = stream
        self._link.spawn(stream.run(self._link.app))

    def _take_body(self, event: h2.events.DataReceived) -> None:
        stream, stream_id = self.streams.get(event.stream_id), event.stream_id
        if stream is None:
            self._discard(stream_id, event.flow_controlled_length)
            return
        stream.feed(bytes(event.data))
        padding = event.flow_controlled_length - len(event.data)
        if padding:
            self.connection.acknowledge_received_data(padding, stream_id)

    def _discard(self, stream_id: int, size: int) -> None:
        """Drop a part of a body that nobody wants, so that its sender gets to read the answer; too much, and it is cut.

        RFC 9113, section 8.1, allows to cut at once, but not all clients keep the answer then.
        """
        self.connection.acknowledge_received_data(size, stream_id)
        if stream_id in self._discarded:
            self._discarded[stream_id] += size
            if self._discarded[stream_id] > _MAX_DISCARDED_BODY:
                del self._discarded[stream_id]
                self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    async def _take_reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        self._discarded.pop(event.stream_id, None)
        if stream is not None:
            self._pending_resets += 1
            self._release(stream)
            if self._pending_resets > _MAX_PENDING_RESETS:
                self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())
                return
        await self._close_stream(event.stream_id)
        await self._window_updated(event.stream_id)

    def _release(self, stream: _RequestStream) -> None:
        """Give back the part of the connection's window that an unread body holds."""
        if stream.unread:
            self.connection.acknowledge_received_data(stream.unread, stream.stream_id)

    def _flush_soon(self) -> None:
        """Send what is ready at the end of this turn of the event loop, in as few pieces as can be."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        data = self.connection.data_to_send()
        if data:
            self._link.write(data)

    # What a stream asks

    async def respond(self, stream: _RequestStream, status: int, headers: Headers, body: bytes) -> None:
        connection, stream_id = self.connection, stream.stream_id
        if stream.scope["method"] == "HEAD":
            body = b""
        try:
            if len(body) > min(connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size):
                await self.respond_in_parts(stream, status, headers, body, more=False)
                return
            fields = [(b":status", b"%d" % status), *headers, _DATE.header()]
            connection.send_headers(stream_id, fields, end_stream=not body)
            if body:
                connection.send_data(stream_id, body, end_stream=True)
            if not stream.ended:
                self._release(stream)
                self._discarded[stream_id] = 0
        except h2.exceptions.ProtocolError:
            pass  # the client has reset the stream or closed the connection in the meantime
        await self._finish(stream)

    async def respond_in_parts(
        self, stream: _RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        if status:
            self.stream_buffers[stream.stream_id] = StreamBuffer(self.context.event_class)
            self.priority.insert_stream(stream.stream_id)
            self.priority.block(stream.stream_id)
        await _send_parts(self, stream, status, headers, body, more=more)
        if not more:
            self._release(stream)

    async def abandon(self, stream: _RequestStream) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the client was faster
            self.connection.reset_stream(stream.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await self._finish(stream)

    async def wants_body(self, _stream: _RequestStream) -> None:
        return

    def consumed(self, stream: _RequestStream, size: int) -> None:
        self.connection.acknowledge_received_data(size, stream.stream_id)
        self._flush_soon()

    async def _finish(self, stream: _RequestStream) -> None:
        self._pending_resets = max(0, self._pending_resets - 1)
        stream.closed = True
        self.streams.pop(stream.stream_id, None)
        self._flush_soon()
        if not self.streams:
            if self.context.terminated.is_set():
                self.connection.close_connection()
                self._flush_now()
            await self.send(Updated(idle=True))

"""HTTP/1.1 on Hypercorn's protocol class; `http` says what is different and why."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final

import h11
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol

from kes_core.server.wire.stream import (
    DATE,
    MAX_DISCARDED_BODY,
    BodyAllowance,
    ConnectionLink,
    Headers,
    RequestStream,
    request_scope,
    send_parts,
)

__all__ = ["HTTP1Protocol"]

MAX_HEAD: Final = 32 * 1024
"""Bytes of a request's line and headers."""
MAX_READ_AHEAD: Final = 64 * 1024
"""Bytes of further requests that are read while one is answered, to notice the end of the connection behind them."""
_MAX_UNREAD_BODY: Final = 64 * 1024
"""Bytes of a body that may wait for the handler. HTTP/2 has its flow-control window for this."""
_BLANK_LINE: Final = b"\r\n\r\n"
_HEAD_END_OR_FAULT: Final = re.compile(rb"\r\n\r\n|(?<!\r)\n|\n[ \t]")
"""The end of a request's head, or a line end or a folded line before it that proxies do not agree on."""
_ABSOLUTE_FORM: Final = re.compile(rb"(?i)https?://[^/?#]*")
_DEAF: Final = frozenset({h11.MUST_CLOSE, h11.CLOSED, h11.ERROR})
"""States in which nothing more is taken from the client: what follows its last request is dropped."""
_REASONS: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def _head_fault(received: bytes) -> int | None:
    """Return the status with which a request is refused for the form of its head; nothing while that is fine.

    h11 takes line ends without a carriage return (RFC 9112, section 2.2, allows that) and folded lines (section 5.2),
    which is how a request is smuggled past a proxy that does not, and bounds only a head that comes in pieces.
    """
    found = _HEAD_END_OR_FAULT.search(received, 0, MAX_HEAD)
    if found is None:
        return 431 if len(received) >= MAX_HEAD else None
    return None if found.group() == _BLANK_LINE else 400


def _refusal(request: h11.Request) -> int | None:
    """Return the status with which a request is refused whatever it asks for; nothing for most."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505
    names = {name for name, _value in request.headers}
    if b"transfer-encoding" not in names:
        return None
    # Two lengths are how a request is smuggled past a proxy (RFC 9112, section 6.1), and so is a chunked body of a
    # version that has none.
    return 400 if b"content-length" in names or request.http_version == b"1.0" else None


def _origin_form(target: bytes) -> bytes:
    """Return path and query of a request target, which may be a whole URL (RFC 9112, section 3.2.2)."""
    if target.startswith(b"/") or (url := _ABSOLUTE_FORM.match(target)) is None:
        return target
    rest = target[url.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class HTTP1Protocol(H11Protocol):
    """HTTP/1.1, one request at a time."""

    stream: Any  # a RequestStream: Hypercorn calls only `handle`, which it has

    def __init__(self, link: ConnectionLink, *args: Any) -> None:
        super().__init__(link.app, *args)  # type: ignore[arg-type] # Hypercorn's wrapper of an app; only we call it
        self.bodies = BodyAllowance()
        self._link = link
        self._discarded = 0
        self._handling = asyncio.Lock()  # what is received is handled by one task at a time
        self._progress = asyncio.Event()
        self._broken = False  # what the client sends is not understood: the next answer is the last
        self._chunked: bytearray | None = None
        """The last bytes received of a chunked request."""

    @property
    def idle(self) -> bool:
        """Whether no request is being worked on."""
        return self.stream is None

    @property
    def has_partial_request(self) -> bool:
        """Whether the client owes a part of a request: of the next one's header, or of a body that nobody wants."""
        return self.idle and (self.connection.their_state is h11.SEND_BODY or bool(self.connection.trailing_data[0]))

    async def handle(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        async with self._handling:
            if self._broken or self.connection.their_state in _DEAF:
                return
            self.connection.receive_data(event.data)
            if self._chunked is not None:
                self._chunked += event.data
            await self._handle_events()

    async def end_input(self) -> None:
        """Take the client's word that it sends no more; the connection is closed once it has its answers."""
        async with self._handling:
            self.connection.receive_data(b"")
            if self.stream is not None:
                self.stream.end_input()
            await self._handle_events()

    async def _go_on(self) -> None:
        """Handle what was received while a request was answered."""
        async with self._handling:
            await self._handle_events()
        await self.send(Updated(idle=self.idle))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Upgrade to nothing: HTTP/2 is agreed on in the TLS handshake."""

    async def _handle_events(self) -> None:
        connection = self.connection
        while not self._broken and connection.their_state not in _DEAF:
            if connection.their_state is h11.IDLE and (fault := _head_fault(connection.trailing_data[0])) is not None:
                await self._refuse(fault)
                return
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._take_fault(error)
                return
            if isinstance(event, h11.Request):
                await self._take_request(event)
            elif isinstance(event, h11.Data):
                await self._take_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._take_end(event)
            elif event is not h11.PAUSED:
                await self._take_gap(event)
                return
            elif not await self._wait_for_answer():
                return

    async def _take_gap(self, event: object) -> None:
        """There is nothing to go on with before the client sends more, if it does at all."""
        if isinstance(event, h11.ConnectionClosed):
            if self.stream is None:
                await self.send(Closed())
        elif self._chunked is not None:
            del self._chunked[: -len(_BLANK_LINE) - len(self.connection.trailing_data[0])]

    async def _wait_for_answer(self) -> bool:
        """Wait until a request is answered before handling the next; return false if more is to be read meanwhile."""
        if self.stream is None or len(self.connection.trailing_data[0]) <= MAX_READ_AHEAD:
            return False  # `_go_on` takes up what is read from here on
        if self.stream.streaming:
            await self.send(Closed())  # else the end of the connection would not be noticed
            return False
        await self._wait_for_progress()
        return True

    async def _wait_for_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    async def _take_request(self, request: h11.Request) -> None:
        if (status := _refusal(request)) is not None:
            await self._refuse(status)
            return
        self._discarded = 0
        self.keep_alive_requests += 1
        if any(name == b"transfer-encoding" for name, _value in request.headers):
            self._chunked = bytearray(self.connection.trailing_data[0])
        target = _origin_form(request.target)
        scope = request_scope(self._link, request.method, target, list(request.headers), request.http_version.decode())
        stream = RequestStream(self, STREAM_ID, scope, ended=False)
        self.stream = stream
        self._link.spawn(stream.run(self._link.app))

    async def _take_body(self, data: bytes) -> None:
        stream = self.stream
        if stream is not None and stream.feed(data):
            while stream.unread > _MAX_UNREAD_BODY and not stream.closed:
                await self._wait_for_progress()
        else:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BODY:
                await self.send(Closed())

    async def _take_end(self, end: h11.EndOfMessage) -> None:
        """Go on at the end of a request, unless the trailer that ends a chunked body is one that we do not take.

        There is none of ours to take, and where h11 sees the end of an empty one, others may not.
        """
        received, self._chunked = self._chunked, None
        if received is not None:
            rest = len(self.connection.trailing_data[0])
            if end.headers or not received[: len(received) - rest].endswith(_BLANK_LINE):
                await self._take_fault(h11.RemoteProtocolError("malformed end of a chunked body"))
                return
        if self.stream is not None:
            self.stream.feed_end()
        else:
            await self._maybe_recycle()

    async def _take_fault(self, error: h11.RemoteProtocolError) -> None:
        """Refuse what is no HTTP/1.1: by way of the request that is worked on, so that it gets one answer."""
        self._broken = True
        if self.stream is None:
            await self._refuse(error.error_status_hint)
        elif self.connection.trailing_data[1]:  # the client is gone before its request was complete
            await self.send(Closed())
            await self._close_stream()
        else:
            self.stream.feed_malformed()

    async def _maybe_recycle(self) -> None:
        """The response is sent: go on with the next request once this one has been read to its end."""
        await self._close_stream()
        connection = self.connection
        if (
            not self.context.terminated.is_set()
            and connection.our_state is h11.DONE
            and connection.their_state is h11.SEND_BODY
            and not connection.they_are_waiting_for_100_continue
        ):
            await self.send(Updated(idle=True))
        else:
            await super()._maybe_recycle()
            if connection.our_state is h11.IDLE and any(connection.trailing_data):
                self._link.spawn(self._go_on())
        self._progress.set()

    async def _refuse(self, status: int) -> None:
        """Answer a request that is not worked on, if there is room for an answer, and close."""
        self._broken = True
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send_h11_event(self._response(status, [(b"content-length", b"0")]))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    def _response(self, status: int, headers: Headers) -> h11.Response:
        last = [(b"connection", b"close")] if self._broken else []
        fields = [*headers, *last, DATE.header()]
        return h11.Response(status_code=status, reason=_REASONS.get(status, b""), headers=fields)

    # What a stream asks

    async def respond(self, stream: RequestStream, status: int, headers: Headers, body: bytes) -> None:
        if self.connection.our_state is h11.SEND_RESPONSE:
            events: list[Any] = [self._response(status, headers), h11.EndOfMessage()]
            if body and stream.scope["method"] != "HEAD":
                events.insert(1, h11.Data(data=body))
            self._link.write(b"".join(self.connection.send(event) or b"" for event in events))
        await self.stream_send(StreamClosed(stream_id=STREAM_ID))

    async def respond_in_parts(
        self, stream: RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        if status:
            self._progress.set()
            await self._send_h11_event(self._response(status, headers))
        await send_parts(self, stream, 0, headers, body, more=more)

    async def abandon(self, _stream: RequestStream) -> None:
        await self.send(Closed())
        await self._close_stream()
        self._progress.set()

    async def wants_body(self, _stream: RequestStream) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    def consumed(self, _stream: RequestStream, _size: int) -> None:
        self._progress.set()

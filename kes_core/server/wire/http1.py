"""HTTP/1.1 on Hypercorn's protocol class; `stream` explains the differences."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable
from typing import Any, Final

import h11
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol

from kes_core.faults import log_fault
from kes_core.server.wire.app import Answer, Begun
from kes_core.server.wire.repeated import BLANK_LINE, REASONS, RepeatedHeads, render
from kes_core.server.wire.stream import (
    DATE,
    MAX_DISCARDED_BODY,
    SMALL_BODY,
    BodyAllowance,
    ConnectionLink,
    Headers,
    RequestStream,
    request_scope,
    send_parts,
)

__all__ = ["HTTP1Protocol"]

logger = logging.getLogger("kes.server")

MAX_HEAD: Final = 32 * 1024
"""The limit of a request's line and headers, in bytes."""
MAX_READ_AHEAD: Final = 64 * 1024
"""Bytes of later requests that are read while one is handled, to detect a closed connection."""
MAX_UNREAD_BODY: Final = 64 * 1024
"""Bytes of a body that may wait for the handler. In HTTP/2 the flow-control window is this limit."""
_HEAD_END_OR_FAULT: Final = re.compile(rb"\r\n\r\n|(?<!\r)\n|\n[ \t]")
"""The end of a request's head, or before it a line end or a folded line that proxies interpret in different ways."""
_ABSOLUTE_FORM: Final = re.compile(rb"(?i)https?://[^/?#]*")
_INPUT_IGNORED: Final = frozenset({h11.MUST_CLOSE, h11.CLOSED, h11.ERROR})
"""States in which further data from the client is dropped: it follows the client's last request."""
MAX_AT_ONCE: Final = 16
"""Requests of one client that are served before other connections have their turn."""
HEADS: Final = RepeatedHeads()
_JSON: Final = (b"content-type", b"application/json")


def _head_error(received: bytes) -> int | None:
    """Return the status to refuse a request with because of its head's form, or None if the head is valid so far.

    h11 accepts line ends without a carriage return (RFC 9112, section 2.2, allows them) and folded lines (section 5.2).
    Both can smuggle a request past a proxy that reads them differently. h11 limits only a head that arrives in pieces.
    """
    found = _HEAD_END_OR_FAULT.search(received, 0, MAX_HEAD)
    if found is None:
        return 431 if len(received) >= MAX_HEAD else None
    return None if found.group() == BLANK_LINE else 400


def _refusal_status(request: h11.Request) -> int | None:
    """Return the status to refuse a request with because of its version or framing, or None to accept it."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505
    names = {name for name, _value in request.headers}
    if b"transfer-encoding" not in names:
        return None
    # Two lengths can smuggle a request past a proxy (RFC 9112, section 6.1). So can a chunked body in HTTP/1.0, which
    # does not define it.
    return 400 if b"content-length" in names or request.http_version == b"1.0" else None


def _origin_form(target: bytes) -> bytes:
    """Return the path and query of a request target, which may be a full URL (RFC 9112, section 3.2.2)."""
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
        self._input_lock = asyncio.Lock()  # one task at a time handles received data
        self._response_progress = asyncio.Event()
        self._unstarted: RequestStream | None = None
        """The current request, as long as its body is incomplete and small."""
        self._input_broken = False  # the client broke the protocol: the next answer is the last
        self._chunked: bytearray | None = None
        """The last bytes received of a chunked request."""

    @property
    def idle(self) -> bool:
        """Whether no request is running."""
        return self.stream is None

    @property
    def has_partial_request(self) -> bool:
        """Whether the client has sent only a part of the next request's header, or of an unwanted body."""
        return self.idle and (self.connection.their_state is h11.SEND_BODY or bool(self.connection.trailing_data[0]))

    async def handle(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await self.start_waiting()
            await super().handle(event)
            return
        async with self._input_lock:
            if self._input_broken or self.connection.their_state in _INPUT_IGNORED:
                return
            self.connection.receive_data(event.data)
            if self._chunked is not None:
                self._chunked += event.data
            await self._handle_events()

    def serve_at_once(self, data: bytes) -> bytes:
        """Serve the whole requests at the beginning of `data` that are like earlier ones; return the rest for `handle`.

        Their answers are those that `handle` would give, but without h11, a task, or a turn of the event loop.
        """
        app = self._link.app
        client = self._link.scope_base["extensions"].get("kes.client")
        for _ in range(MAX_AT_ONCE):
            if not data or not self._is_between_requests() or (found := HEADS.find(data)) is None:
                break
            (method, path, length), start = found
            end = start + length
            if len(data) < end:
                break
            try:
                answer = app.direct(client, method, path, data[start:end])
            except Exception as error:
                log_fault(logger, "internal error", error=error)
                answer = Answer(500, [(b"content-length", b"0")], b"")
            if answer is None:
                break
            if isinstance(answer, bytes):
                answer = Answer(200, [_JSON, (b"content-length", b"%d" % len(answer))], answer)
            if isinstance(answer, Answer):
                self._link.write_soon(render(answer))
            else:
                self._wait_for(answer, data[:end])
            data = data[end:]
        return data

    def _is_between_requests(self) -> bool:
        """Whether no request is running, and no data of the next one was received."""
        connection = self.connection
        return (
            self.stream is None
            and connection.their_state is h11.IDLE
            and connection.our_state is h11.IDLE
            and connection.trailing_data == (b"", False)
            and not (self._input_broken or self._input_lock.locked() or self.context.terminated.is_set())
        )

    def _wait_for(self, answer: Awaitable[Answer], received: bytes) -> None:
        """Send an answer when it is there. Until then the request in `received` is the current one."""
        self.connection.receive_data(received)
        request: Any = self.connection.next_event()
        while type(self.connection.next_event()) is not h11.EndOfMessage:
            pass
        scope = {"method": request.method.decode("ascii")}
        self.stream = stream = RequestStream(self, STREAM_ID, scope, ended=True)
        self._link.spawn(stream.run(Begun(answer)))

    async def end_input(self) -> None:
        """Record that the client sends no more data. The connection closes after the last answer."""
        async with self._input_lock:
            self.connection.receive_data(b"")
            if self.stream is not None:
                self.stream.end_input()
            await self.start_waiting()
            await self._handle_events()

    async def start_waiting(self) -> None:
        """Pass a request on although its body is incomplete: the application decides how long it waits."""
        stream, self._unstarted = self._unstarted, None
        if stream is not None:
            await stream.start(self._link)

    async def _handle_buffered(self) -> None:
        """Handle the data that was received while a request was running."""
        async with self._input_lock:
            await self._handle_events()
        await self.send(Updated(idle=self.idle))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore upgrades: the TLS handshake negotiates HTTP/2."""

    async def _handle_events(self) -> None:
        connection = self.connection
        while not self._input_broken and connection.their_state not in _INPUT_IGNORED:
            received = connection.trailing_data[0] if connection.their_state is h11.IDLE else b""
            if connection.their_state is h11.IDLE and (status := _head_error(received)) is not None:
                await self._refuse(status)
                return
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._handle_fault(error)
                return
            if isinstance(event, h11.Request):
                await self._start_request(event, received)
            elif isinstance(event, h11.Data):
                await self._receive_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._end_request(event)
                if connection.trailing_data[0]:  # a client may send thousands of requests in one piece: others go on
                    await asyncio.sleep(0)
            elif event is not h11.PAUSED:
                await self._handle_end_of_data(event)
                return
            elif not await self._wait_for_answer():
                return

    async def _handle_end_of_data(self, event: object) -> None:
        """Handle that the received data contains no further event: wait for more, or close."""
        if isinstance(event, h11.ConnectionClosed):
            if self.stream is None:
                await self.send(Closed())
            return
        if self.connection.they_are_waiting_for_100_continue:
            await self.start_waiting()
        if self._chunked is not None:
            del self._chunked[: -len(BLANK_LINE) - len(self.connection.trailing_data[0])]

    async def _wait_for_answer(self) -> bool:
        """Wait until the running request is answered; return false if the connection should be read meanwhile."""
        if self.stream is None or len(self.connection.trailing_data[0]) <= MAX_READ_AHEAD:
            return False  # `_handle_buffered` handles the data that is read meanwhile
        if self.stream.streaming:
            await self.send(Closed())  # if the server stopped reading, it would not detect a closed connection
            return False
        await self._wait_for_response_progress()
        return True

    async def _wait_for_response_progress(self) -> None:
        self._response_progress.clear()
        await self._response_progress.wait()

    async def _start_request(self, request: h11.Request, received: bytes) -> None:
        if (status := _refusal_status(request)) is not None:
            await self._refuse(status)
            return
        self._discarded = 0
        self.keep_alive_requests += 1
        if any(name == b"transfer-encoding" for name, _value in request.headers):
            self._chunked = bytearray(self.connection.trailing_data[0])
        target = _origin_form(request.target)
        scope = request_scope(self._link, request.method, target, list(request.headers), request.http_version.decode())
        self.stream = stream = RequestStream(self, STREAM_ID, scope, ended=False)
        if self._link.app.may_begin(scope):
            self._unstarted = stream
            HEADS.remember(received, request)
        else:
            self._link.spawn(stream.run(self._link.app))

    async def _receive_body(self, data: bytes) -> None:
        stream = self.stream
        if stream is not None and stream.feed(data):
            if stream.unread > SMALL_BODY:
                await self.start_waiting()
            while stream.unread > MAX_UNREAD_BODY and not stream.closed:
                await self._wait_for_response_progress()
        else:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BODY:
                await self.send(Closed())

    async def _end_request(self, end: h11.EndOfMessage) -> None:
        """Handle the end of a request. Refuse a chunked body with a trailer, or with an unusual end.

        The protocol has no trailers. h11 accepts ends of a body that proxies may interpret differently.
        """
        received, self._chunked = self._chunked, None
        if received is not None:
            rest = len(self.connection.trailing_data[0])
            if end.headers or not received[: len(received) - rest].endswith(BLANK_LINE):
                await self._handle_fault(h11.RemoteProtocolError("malformed end of a chunked body"))
                return
        if self.stream is not None:
            self.stream.feed_end()
            await self.start_waiting()
        else:
            await self._maybe_recycle()

    async def _handle_fault(self, error: h11.RemoteProtocolError) -> None:
        """Refuse data that is not HTTP/1.1. A running request sends the refusal itself, so that it gets one answer."""
        self._input_broken = True
        if self.stream is None:
            await self._refuse(error.error_status_hint)
        elif self.connection.trailing_data[1]:  # the client disconnected in the middle of its request
            await self.start_waiting()
            await self.send(Closed())
            await self._close_stream()
        else:
            self.stream.reject_body()
            await self.start_waiting()

    async def _maybe_recycle(self) -> None:
        """Continue after a response: handle the next request when the current one is read to its end."""
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
                self._link.spawn(self._handle_buffered())
        self._response_progress.set()

    async def _refuse(self, status: int) -> None:
        """Refuse a request before the application gets it, if an answer is still possible, and close."""
        self._input_broken = True
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send_h11_event(self._response(status, [(b"content-length", b"0")]))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    def _response(self, status: int, headers: Headers) -> h11.Response:
        last = [(b"connection", b"close")] if self._input_broken else []
        fields = [*headers, *last, DATE.header()]
        return h11.Response(status_code=status, reason=REASONS.get(status, b""), headers=fields)

    # The interface for streams (`Responder`)

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
            self._response_progress.set()
            await self._send_h11_event(self._response(status, headers))
        await send_parts(self, stream, 0, headers, body, more=more)

    async def abort_response(self, _stream: RequestStream) -> None:
        await self.send(Closed())
        await self._close_stream()
        self._response_progress.set()

    async def request_body(self, _stream: RequestStream) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    def body_consumed(self, _stream: RequestStream, _size: int) -> None:
        self._response_progress.set()

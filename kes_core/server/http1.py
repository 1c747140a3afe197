"""HTTP/1.1 on Hypercorn's protocol class; `http` says what is different and why."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from hypercorn.events import Closed, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol

from kes_core.server.http import (
    DATE,
    MAX_DISCARDED_BODY,
    Headers,
    Link,
    RequestStream,
    request_scope,
    send_parts,
)

__all__ = ["HTTP1Protocol"]

_MAX_UNREAD_BODY: Final = 64 * 1024
"""Bytes of a body that may wait for the handler. HTTP/2 has its flow-control window for this."""


def _refusal(request: h11.Request) -> int | None:
    """Return the status with which a request is refused whatever it asks for; nothing for most."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505
    names = {name for name, _value in request.headers}
    # Two lengths are how a request is smuggled past a proxy (RFC 9112, section 6.1).
    return 400 if b"transfer-encoding" in names and b"content-length" in names else None


class HTTP1Protocol(H11Protocol):
    """HTTP/1.1, one request at a time."""

    stream: Any  # a RequestStream: Hypercorn calls only `handle`, which it has

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
        scope = request_scope(
            self._link, request.method, request.target, list(request.headers), request.http_version.decode()
        )
        stream = RequestStream(self, STREAM_ID, scope, ended=False)
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
            if self._discarded > MAX_DISCARDED_BODY:
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
        headers = [(b"content-length", b"0"), (b"connection", b"close"), DATE.header()]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.EndOfMessage())

    # What a stream asks

    async def respond(self, stream: RequestStream, status: int, headers: Headers, body: bytes) -> None:
        if self.connection.our_state is h11.SEND_RESPONSE:
            response = h11.Response(status_code=status, headers=[*headers, DATE.header()])
            events: list[Any] = [response, h11.EndOfMessage()]
            if body and stream.scope["method"] != "HEAD":
                events.insert(1, h11.Data(data=body))
            self._link.write(b"".join(self.connection.send(event) or b"" for event in events))
        await self.stream_send(StreamClosed(stream_id=STREAM_ID))

    async def respond_in_parts(
        self, stream: RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        await send_parts(self, stream, status, headers, body, more=more)

    async def abandon(self, _stream: RequestStream) -> None:
        await self.send(Closed())

    async def wants_body(self, _stream: RequestStream) -> None:
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    def consumed(self, _stream: RequestStream, _size: int) -> None:
        self._consumed.set()

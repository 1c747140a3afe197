"""HTTP/2 on Hypercorn's protocol class; `stream` explains the differences."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer

from kes_core.boundary.steps import go_on
from kes_core.server.wire.compact import compact
from kes_core.server.wire.header_blocks import RememberingDecoder, RememberingEncoder, request_head
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

__all__ = ["HTTP2Protocol"]

WINDOW_TIMEOUT: Final = 30.0
"""Seconds that a client may keep its flow-control window closed while an answer waits."""
MAX_PENDING_RESETS: Final = 200
"""A client may reset or break at most this many more streams than it completes (CVE-2023-44487)."""
MAX_PER_TURN: Final = 16
"""Requests that are served before other connections have their turn. More at a time cost less."""


class HTTP2Protocol(H2Protocol):
    """HTTP/2, many requests at a time."""

    streams: dict[int, Any]  # of RequestStream: Hypercorn calls only `handle` and `idle`, which it has

    def __init__(self, link: ConnectionLink, *args: Any) -> None:
        super().__init__(link.app, *args)  # type: ignore[arg-type] # Hypercorn's wrapper of an app; only we call it
        self.bodies = BodyAllowance()
        self._link = link
        self._pending_resets = 0
        self._cut_off = False
        self._flush_scheduled = False
        self._served_in_turn = 0
        self._sends_parts = False
        self._handling: asyncio.Future[None] | None = None
        """Done when the data is handled that `serve_at_once` has begun to handle."""
        self._discarded: dict[int, int] = {}
        """The number of dropped body bytes, for each request that was answered before it was complete."""
        self._unstarted: dict[int, RequestStream] = {}
        """The requests whose body is incomplete and small, by stream."""
        # Do not offer WebSockets over HTTP/2, as Hypercorn does.
        del self.connection.local_settings[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL]
        # The decoder has the limit at once. h2 would apply it only when the client has acknowledged the settings.
        self.connection.decoder = RememberingDecoder(self.config.h2_max_header_list_size)
        self.connection.encoder = RememberingEncoder()
        # For one malformed header, h2 would close the connection and abort all its requests. So `_start_request`
        # validates headers instead.
        self.connection.config.validate_inbound_headers = False
        # Ours are valid, and in lower case.
        self.connection.config.validate_outbound_headers = False
        self.connection.config.normalize_outbound_headers = False
        compact(self.connection.local_settings)
        compact(self.connection.remote_settings)

    async def initiate(self, _headers: list[tuple[bytes, bytes]] | None = None, _settings: bytes | None = None) -> None:
        """Send the server's settings. No client comes from HTTP/1.1, and `_send_parts_soon` begins the task."""
        self.connection.initiate_connection()
        await self._flush()

    def _send_parts_soon(self) -> None:
        """Begin Hypercorn's task that sends answers in parts. Most connections never need it, and it takes 3 KiB."""
        if not self._sends_parts:
            self._sends_parts = True
            self.task_group.spawn(self.send_task)

    @property
    def has_partial_request(self) -> bool:
        """Whether the client has sent only a part of a request's headers."""
        return False  # the time limit of idle connections covers an endless preface or header

    def serve_at_once(self, data: bytes) -> bytes:
        """Handle `data` in this turn of the event loop, as far as it does not wait; or return it for `handle`."""
        if self._handling is not None:
            return data
        work = self.handle(RawData(data))
        try:
            waits_for = work.send(None)
        except StopIteration:
            return b""
        self._handling = asyncio.get_running_loop().create_future()
        self._link.spawn(self._handle_rest(work, waits_for, self._handling))
        return b""

    async def _handle_rest(
        self, work: Coroutine[Any, Any, None], waits_for: Any, handling: asyncio.Future[None]
    ) -> None:
        try:
            await go_on(work, waits_for)
        except Exception:
            await self.send(Closed())
            raise
        finally:
            self._handling = None
            handling.set_result(None)

    async def handle(self, event: Event) -> None:
        if self._handling is not None:
            await asyncio.shield(self._handling)
        if isinstance(event, Closed):
            await self.start_waiting()
        await super().handle(event)
        if isinstance(event, Closed):
            # Wake answers that wait for the client's window: otherwise they would wait until `WINDOW_TIMEOUT`.
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if self._cut_off:
                return
            if isinstance(event, h2.events.RequestReceived):
                await self._start_request(event)
            elif isinstance(event, h2.events.DataReceived):
                await self._receive_body(event)
            elif isinstance(event, h2.events.StreamEnded):
                self._discarded.pop(event.stream_id, None)
                if (stream := self.streams.get(event.stream_id)) is not None:
                    stream.feed_end()
                    await self._start(event.stream_id)
                    if event is not events[-1]:
                        await self._let_others_go_on()
            elif isinstance(event, h2.events.StreamReset):
                await self._handle_reset(event)
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
            else:
                await self._update_window(event)
        self._flush_unless_scheduled()

    async def _update_window(self, event: h2.events.Event) -> None:
        """Continue responses that waited for the client's flow-control window."""
        if isinstance(event, h2.events.WindowUpdated):
            await self._window_updated(event.stream_id)
        elif (
            isinstance(event, h2.events.RemoteSettingsChanged)
            and h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings
        ):
            await self._window_updated(None)

    async def _start_request(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        if self.context.terminated.is_set():
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        try:
            method, target, headers = request_head(request.headers or [])
        except h2.exceptions.ProtocolError:
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            await self._count_reset()
            return
        scope = request_scope(self._link, method, target, headers, "2")
        stream = RequestStream(self, stream_id, scope, ended=request.stream_ended is not None)
        self.streams[stream_id] = stream
        if self._link.app.may_begin(scope):
            self._unstarted[stream_id] = stream
        else:
            self._link.spawn(stream.run(self._link.app))

    async def start_waiting(self) -> None:
        """Pass all requests on although their bodies are incomplete: the application decides how long it waits."""
        for stream_id in list(self._unstarted):
            await self._start(stream_id)

    async def _let_others_go_on(self) -> None:
        """End the turn of the event loop now and then: a client may send hundreds of requests in one piece."""
        self._served_in_turn += 1
        if self._served_in_turn >= MAX_PER_TURN:
            self._served_in_turn = 0
            await asyncio.sleep(0)

    async def _start(self, stream_id: int) -> None:
        stream = self._unstarted.pop(stream_id, None)
        if stream is not None:
            await stream.start(self._link)

    async def _receive_body(self, event: h2.events.DataReceived) -> None:
        stream, stream_id = self.streams.get(event.stream_id), event.stream_id
        if stream is None:
            self._discard(stream_id, event.flow_controlled_length)
            return
        is_kept = stream.feed(bytes(event.data))
        kept = len(event.data) if is_kept else 0
        if dropped := event.flow_controlled_length - kept:
            self.connection.acknowledge_received_data(dropped, stream_id)
        if stream.unread > SMALL_BODY or not is_kept:
            await self._start(stream_id)

    def _discard(self, stream_id: int, size: int) -> None:
        """Drop a part of an unwanted body, so that the client reads the answer; reset the stream if the body is large.

        RFC 9113, section 8.1, allows a reset at once, but then some clients lose the answer.
        """
        self.connection.acknowledge_received_data(size, stream_id)
        if stream_id in self._discarded:
            self._discarded[stream_id] += size
            if self._discarded[stream_id] > MAX_DISCARDED_BODY:
                del self._discarded[stream_id]
                self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    async def _handle_reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        self._discarded.pop(event.stream_id, None)
        if stream is not None:
            await self._start(event.stream_id)
            self._release_window(stream)
            await self._count_reset()
        await self._close_stream(event.stream_id)
        await self._window_updated(event.stream_id)

    async def _count_reset(self) -> None:
        """Disconnect a client that keeps opening streams without finishing them."""
        self._pending_resets += 1
        if self._pending_resets > MAX_PENDING_RESETS and not self._cut_off:
            self._cut_off = True
            self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self.send(Closed())

    def _release_window(self, stream: RequestStream) -> None:
        """Reopen the connection's flow-control window by the size of an unread body."""
        if size := stream.drop_body():
            self.connection.acknowledge_received_data(size, stream.stream_id)

    def _flush_soon(self) -> None:
        """Send waiting data at the end of this turn of the event loop, in one piece."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_unless_scheduled(self) -> None:
        """Send waiting data now, if it has no answers. Often there is none, because a body is still to come."""
        if not self._flush_scheduled:
            self._flush_now()

    def _flush_now(self) -> None:
        self._flush_scheduled = False
        data = self.connection.data_to_send()
        if data:
            self._link.write(data)

    # The interface for streams (`Responder`)

    async def respond(self, stream: RequestStream, status: int, headers: Headers, body: bytes) -> None:
        connection, stream_id = self.connection, stream.stream_id
        if stream.scope["method"] == "HEAD":
            body = b""
        try:
            if len(body) > min(connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size):
                answering = self.respond_in_parts(stream, status, headers, body, more=False)
                if stream.at_once:  # read on meanwhile: only what the client sends next may open its window
                    self._link.spawn(answering)
                else:
                    await answering
                return
            fields = [(b":status", b"%d" % status), *headers, DATE.header()]
            connection.send_headers(stream_id, fields, end_stream=not body)
            if body:
                connection.send_data(stream_id, body, end_stream=True)
            if not stream.ended:
                self._discarded[stream_id] = 0
        except h2.exceptions.ProtocolError:
            pass  # the client has reset the stream or closed the connection meanwhile
        await self._finish(stream)

    async def respond_in_parts(
        self, stream: RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        if status:
            self.stream_buffers[stream.stream_id] = StreamBuffer(self.context.event_class)
            self.priority.insert_stream(stream.stream_id)
            self.priority.block(stream.stream_id)
            self._send_parts_soon()
        try:
            async with asyncio.timeout(WINDOW_TIMEOUT):
                await send_parts(self, stream, status, headers, body, more=more)
                is_sent = body and stream.scope["method"] != "HEAD"
                if is_sent and stream.stream_id in self.stream_buffers:  # Hypercorn waits only from 32 KiB on
                    await self.stream_buffers[stream.stream_id].drain()
        except TimeoutError:
            await self._cancel_response(stream)
            return
        if not more:
            self._release_window(stream)

    async def _cancel_response(self, stream: RequestStream) -> None:
        """Abort an answer that the client does not read."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream.stream_id, h2.errors.ErrorCodes.CANCEL)
        self._release_window(stream)
        await self._close_stream(stream.stream_id)
        await self._window_updated(stream.stream_id)  # wakes the task that sends the answer
        self._flush_soon()
        if not self.streams:
            await self.send(Updated(idle=True))

    async def abort_response(self, stream: RequestStream) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the client has reset the stream already
            self.connection.reset_stream(stream.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await self._finish(stream)

    async def request_body(self, _stream: RequestStream) -> None:
        return

    def body_consumed(self, stream: RequestStream, size: int) -> None:
        self.connection.acknowledge_received_data(size, stream.stream_id)
        self._flush_soon()

    async def _finish(self, stream: RequestStream) -> None:
        self._pending_resets = max(0, self._pending_resets - 1)
        self._release_window(stream)
        stream.closed = True
        self.streams.pop(stream.stream_id, None)
        self._flush_soon()
        if not self.streams:
            if self.context.terminated.is_set():
                self.connection.close_connection()
                self._flush_now()
            await self.send(Updated(idle=True))

"""The responses of a connection's requests, on their way to the native part."""

from __future__ import annotations

import asyncio
from typing import Any

from kes_core.server.wire import http2
from kes_core.server.wire.app import Headers
from kes_core.server.wire.stream import BodyAllowance, RequestStream

__all__ = ["Responses"]


class Responses:
    """The part of a connection that requests use (`kes_core.server.wire.stream.Responder`)."""

    def __init__(self, native: Any) -> None:
        self.bodies = BodyAllowance()
        self._held = 0
        """The bytes of incomplete bodies that the native part holds."""
        self.alpn = "http/1.1"
        self._native: Any = native
        self._loop = asyncio.get_running_loop()
        self._drained: list[asyncio.Future[None]] = []
        self._advance_scheduled = False
        self._writing_paused = False

    def on_held(self, size: int) -> bool:
        """Count the bytes of incomplete bodies that the native part holds; return false if a limit is exceeded."""
        self.bodies.release(self._held)
        self._held = 0
        so_far = -size  # each body is a small one, however many bytes they have together
        if not self.bodies.take(size, so_far):
            return False
        self._held = size
        return True

    async def respond(self, stream: RequestStream, status: int, headers: Headers, body: bytes) -> None:
        if self._native is None:
            return
        self._native.respond(stream.stream_id, status, headers, body)
        self._finish(stream)
        self._advance_soon()
        await self._sent(stream.stream_id, stream)

    async def respond_in_parts(
        self, stream: RequestStream, status: int, headers: Headers, body: bytes, *, more: bool
    ) -> None:
        if self._native is None:
            return
        if status:
            self._native.start_response(stream.stream_id, status, headers)
        self._native.send_part(stream.stream_id, body, more)
        if not more:
            self._finish(stream)
        self._advance_soon()
        await self._sent(stream.stream_id, stream)

    async def abort_response(self, stream: RequestStream) -> None:
        if self._native is not None:
            self._finish(stream)
            self._native.abort_response(stream.stream_id, False)
            self._advance_soon()

    def _finish(self, stream: RequestStream) -> None:
        """Mark a request as answered, and count the rest of its body as read."""
        stream.closed = True
        if size := stream.drop_body():
            self._native.body_consumed(stream.stream_id, size)

    async def request_body(self, _stream: RequestStream) -> None:
        if self._native is not None:
            self._native.request_body()
            self._advance_soon()

    def body_consumed(self, stream: RequestStream, size: int) -> None:
        if self._native is not None:
            self._native.body_consumed(stream.stream_id, size)
            self._advance_soon()

    async def _sent(self, number: int, stream: RequestStream | None = None) -> None:
        """Wait until the client has made room for the response, or abort it. Answers at once have no `stream`."""
        if not self._writing_paused and not self._native.unsent(number):
            return
        try:
            async with asyncio.timeout(http2.WINDOW_TIMEOUT if self.alpn == "h2" else None):
                while self._native is not None and (self._writing_paused or self._native.unsent(number)):
                    waiter = self._loop.create_future()
                    self._drained.append(waiter)
                    await waiter
        except TimeoutError:
            if self._native is not None:
                if stream is not None:
                    self._finish(stream)
                self._native.abort_response(number, True)
                self._advance_soon()

    def _wake_drained(self) -> None:
        drained, self._drained = self._drained, []
        for waiter in drained:
            if not waiter.done():
                waiter.set_result(None)

    def _advance_soon(self) -> None:
        """Send what was written at the end of this turn of the event loop, in one piece."""
        if not self._advance_scheduled:
            self._advance_scheduled = True
            self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        raise NotImplementedError

"""A client's connection: bytes between asyncio's transport and the native part, requests for the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kes_core.server.wire.listener as limits
from kes_core.faults import log_fault
from kes_core.server.wire.app import Answer, App, Begun, Headers, Message
from kes_core.server.wire.compact import Once
from kes_core.server.wire.stream import RequestStream, request_scope
from kes_core.server.wire.tls_connection import host_and_port
from kes_core.tls import TLSError
from kes_native import _native
from kes_native.handshake import PLAIN_HTTP_ANSWER, Handshake
from kes_native.responses import Responses
from kes_native.scope import scope_base

if TYPE_CHECKING:
    from kes_core.access.sender import ProvenClient
    from kes_native.runtime import NativeRuntime

__all__ = ["NativeConnection"]

logger = logging.getLogger("kes.server")


class NativeConnection(Responses, asyncio.Protocol):
    """A client's connection, as asyncio, the gate, the runtime, requests and the native part see it."""

    def __init__(self, runtime: NativeRuntime, config: Any, *, verifies_clients: bool) -> None:
        super().__init__(_native.Connection(config, self, runtime.rules))
        self.app: App = runtime.app
        self.verifies_clients = verifies_clients
        self.gone = Once()
        self.scope_base: Message = {}
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self._runtime = runtime
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, RequestStream] = {}
        self._handshake = Handshake()
        self._failed = self._ended = self._closing = self._waiting_for_request = False
        self._deadline: float | None = self._loop.time() + limits.HANDSHAKE_TIMEOUT
        self._write_deadline: float | None = None
        self._client: ProvenClient | None = None
        self._token: int | None = None
        """Names this connection to the poller, which reads its socket after the handshake."""

    # What the gate and the runtime use

    @property
    def established(self) -> bool:
        return self._native is not None and self._native.established

    @property
    def has_begun(self) -> bool:
        return self._handshake.has_begun

    @property
    def in_handshake(self) -> bool:
        return self.has_begun and not self._failed and not self.established

    @property
    def idle(self) -> bool:
        return self._native is None or self._native.idle

    def abort(self) -> None:
        """Close at once and drop unsent data."""
        self._stop_polling()
        if self._transport is not None:
            self._transport.abort()

    def stop(self) -> None:
        """Accept no more requests; close when the running ones are finished."""
        if not self.established:
            self.abort()
        elif self._native is not None:
            self._call(self._native.stop)

    def close(self) -> None:
        """Close the connection while no request is running."""
        if self._native is not None and self.established:
            self._native.stop()
        self._close()

    def _close(self) -> None:
        """Close after the client has read everything written, or after `WRITE_TIMEOUT`."""
        if self._closing:
            return
        self._closing = True
        self._stop_polling()
        self._deadline = self._loop.time() + limits.WRITE_TIMEOUT
        if self._native is not None and self._transport is not None:
            self._native.close()
            self._flush()
            self._transport.close()

    async def start_waiting(self) -> None:
        """Pass requests on that wait for the rest of their body: their own time limit counts from here."""
        if self._native is not None and not self._closing and self._native.holds:
            self._call(self._native.pass_on)

    def check(self, now: float) -> None:
        """Close the connection if a time limit has passed."""
        answered = self._token is not None and self._native.take_answered()
        if answered and self._deadline is not None and not self._waiting_for_request:
            self._deadline = now + limits.IDLE_TIMEOUT
        if self._deadline is not None and now > self._deadline:
            is_idle = self.established and not self._waiting_for_request and not self._closing
            (self.close if is_idle else self.abort)()
        if not self._writing_paused:
            self._write_deadline = None
        elif self._write_deadline is None:
            self._write_deadline = now + limits.WRITE_TIMEOUT
        elif now > self._write_deadline:
            self.abort()

    def serve(self, client: ProvenClient) -> None:
        """Serve requests of `client` from now on."""
        self._client = client
        self.scope_base = scope_base(self, client)
        self._deadline = self._loop.time() + limits.IDLE_TIMEOUT

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # of a socket
        self.client = host_and_port(transport.get_extra_info("peername"))
        self.server = host_and_port(transport.get_extra_info("sockname"))
        if not self._runtime.admit(self):
            self.abort()

    def data_received(self, data: bytes) -> None:
        native = self._native
        if self._failed or self._closing or native is None:
            return
        try:
            self._call(native.receive if native.established else self._receive_handshake, data)
        except TLSError as error:
            self._fail(str(error))
            self.abort()
        else:
            if self.established and not self._closing:
                self._start_polling()

    def eof_received(self) -> bool:
        if not self.established:
            return False
        self._call(self._end)
        return True  # keeps the connection open for running requests; the native part closes it

    def connection_lost(self, _exc: Exception | None) -> None:
        self._stop_polling()
        self._transport = None
        native, self._native = self._native, None
        if native is not None and native.established:
            native.pass_on()
        self.on_held(0)
        for stream in list(self._streams.values()):
            stream.close()
        self._streams.clear()
        self.resume_writing()
        self._runtime.remove(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._native is not None:
            self._native.has_backlog = False
        self._wake_drained()
        self._update_reading()

    # What the poller calls

    def _start_polling(self) -> None:
        """Let the poller read the socket from now on. The transport keeps it, and sends what it does not take."""
        if self._transport is None or self._transport.is_closing() or self._token is not None:
            return
        socket = self._transport.get_extra_info("socket")
        if socket is not None:
            self._transport.pause_reading()
            self._token = self._runtime.poller.add(socket.fileno(), self._native, self)
            self._update_reading()

    def _stop_polling(self) -> None:
        if self._token is not None:
            self._runtime.poller.remove(self._token)
            self._token = None

    def on_eof(self) -> None:
        """Record that the client sends no more data."""
        self._stop_polling()  # the end of the data would be reported again and again
        self._call(self._end)

    def on_changed(self) -> None:
        """Do what the state of the native part asks for, and send what the socket did not take."""
        self._call(_nothing)

    def on_fault(self, error: BaseException) -> None:
        """End the connection after an internal error."""
        log_fault(logger, "internal error", error=error)
        self.abort()

    # The handshake

    def _receive_handshake(self, data: bytes) -> None:
        problem = self._handshake.receive(self._native, data)
        if problem:
            if self._handshake.is_plain_http and self._transport is not None:
                self._transport.write(PLAIN_HTTP_ANSWER)
            self._flush()  # sends the alert, which gives the client the reason
            self._fail(problem)

    def _fail(self, reason: str) -> None:
        self._failed = True
        self._runtime.handshake_failed(self, reason)
        if self._transport is not None:
            # Closing with unread data of the client would reset the connection, and the alert could be lost.
            self._transport.write_eof()

    def on_established(self, certificates: list[bytes], is_http2: bool) -> None:
        """Identify the client (called by the native part, at the end of the handshake)."""
        self.alpn = "h2" if is_http2 else "http/1.1"
        self._runtime.established(self, certificates)

    # What the native part calls: nothing here may call it back

    def on_frequent(self, number: int, method: str, target: bytes, body: bytes) -> bytes | Answer | bool | None:
        """Serve a whole request the shortest way (`App.direct`).

        Returns:
            Its answer if it is there at once, else None; or False: the request has to go another way.
        """
        client = self._client
        if client is None:
            return False
        try:
            answer = self.app.direct(client, method, target, body)
        except Exception as error:
            log_fault(logger, "internal error", error=error)
            return Answer(500, [(b"content-length", b"0")], b"")
        if answer is None:
            return False
        if isinstance(answer, bytes | Answer):
            return answer
        self._spawn(RequestStream(self, number, {}, ended=True), Begun(answer))
        return None

    def on_request(
        self, number: int, method: bytes, target: bytes, headers: Headers, body: bytes, ended: bool
    ) -> Answer | None:
        """Begin to serve a request; return the answer if it is there at once."""
        scope = request_scope(self, method, target, headers, "2" if self.alpn == "h2" else "1.1")
        return self._begin(number, scope, body, ended=ended)

    def _begin(self, number: int, scope: Message, body: bytes, *, ended: bool) -> Answer | None:
        app: App | Begun = self.app
        self._deadline = None  # until `_update_deadline` sets the next
        stream = RequestStream(self, number, scope, ended=ended)
        if ended and self.app.may_begin(scope):
            try:
                answer = self.app.begin(scope, body)
            except Exception as error:
                log_fault(logger, "internal error", error=error)
                answer = Answer(500, [(b"content-length", b"0")], b"")
            if isinstance(answer, Answer):
                return answer
            app = Begun(answer)
        elif body:
            stream.feed(body)
        self._spawn(stream, app)
        return None

    def _spawn(self, stream: RequestStream, app: App | Begun) -> None:
        self._deadline = None  # until `_update_deadline` sets the next
        self._streams[stream.stream_id] = stream
        self._runtime.spawn(self._run(stream, app))

    async def _run(self, stream: RequestStream, app: App | Begun) -> None:
        try:
            await stream.run(app)
        finally:
            if self._streams.get(stream.stream_id) is stream:
                del self._streams[stream.stream_id]

    def on_data(self, number: int, data: bytes) -> bool:
        """Pass on a part of a body; return whether it is kept."""
        stream = self._streams.get(number)
        return stream is not None and stream.feed(data)

    def on_end(self, number: int) -> None:
        """Record that a body is complete."""
        if (stream := self._streams.get(number)) is not None:
            stream.feed_end()

    def on_malformed(self, number: int) -> None:
        """Refuse the rest of a body."""
        if (stream := self._streams.get(number)) is not None:
            stream.reject_body()

    def on_reset(self, number: int) -> None:
        """Record that the client has given up a request."""
        if (stream := self._streams.pop(number, None)) is not None:
            stream.close()

    def _end(self) -> None:
        """Record that the client sends no more data. It may still wait for an answer."""
        if self._ended or self._native is None:
            return
        self._ended = True
        for stream in self._streams.values():
            stream.end_input()
        self._native.receive_end()

    def _advance(self) -> None:
        self._advance_scheduled = False
        if self._native is not None and not self._closing:
            self._call(self._native.advance)

    def _call(self, step: Callable[..., None], *arguments: bytes) -> None:
        """Let the native part do something, and do what its state asks for then. An internal error ends the connection.

        Raises:
            TLSError: The client can't be identified.
        """
        try:
            step(*arguments)
            self._after()
        except TLSError:
            raise
        except BaseException as error:  # a panic of the native part is not an Exception
            log_fault(logger, "internal error", error=error)
            self.abort()

    def _after(self) -> None:
        """Do what the state of the native part asks for."""
        self.app.settle()
        native = self._native
        if native is None:
            return
        if native.ended and not self._ended and not self._closing:
            self._end()
        self._flush()
        if native.failure:
            if native.established or not self._failed:
                self.abort()
        elif native.finished:
            self._close()
        else:
            self._update_deadline()
            self._update_reading()
            if native.has_more:
                for number in native.take_waiting():
                    self._runtime.spawn(self._sent(number))
                self._advance_soon()  # other connections have their turn first
        self._wake_drained()

    def _flush(self) -> None:
        if self._native is not None and self._transport is not None:
            output = self._native.take_output()
            if output is not None:
                self._transport.write(output)
            self._native.has_backlog = self._transport.get_write_buffer_size() > 0

    def _update_reading(self) -> None:
        """Stop reading from a client that does not read, and as long as a request has enough data."""
        if self._transport is None or self._transport.is_closing():
            return
        is_full = self._writing_paused or (self._native is not None and self._native.full)
        if self._token is not None:
            self._runtime.poller.watch(self._token, not is_full)
        elif is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _update_deadline(self) -> None:
        native = self._native
        if self._closing or not native.established:
            return
        if not native.idle:
            self._deadline = None
            self._waiting_for_request = False
        elif native.has_partial_request:
            if not self._waiting_for_request or self._deadline is None:
                self._waiting_for_request = True
                self._deadline = self._loop.time() + limits.HEADER_TIMEOUT
        elif self._waiting_for_request or self._deadline is None:
            self._waiting_for_request = False
            self._deadline = self._loop.time() + limits.IDLE_TIMEOUT


def _nothing() -> None:
    """Do nothing, where only what follows is wanted."""

"""Run the native runtime's connections in this process: a TLS client in memory, and no sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL

from kes_core.access.sender import ProvenClient
from kes_core.server.metrics import Metrics
from kes_core.server.wire.app import Answer, App, Message
from kes_core.tls import ClientCertificate, ServerTLS, TLSError, TLSSettings
from kes_native.connection import NativeConnection
from kes_native.runtime import NativeRuntime
from tests.helpers.certificates import Credentials, make_credentials, make_server_certificate
from tests.helpers.patience import one_ends

__all__ = ["Conversation", "NativeWire", "shaking", "stranger"]

_READ = 256 * 1024
"""The most bytes that asyncio gives a connection at a time."""


class _Transport(asyncio.Transport):
    """What a connection writes to: memory."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__(names)
        self.protocol: NativeConnection
        self.written = bytearray()
        self.unread = bytearray()
        self.paused = False
        self.closing = False

    def write(self, data: Any) -> None:
        if not self.closing:
            self.written += data

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        if self.paused:
            self.paused = False
            asyncio.get_running_loop().call_soon(self.deliver)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def deliver(self) -> None:
        """Let the connection receive what the client has sent, as far as it reads."""
        while self.unread and not self.paused and not self.closing:
            data = bytes(self.unread[:_READ])
            del self.unread[:_READ]
            self.protocol.data_received(data)


@functools.cache
def _server() -> tuple[ServerTLS, Credentials, Path]:
    folder = Path(tempfile.mkdtemp())
    key, cert = make_server_certificate(folder)
    settings = TLSSettings(key, cert, client_certificate=ClientCertificate.REQUIRE)
    tls = NativeRuntime.prepare_tls(settings, ServerTLS(SSL.Context(SSL.TLS_SERVER_METHOD), verifies_clients=False))
    return tls, make_credentials(folder), folder


@functools.cache
def _stranger() -> ssl.SSLContext:
    return stranger()


def stranger() -> ssl.SSLContext:
    """Return the TLS settings of a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    credentials = _server()[1]
    context.load_cert_chain(credentials.cert, credentials.key)
    return context


class Conversation:
    """A client's connection to the native runtime."""

    def __init__(self, app: App, *, http2: bool, context: ssl.SSLContext | None = None) -> None:
        tls = _server()[0]
        self.runtime = NativeRuntime(app, lambda: tls, Metrics())
        self.connection: NativeConnection = self.runtime._new_connection()
        self.said = bytearray()
        """What the server has sent, decrypted."""
        self.has_ended = False
        """Whether the server has ended its side of the TLS session."""
        self._from_server, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._transport = _Transport({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 7373)})
        self._transport.protocol = self.connection
        self.connection.connection_made(self._transport)
        context = context or _stranger()
        context.set_alpn_protocols(["h2" if http2 else "http/1.1"])
        self._client = context.wrap_bio(self._from_server, self._to_server, server_hostname="localhost")
        while not self.connection.established:
            assert not self.is_closed, "the handshake has failed"
            with contextlib.suppress(ssl.SSLWantReadError):
                self._client.do_handshake()
            self._deliver()

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection, or the client has."""
        return self._transport.closing

    def send(self, data: bytes) -> None:
        """Let the server receive data of the client, when it reads."""
        if data and not self.is_closed:
            self._client.write(data)
            self._deliver()

    def encrypt(self, data: bytes) -> bytes:
        """Return the records that the client would send. The server must get them before any other data."""
        self._client.write(data)
        return self._to_server.read()

    def send_encrypted(self, records: bytes) -> None:
        """Let the server receive what `encrypt` has returned, or a part of it."""
        self._to_server.write(records)
        self._deliver()

    def end(self) -> None:
        """Let the client send no more data."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._client.unwrap()
        self._deliver()
        self.connection.eof_received()
        self.read()

    def abort(self) -> None:
        """Let the connection be closed."""
        self._transport.abort()

    def read(self) -> None:
        """Let the client receive what the server has sent."""
        self._from_server.write(bytes(self._transport.written))
        self._transport.written.clear()
        try:
            while data := self._client.read(1 << 20):
                self.said += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_ended = True

    async def settle(self, patience: float) -> None:
        """Wait until the server has nothing left to do. Give up if its requests wait for something for `patience` s."""
        tasks = self.runtime._tasks
        while tasks or self.connection._advance_scheduled:
            await asyncio.sleep(0)
            if tasks and not self.connection._advance_scheduled and not await one_ends(tasks.copy(), patience):
                break
        self.read()

    def _deliver(self) -> None:
        self._transport.unread += self._to_server.read()
        self._transport.deliver()
        if self.connection.established:
            self.read()
        else:
            self._from_server.write(bytes(self._transport.written))
            self._transport.written.clear()


class NativeWire:
    """As `tests.helpers.wire.Wire`, on the native runtime."""

    def __init__(self, app: App, *, http2: bool = False) -> None:
        self._conversation = Conversation(app, http2=http2)
        self.protocol = SimpleNamespace(initiate=self.settle, start_waiting=self._conversation.connection.start_waiting)

    @property
    def sent(self) -> bytes:
        self._conversation.read()
        return bytes(self._conversation.said)

    @sent.setter
    def sent(self, data: bytes) -> None:
        self._conversation.said[:] = data

    @property
    def closed(self) -> bool:
        return self._conversation.is_closed

    async def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._conversation.send(piece)
            await asyncio.sleep(0)
        await self.settle()

    async def end(self) -> None:
        self._conversation.end()

    async def close(self) -> None:
        self._conversation.abort()
        await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until the server has nothing left to do."""
        await self._conversation.settle(patience=0.05)


class _Handshakes(NativeRuntime):
    """Passes on what comes of a handshake."""

    def __init__(
        self, tls: ServerTLS, on_success: Callable[[ProvenClient], None], on_failure: Callable[[str], None]
    ) -> None:
        super().__init__(_Nothing(), lambda: tls, Metrics())
        self._on_success = on_success
        self._on_failure = on_failure

    def established(self, connection: Any, certificates: list[bytes]) -> None:
        connection.serve = self._on_success
        try:
            super().established(connection, certificates)
        except TLSError as error:
            self._on_failure(str(error))

    def handshake_failed(self, connection: Any, reason: str) -> None:
        self._on_failure(reason)


class _Nothing:
    """An application that gets no request."""

    frequent = ()

    def may_begin(self, scope: Message) -> bool:
        return False

    def begin(self, scope: Message, body: bytes) -> Answer | Awaitable[Answer]:
        raise NotImplementedError

    def direct(self, client: ProvenClient, method: str, raw_path: bytes, body: bytes) -> None:
        raise NotImplementedError

    def settle(self) -> int:
        """There are no records to write."""
        return 0

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        raise NotImplementedError


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def shaking(
    tls: ServerTLS, on_success: Callable[[ProvenClient], None], on_failure: Callable[[str], None]
) -> NativeConnection:
    """Return the server's side of a handshake, which calls one of the functions."""

    async def make() -> NativeConnection:
        connection: NativeConnection = _Handshakes(tls, on_success, on_failure)._new_connection()
        return connection

    return _loop().run_until_complete(make())

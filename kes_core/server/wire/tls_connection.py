"""A client's TLS connection: decrypts data from the network for the HTTP protocol, and encrypts the answers.

TLS runs on pyOpenSSL's memory BIOs, between asyncio's transport and the HTTP protocol. OpenSSL implements TLS. This
module moves bytes, limits buffers, and makes sure that alerts reach the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cryptography.x509 import Certificate, InvalidVersion
from OpenSSL import SSL

from kes_core.certificates import MAX_CHAIN
from kes_core.tls import TLSError

__all__ = ["TLSConnection", "host_and_port"]

MAX_HANDSHAKE: Final = 16 * 1024
"""The limit of a client's handshake, in bytes. OpenSSL keeps the certificates in it until the connection closes."""
MAX_HANDSHAKE_READS: Final = 128
"""The limit of pieces in which the handshake arrives. An ordinary handshake has two or three."""

_PLAIN_HTTP: Final = "the client speaks plain HTTP"
_PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"  # like Go's net/http
)
_REASONS: Final = {
    "peer did not return a certificate": "the client presented no certificate",
    "http request": _PLAIN_HTTP,
    "unsupported protocol": "the client supports neither TLS 1.2 nor TLS 1.3",
    "no shared cipher": "the client and the server have no cipher in common",
    "wrong version number": "the client does not speak TLS",
}
"""Our texts for OpenSSL's reasons."""
_MAX_RECORD: Final = 16 * 1024
_FLUSHED: Final = 4 * _MAX_RECORD
"""Bytes that are moved from OpenSSL to the transport at once."""
_SLICE: Final = 4 * 1024
"""Bytes that OpenSSL gets at once during a handshake. Data after the handshake counts as part of it up to this size."""
_MAX_AT_ONCE: Final = 16 * 1024
"""Decrypted bytes that are served in the turn in which they arrive. With more, a client could delay the others."""
_MAX_UNREAD: Final = 128 * 1024
"""Decrypted bytes that may wait for the HTTP protocol. Beyond that, the server stops reading from the client."""


class TLSConnection(asyncio.Protocol):
    """A client's connection: TLS towards the client, decrypted bytes towards the HTTP protocol."""

    def __init__(
        self,
        context: SSL.Context,
        *,
        verifies_clients: bool,
        on_connect: Callable[[TLSConnection], bool],
        on_established: Callable[[TLSConnection], None],
        on_failed: Callable[[TLSConnection, str], None],
        on_closed: Callable[[TLSConnection], None],
    ) -> None:
        """Prepare for a connection.

        Args:
            context: From `make_context`.
            verifies_clients: Whether the context verifies the certificates of clients.
            on_connect: Called when the client has connected, before the handshake; false rejects the connection.
            on_established: Called once, after the handshake has succeeded.
            on_failed: Called once, with the reason, after the handshake has failed.
            on_closed: Called once, when the connection is closed.
        """
        self._on_connect = on_connect
        self._on_established = on_established
        self._on_failed = on_failed
        self._on_closed = on_closed
        self._ssl = SSL.Connection(context, None)
        self._ssl.set_accept_state()
        self._transport: asyncio.Transport | None = None
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._eof = False
        self._reading_paused = False
        self._readable: asyncio.Future[None] | None = None
        self.serve_at_once: Callable[[bytes], bytes] | None = None
        """Gets decrypted bytes while `read` waits for them, and returns those that it leaves to `read`."""
        self._writable: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._failed = False
        self._handshake_size = 0
        self._handshake_reads = 0
        self.established = False
        self.alpn = "http/1.1"
        """The negotiated protocol: `h2` or `http/1.1`, which is also the default."""
        self.verifies_clients = verifies_clients
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None

    # The interface for the HTTP protocol

    @property
    def has_begun(self) -> bool:
        """Whether the client has sent anything."""
        return self._handshake_reads > 0

    @property
    def in_handshake(self) -> bool:
        """Whether the client has started its handshake, which has neither succeeded nor failed."""
        return self.has_begun and not self._failed and not self.established

    def client_certificates(self) -> list[Certificate]:
        """Return the client's certificates; an empty list if it presented none.

        The first one is the client's own: the handshake proves possession of its private key.

        Raises:
            TLSError: A certificate can't be read, or there are too many.
        """
        try:
            leaf = self._ssl.get_peer_certificate(as_cryptography=True)
            if leaf is None:
                return []
            chain = self._ssl.get_peer_cert_chain(as_cryptography=True) or []
        except (ValueError, InvalidVersion) as error:
            raise TLSError("the client's certificate can't be read") from error
        # Depending on its version and side, OpenSSL includes the leaf in the chain or not.
        chain = [leaf, *(chain[1:] if chain and chain[0] == leaf else chain)]
        if len(chain) > MAX_CHAIN:
            raise TLSError(f"the client presented {len(chain)} certificates; at most {MAX_CHAIN} are allowed")
        return chain

    async def read(self) -> bytes:
        """Wait for decrypted bytes and return all of them; empty at the end of the stream."""
        if not self._unread and not self._eof:
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_size = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Encrypt and send `data`. Data that the client does not read yet is buffered: see `drain`."""
        if self._transport is None or self._transport.is_closing():
            return
        view = memoryview(data)
        try:
            while view:
                view = view[self._ssl.send(view) :]
        except SSL.Error:
            self.abort()
        else:
            self._flush()

    async def drain(self) -> None:
        """Wait until the client has read enough of the written data."""
        if self._writing_paused:
            if self._writable is None:
                self._writable = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._writable)

    @property
    def writing_paused(self) -> bool:
        """Whether written data waits for the client to read."""
        return self._writing_paused

    def close(self) -> None:
        """Send a closing alert, and close when all written data is sent."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.established:
            try:
                self._ssl.shutdown()
            except SSL.Error:
                pass
            else:
                self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once and drop unsent data."""
        if self._transport is not None:
            self._transport.abort()

    # The interface for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.client = host_and_port(transport.get_extra_info("peername"))
        self.server = host_and_port(transport.get_extra_info("sockname"))
        if not self._on_connect(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        rest = memoryview(data) if self.established else self._feed_handshake(data)
        if not self.established:
            return
        # The client's first request often arrives with the end of its handshake.
        if rest:
            self._ssl.bio_write(rest)
        self._decrypt()

    def eof_received(self) -> bool:
        self._end_of_stream()
        return self.established  # true keeps the connection open for running requests; the HTTP protocol closes it

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._end_of_stream()
        self.resume_writing()
        self._on_closed(self)
        # Free OpenSSL's memory now: this object is part of reference cycles, which Python collects late.
        del self._ssl

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # TLS

    def _feed_handshake(self, data: bytes) -> memoryview:
        """Continue the handshake; return the data that follows it."""
        rest = memoryview(data)
        self._handshake_reads += 1
        if self._handshake_reads > MAX_HANDSHAKE_READS:
            self._fail(f"the client sends its handshake in more than {MAX_HANDSHAKE_READS} pieces")
        while rest and not self.established and not self._failed:
            size = min(_SLICE, MAX_HANDSHAKE - self._handshake_size)
            if not size:
                self._fail(f"the client's handshake has more than {MAX_HANDSHAKE:,} bytes")
                break
            self._handshake_size += self._ssl.bio_write(rest[:size])
            rest = rest[size:]
            self._handshake()
        return rest

    def _handshake(self) -> None:
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._flush()
        except SSL.Error as error:
            self._flush()  # sends the alert, which gives the client the reason
            reason = _reason(error)
            if reason == _PLAIN_HTTP and self._transport is not None:
                self._transport.write(_PLAIN_HTTP_ANSWER)
            self._fail(self._ssl.get_app_data() or reason)
        else:
            self._flush()
            self.established = True
            self.alpn = self._ssl.get_alpn_proto_negotiated().decode("ascii") or self.alpn
            self._on_established(self)

    def _fail(self, reason: str) -> None:
        self._failed = True
        self._on_failed(self, reason)
        if self._transport is not None:
            # Closing with unread data of the client would reset the connection, and the alert could be lost.
            self._transport.write_eof()

    def _decrypt(self) -> None:
        try:
            while True:
                chunk = self._ssl.recv(_MAX_RECORD)
                self._unread.append(chunk)
                self._unread_size += len(chunk)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._end_of_stream()
        except SSL.Error:
            self._flush()
            self._end_of_stream()
            self.abort()
        self._flush()  # sends answers to key updates
        if self.serve_at_once is not None and self._may_serve_at_once():
            rest = self.serve_at_once(b"".join(self._unread))
            self._unread = [rest] if rest else []
            self._unread_size = len(rest)
        if self._unread_size > _MAX_UNREAD and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake_reader()

    def _end_of_stream(self) -> None:
        self._eof = True
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done() and (self._unread or self._eof):
            self._readable.set_result(None)

    def _may_serve_at_once(self) -> bool:
        """Whether there is little data, which the reader waits for, and the client reads its answers."""
        waits = self._readable is not None and not self._readable.done()
        return waits and 0 < self._unread_size <= _MAX_AT_ONCE and not self._writing_paused

    def _flush(self) -> None:
        if self._transport is None:
            return
        try:
            data = self._ssl.bio_read(_FLUSHED)
            self._transport.write(data)
            while len(data) == _FLUSHED:  # a shorter one was the last, and asking for more raises an exception
                data = self._ssl.bio_read(_FLUSHED)
                self._transport.write(data)
        except SSL.WantReadError:
            pass


def _reason(error: SSL.Error) -> str:
    """Return why a handshake failed, in our words or OpenSSL's."""
    queue = error.args[0] if error.args else []
    text = queue[-1][-1] if isinstance(queue, list) and queue else "the handshake failed"
    return _REASONS.get(text, text)


def host_and_port(name: object) -> tuple[str, int] | None:
    """Return host and port of a socket's name, with an IPv4 address as such."""
    if isinstance(name, tuple) and len(name) >= 2:  # noqa: PLR2004 # host and port; IPv6 has more
        # A listener for both gets IPv4 addresses as IPv6 ones. Logs and rules are meant for either form.
        return str(name[0]).removeprefix("::ffff:"), int(name[1])
    return None

"""A TLS client that lets a test decide when its bytes are sent, and in which pieces."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Self

from tests.helpers.server import Server


class MemoryTls:
    """A TLS connection through memory: `flush` sends what `tls` has written."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.raw = socket.create_connection((server.host, server.port), timeout=60)

    def __enter__(self) -> Self:
        """Make the handshake. The next `flush` sends its last message."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._receive()
            else:
                return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.raw.close()

    def flush(self) -> None:
        """Send everything written so far, in one piece."""
        self.raw.sendall(self._outgoing.read())

    def recv(self, size: int) -> bytes:
        """Return at least one byte from the server; nothing if it closed the connection."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    def _receive(self) -> None:
        if data := self.raw.recv(65536):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

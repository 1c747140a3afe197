"""The limits of a handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kes_core.server.wire.tls_connection import MAX_HANDSHAKE, MAX_HANDSHAKE_READS

if TYPE_CHECKING:
    from kes_native._native import Connection

__all__ = ["PLAIN_HTTP_ANSWER", "Handshake"]

PLAIN_HTTP_ANSWER: Final = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
_SLICE: Final = 4 * 1024
"""Bytes of a handshake that are read at once, as in `kes_core.server.wire.tls_connection`."""
_METHODS: Final = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PATCH ", b"PRI ")


class Handshake:
    """Counts what a client sends until its handshake is done."""

    def __init__(self) -> None:
        self.is_plain_http = False
        self._reads = 0
        self._size = 0

    @property
    def has_begun(self) -> bool:
        """Whether the client has sent anything."""
        return self._reads > 0

    def receive(self, native: Connection, data: bytes) -> str:
        """Pass on what the client sends; return why the handshake has failed, or nothing.

        Raises:
            TLSError: The client can't be identified.
        """
        self._reads += 1
        if self._reads > MAX_HANDSHAKE_READS:
            return f"the client sends its handshake in more than {MAX_HANDSHAKE_READS} pieces"
        if self._reads == 1 and data.startswith(_METHODS):
            self.is_plain_http = True
            return "the client speaks plain HTTP"
        rest = memoryview(data)
        while rest and not native.established:
            size = min(_SLICE, MAX_HANDSHAKE - self._size)
            if not size:
                return f"the client's handshake has more than {MAX_HANDSHAKE:,} bytes"
            piece, rest = bytes(rest[:size]), rest[size:]
            self._size += len(piece)
            native.receive(piece)
            if native.failure:
                return native.failure
        if rest:
            native.receive(bytes(rest))
        return ""

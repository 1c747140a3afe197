"""Accepting connections: one at a time, within limits, with clients preferred that take part in the handshake.

asyncio's own servers accept as many connections in one turn as wait in the queue, before anything can turn one away,
and log a traceback for each when file descriptors run out. The key store needs descriptors as well.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from kes_core.faults import log_fault
from kes_core.server.wire.tls_connection import TLSConnection

__all__ = ["Acceptor", "Gate"]

logger = logging.getLogger("kes.server")

SILENCE_TIMEOUT: Final = 5.0
"""Seconds that a client may take to send the first byte of its handshake."""
BACKOFF: Final = 0.1
"""Seconds without accepting after the system could not give out a connection."""
REPORT_INTERVAL: Final = 1.0
"""Seconds between two lines in the log about connections that were not served."""
MIN_HANDSHAKES: Final = 32
_SHARE_OF_HANDSHAKES: Final = 8


class Gate:
    """Decides which connections may be open; those whose handshake is under way are the first to go.

    Opening connections costs a stranger nothing. So handshakes have a limit of their own, and where there is no room a
    client that has sent nothing yet makes way for the next one.
    """

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        self.max_handshakes = min(max_connections, max(MIN_HANDSHAKES, max_connections // _SHARE_OF_HANDSHAKES))
        self._open = 0
        self._handshakes: dict[TLSConnection, float] = {}
        """When each of them began, the oldest first."""
        self._turned_away = 0
        self._dropped = 0
        self._problem = ""
        self._reported = -REPORT_INTERVAL

    def admit(self, tls: TLSConnection, now: float) -> bool:
        """Return whether a new connection may stay. Another one may be closed for it."""
        is_full = self._open >= self.max_connections
        if is_full or len(self._handshakes) >= self.max_handshakes:
            victim = next((tls for tls in self._handshakes if not tls.shaking_hands), None)
            if victim is None and is_full:
                self._turned_away += 1
                return False
            self._drop(victim or next(iter(self._handshakes)))
        self._open += 1
        self._handshakes[tls] = now
        return True

    def established(self, tls: TLSConnection) -> None:
        """Note that a handshake has succeeded."""
        self._handshakes.pop(tls, None)

    def closed(self, tls: TLSConnection) -> None:
        """Note that a connection that was admitted is gone."""
        self._open -= 1
        self._handshakes.pop(tls, None)

    def exhausted(self, error: OSError) -> None:
        """Note that the system could not give out a connection, and free a descriptor if that may help."""
        self._problem = os.strerror(error.errno) if error.errno else str(error)
        victim = next((tls for tls in self._handshakes if not tls.shaking_hands), None)
        if victim is not None:
            self._drop(victim)

    def check(self, now: float) -> None:
        """Close connections of clients that say nothing, and log what happened since the last line."""
        for tls, began in list(self._handshakes.items()):
            if now - began <= SILENCE_TIMEOUT:
                break
            if not tls.has_begun:
                self._drop(tls)
        if now - self._reported >= REPORT_INTERVAL and self._report():
            self._reported = now

    def _drop(self, tls: TLSConnection) -> None:
        del self._handshakes[tls]
        self._dropped += 1
        tls.abort()

    def _report(self) -> bool:
        """Log one line at most; return whether there was one."""
        if self._problem:
            logger.warning("can't accept connections for the moment: %s", self._problem)
            self._problem = ""
        elif self._turned_away:
            logger.warning(
                "turned away %d connections: %d are open, which is the limit", self._turned_away, self.max_connections
            )
            self._turned_away = 0
        elif self._dropped:
            logger.info(
                "closed %d connections without a handshake, so that others find room or since they said nothing for "
                "%.0f seconds",
                self._dropped,
                SILENCE_TIMEOUT,
            )
            self._dropped = 0
        else:
            return False
        return True


class Acceptor:
    """Accepts the connections of one listening socket, one at a time. Other processes may share the socket."""

    def __init__(
        self, sock: socket.socket, make_protocol: Callable[[], TLSConnection], on_error: Callable[[OSError], None]
    ) -> None:
        """Begin to accept; needs a running event loop.

        Args:
            sock: Listens already. It is closed by `close`.
            make_protocol: Called for each connection.
            on_error: Called when the system could not give out a connection. It is tried again a little later.
        """
        self._sock = sock
        self._make_protocol = make_protocol
        self._on_error = on_error
        sock.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Accept no more connections."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _address = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._on_error(error)
                    await asyncio.sleep(BACKOFF)
                continue
            # This takes a turn of the event loop, in which connections that are closed give back their descriptors.
            try:
                await loop.connect_accepted_socket(self._make_protocol, connection)
            except Exception as error:
                connection.close()
                log_fault(logger, "internal error", error=error)

"""Accept connections one at a time, within limits, and prefer clients that continue their handshake.

Several workers share a listening socket. Each leaves a new connection for a moment to those that have fewer.

asyncio's own servers accept all waiting connections in one turn of the event loop, before the server can reject any.
When file descriptors run out, they log a traceback for each connection. The key store needs descriptors too.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from typing import Final

from kes_core.faults import log_fault
from kes_core.server.wire.spread import Spread
from kes_core.server.wire.tls_connection import TLSConnection

__all__ = ["Acceptor", "Gate", "connection_limit"]

logger = logging.getLogger("kes.server")

RESERVED_FILES: Final = 128
"""File descriptors reserved for the key store, logs and listeners."""
MAX_CONNECTIONS: Final = 10_000
SILENCE_TIMEOUT: Final = 5.0
"""Seconds that a client may take to send the first byte of its handshake."""
BACKOFF: Final = 0.1
"""Seconds until the next attempt after a failed accept."""
REPORT_INTERVAL: Final = 1.0
"""The shortest time between two log lines about connections that were not served, in seconds."""
MIN_HANDSHAKES: Final = 32
_SHARE_OF_HANDSHAKES: Final = 8
STEP: Final = 0.002
"""Seconds that a worker leaves a new connection to each of those that have fewer, up to `MAX_STEPS`. They take it much
sooner, unless they are busy or hang."""
MAX_STEPS: Final = 5
BURST_MARGIN: Final = 8
"""How many connections more than others a worker may have in a burst: half of its handshakes in progress, up to this.
To step back for each connection would cost a tenth of the new connections a second, or more. Connections after the
burst even it out."""
BURST: Final = 0.02
"""Seconds after the last connection in which a burst goes on."""
MAX_UNASKED: Final = 8
"""Connections that a worker takes after it has waited in vain, until it waits again. A worker does not finish more
handshakes in `STEP` seconds, so others that hang do not make it slower."""


class Gate:
    """Limits open connections. At a limit, it closes connections whose handshake is incomplete.

    An attacker without credentials can open connections at no cost. So incomplete handshakes have a lower limit. When
    it is reached, a client that has not sent anything loses its connection to the next client.

    Other workers learn from `spread` how many connections are open. Those in their handshake count too: a handshake is
    the work of many requests, and a burst of new connections would not be spread if they counted after it.
    """

    spread: Spread | None = None

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        self.max_handshakes = min(max_connections, max(MIN_HANDSHAKES, max_connections // _SHARE_OF_HANDSHAKES))
        self._open = 0
        self._handshakes: dict[TLSConnection, float] = {}
        """The start times of incomplete handshakes, oldest first."""
        self._rejected = 0
        self._dropped = 0
        self._problem = ""
        self._reported = -REPORT_INTERVAL

    def admit(self, tls: TLSConnection, now: float) -> bool:
        """Return whether a new connection may stay. To make room, this may close another one."""
        is_full = self._open >= self.max_connections
        if is_full or len(self._handshakes) >= self.max_handshakes:
            victim = next((tls for tls in self._handshakes if not tls.in_handshake), None)
            if victim is None and is_full:
                self._rejected += 1
                self._note()
                return False
            self._drop(victim or next(iter(self._handshakes)))
        self._open += 1
        self._handshakes[tls] = now
        self._note()
        return True

    def established(self, tls: TLSConnection) -> None:
        """Record that a handshake has succeeded."""
        self._handshakes.pop(tls, None)
        self._note()

    def closed(self, tls: TLSConnection) -> None:
        """Record that an admitted connection is closed."""
        self._open -= 1
        self._handshakes.pop(tls, None)
        self._note()

    def accept_failed(self, error: OSError) -> None:
        """Record that accepting failed. Close a connection without a handshake, if any, to free a file descriptor."""
        self._problem = os.strerror(error.errno) if error.errno else str(error)
        victim = next((tls for tls in self._handshakes if not tls.in_handshake), None)
        if victim is not None:
            self._drop(victim)

    def check(self, now: float) -> None:
        """Close connections of clients that send nothing, and log problems since the last call."""
        for tls, began in list(self._handshakes.items()):
            if now - began <= SILENCE_TIMEOUT:
                break
            if not tls.has_begun:
                self._drop(tls)
        if now - self._reported >= REPORT_INTERVAL and self._report():
            self._reported = now

    def _note(self) -> None:
        if self.spread is not None:
            self.spread.handshakes = len(self._handshakes)
            self.spread.note(self._open)

    def _drop(self, tls: TLSConnection) -> None:
        del self._handshakes[tls]
        self._dropped += 1
        tls.abort()

    def _report(self) -> bool:
        """Log at most one line; return whether there was one."""
        if self._problem:
            logger.warning("can't accept connections at the moment: %s", self._problem)
            self._problem = ""
        elif self._rejected:
            logger.warning(
                "turned away %d connections: %d are open, which is the limit", self._rejected, self.max_connections
            )
            self._rejected = 0
        elif self._dropped:
            logger.info(
                "closed %d connections without a handshake, to make room for others or after %.0f seconds of silence",
                self._dropped,
                SILENCE_TIMEOUT,
            )
            self._dropped = 0
        else:
            return False
        return True


class Acceptor:
    """Accepts the connections of one listening socket, one at a time. Other processes may share the socket.

    A new connection wakes all of them. One that has more connections than others steps back: it waits for a few
    milliseconds, in which they can take what waits. If they do not, it takes the connection itself. So they need no
    agreement, and one that hangs, is busy or has just died delays connections only a little.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], TLSConnection],
        on_error: Callable[[OSError], None],
        spread: Spread | None = None,
    ) -> None:
        """Start to accept, on the running event loop.

        Args:
            sock: A listening socket. `close` closes it.
            make_protocol: Called for each connection.
            on_error: Called when an accept fails. The next attempt follows after `BACKOFF` seconds.
            spread: The connections of the processes that share the socket, if there are others.
        """
        self._sock = sock
        self._make_protocol = make_protocol
        self._on_error = on_error
        self._spread = spread
        self._unasked = 0
        """How many connections it may take now, even if others have fewer."""
        self._last = -BURST
        """When it took one."""
        self._share = 1
        """How many it may take the next time that others have left some."""
        sock.setblocking(False)
        self._accepts(True)
        self._task = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Stop accepting and close the socket."""
        self._accepts(False)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                if self._spread is None:
                    connection, _address = await loop.sock_accept(self._sock)
                else:
                    connection = await self._accept_in_turn(self._spread)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._on_error(error)
                    self._accepts(False)
                    await asyncio.sleep(BACKOFF)
                    self._accepts(True)
                continue
            # This takes a turn of the event loop, in which closed connections release their descriptors.
            try:
                await loop.connect_accepted_socket(self._make_protocol, connection)
            except Exception as error:
                connection.close()
                log_fault(logger, "internal error", error=error)

    def _accepts(self, accepts: bool) -> None:
        if self._spread is not None:
            self._spread.accepts(accepts)

    async def _accept_in_turn(self, spread: Spread) -> socket.socket:
        """Accept a connection, after the processes that have fewer had the chance to take it."""
        while True:
            if self._unasked or not spread.fewer(self._margin(spread)):
                try:
                    connection, _address = self._sock.accept()
                except BlockingIOError:
                    self._unasked = 0
                    self._share = 1
                else:
                    spread.expect()
                    self._last = asyncio.get_running_loop().time()
                    self._unasked = max(0, self._unasked - 1)
                    connection.setblocking(False)
                    return connection
            await self._wait_for_connections()
            await self._step_back(spread)

    async def _wait_for_connections(self) -> None:
        loop = asyncio.get_running_loop()
        some_wait = asyncio.Event()
        loop.add_reader(self._sock, some_wait.set)
        try:
            await some_wait.wait()
        finally:
            loop.remove_reader(self._sock)

    def _margin(self, spread: Spread) -> int:
        """Return how many connections more than the others this process may have without stepping back."""
        in_burst = asyncio.get_running_loop().time() - self._last < BURST
        return min(spread.handshakes // 2, BURST_MARGIN) if in_burst else 0

    async def _step_back(self, spread: Spread) -> None:
        """Leave the waiting connections for a moment to the processes that have fewer, and then take a few.

        Take one the first time: on a busy machine, the others may need longer. Take more each time that they leave some
        again: they may hang.
        """
        margin, fewest = self._margin(spread), spread.fewest()
        steps = 0
        while steps < min(spread.fewer(margin), MAX_STEPS):
            await asyncio.sleep(STEP)
            steps += 1
        if steps and spread.fewer(margin):
            self._unasked = self._share
            self._share = min(2 * self._share, MAX_UNASKED) if spread.fewest() == fewest else self._share // 2 + 1


def connection_limit() -> int:
    """Raise the limit of open files as far as allowed; return the highest number of open connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(16, min(MAX_CONNECTIONS, soft - RESERVED_FILES))

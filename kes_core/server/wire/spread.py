"""How many connections each worker has open, in a file in memory that the workers of a server share.

They also share the listening sockets: a new connection wakes all of them, and goes to the first that accepts it. To
spread connections evenly, a worker leaves a new one to those that have fewer (see `accepting.Acceptor`).

No worker relies on these numbers. Each writes its own without a lock, and the others may read an old one. Then a
connection goes to another worker, or waits a few milliseconds.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

__all__ = ["Spread", "clear", "create"]

_NUMBER: Final = struct.Struct("=I")
_ABSENT: Final = 2**32 - 1
"""The number of a worker that accepts no connections. All others are lower, so no worker waits for this one."""


def create(workers: int) -> int:
    """Make the file that the workers share; return its descriptor. No worker accepts connections yet."""
    descriptor = os.memfd_create("kes-connections")
    os.pwrite(descriptor, _NUMBER.pack(_ABSENT) * workers, 0)
    return descriptor


def clear(descriptor: int, number: int) -> None:
    """Record that the worker `number`, from 1, accepts no more connections, because it has ended."""
    os.pwrite(descriptor, _NUMBER.pack(_ABSENT), (number - 1) * _NUMBER.size)


class Spread:
    """The numbers of all workers, as one of them uses them."""

    def __init__(self, descriptor: int, number: int) -> None:
        """Set up for the worker `number`, from 1, which does not accept connections yet.

        Args:
            descriptor: From `create`.
            number: The number of the worker.
        """
        self._numbers = memoryview(mmap.mmap(descriptor, 0)).cast("I")
        self._place = number - 1
        self._open = 0
        self._accepts = False
        self.handshakes = 0
        """How many connections of this worker are in their handshake."""

    def accepts(self, accepts: bool) -> None:
        """Record whether this worker accepts connections now."""
        self._accepts = accepts
        self._publish(self._open)

    def expect(self) -> None:
        """Record that this worker has taken a connection. `note` follows once it knows whether the connection stays."""
        self._publish(self._open + 1)

    def note(self, connections: int) -> None:
        """Record how many connections this worker has open, those in their handshake included."""
        self._open = connections
        self._publish(connections)

    def fewer(self, margin: int = 0) -> int:
        """Return how many workers accept connections and have fewer than this one, by more than `margin`."""
        limit = self._open - margin
        return sum(number < limit for number in self._numbers)

    def fewest(self) -> int:
        """Return the lowest number of connections of a worker."""
        return min(self._numbers)

    def _publish(self, connections: int) -> None:
        self._numbers[self._place] = connections if self._accepts else _ABSENT

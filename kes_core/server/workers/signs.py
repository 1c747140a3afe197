"""Signs of life of the workers, in a file in memory that they share with the supervisor.

The watchdog of a worker gives a sign every few seconds, even while a plugin blocks the event loop. Only a worker whose
threads all stand still gives none: compiled code may keep Python's lock (GIL).
"""

from __future__ import annotations

import os
import struct
import time
from typing import Final

__all__ = ["SILENCE", "Listener", "give"]

SILENCE: Final = 90.0
"""Seconds without a sign after which a worker counts as hanging."""
_LONGEST_STEP: Final = 5.0
"""The most seconds that count between two calls of `Listener.silence`: all processes may have been stopped."""
_FORMAT: Final = struct.Struct("=d")


def give(descriptor: int, number: int) -> None:
    """Give a sign of life of the worker `number` in the file `descriptor`."""
    os.pwrite(descriptor, _FORMAT.pack(time.monotonic()), number * _FORMAT.size)


class Listener:
    """Notes for how long a worker has given no sign."""

    def __init__(self, descriptor: int, number: int) -> None:
        """Listen to the worker `number` from now on."""
        self._descriptor = descriptor
        self._place = number * _FORMAT.size
        self._last = b""
        self._silence = 0.0
        self._asked = time.monotonic()

    def silence(self) -> float:
        """Return for how many seconds there was no sign. Call this every second or so."""
        sign, now = os.pread(self._descriptor, _FORMAT.size, self._place), time.monotonic()
        self._silence = self._silence + min(now - self._asked, _LONGEST_STEP) if sign == self._last else 0.0
        self._last, self._asked = sign, now
        return self._silence

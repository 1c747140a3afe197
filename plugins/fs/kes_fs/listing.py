"""The names of the keys in a directory, in order. A large directory is not read again while it does not change."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kes_fs.access import is_key

__all__ = ["Listing"]

SETTLED: Final = 2.0
"""Seconds after a change of a directory in which a second change may leave the same time. File systems keep times in
steps of up to two seconds."""
MAX_AGE: Final = 30.0
"""Seconds for which names are kept: the clock of a file server may differ from ours, and the rule above may fail."""


class _Names(NamedTuple):
    """Names that were read, with the state of the directory before that."""

    names: Sequence[str]
    state: tuple[int, ...]
    read_at: float


class Listing:
    """The names of the keys in a directory. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: _Names | None = None

    def names(self) -> Sequence[str]:
        """Return the names in order.

        Raises:
            OSError: The directory can't be read.
        """
        kept, state = self._kept, self._state()
        if kept is not None and kept.state == state and 0 <= time.monotonic() - kept.read_at < MAX_AGE:
            return kept.names
        began, read_at = time.time(), time.monotonic()
        with os.scandir(self._path) as entries:
            keys = [(entry.name, entry.is_symlink()) for entry in entries if is_key(entry)]
        names = sorted(name for name, _is_link in keys)
        # A symbolic link may lead to a key, or not, without a change of its directory.
        is_lasting = not any(is_link for _name, is_link in keys)
        changed_at = max(state[2:]) / 1e9
        is_settled = changed_at + SETTLED <= began and self._state() == state
        self._kept = _Names(names, state, read_at) if is_lasting and is_settled else None
        return names

    def _state(self) -> tuple[int, ...]:
        """Return what changes when a name is added or removed. Nobody can set the second of the times."""
        status = self._path.stat()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns

"""Audit records in a file, with a chain over them if that is wanted.

Any number of processes write to one file, each all the records of one turn of its event loop at once. A lock sees to it
that the lines and the links of the chain come one after the other. Who rotates the file moves it away: the next record
goes to a new one of the old name. No line is lost or written twice by that, whether or not the server is told (SIGHUP).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from kes_core.audit.chain import ChainLink, chained, link_of

__all__ = ["AuditFileError", "FileSink"]

logger = logging.getLogger("kes.audit")

MAX_WAITING: Final = 10_000
"""Records kept in memory while the file can't be written."""
_STATE_SIZE: Final = 160
_MAX_LINE: Final = 1024 * 1024
_RETRY: Final = 1.0
"""Seconds after which a file that could not be written is tried again."""


class AuditFileError(Exception):
    """The file can't be used. The message names it and says why."""


class FileSink:
    """Writes records to a file, which is made if it is missing, for its owner only."""

    def __init__(self, path: Path, *, chain: bool = False, key: bytes = b"") -> None:
        """Open the file.

        Args:
            path: Where it is. With a chain, `<path>.chain` keeps the chain's end.
            chain: Whether to make a chain.
            key: Of the chain.

        Raises:
            AuditFileError: It can't be opened.
        """
        self._path = path
        self._chain = chain
        self._key = key
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._problem = ""
        self._scheduled: asyncio.Handle | None = None
        self._file = -1
        self._state = -1
        try:
            self._file = _open(path, os.O_APPEND)
            if chain:
                self._state = _open(path.with_name(path.name + ".chain"))
                with _locked(self._state):
                    self._find_end()
        except OSError as error:
            self.close()
            raise AuditFileError(f"the audit log {str(path)!r} can't be opened: {error.strerror}") from None

    def audit(self, event: Mapping[str, Any]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(json.dumps(event, separators=(",", ":")))
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what has been recorded, later if it can't be written now."""
        self._scheduled = None
        if not self._flush():
            self._scheduled = asyncio.get_running_loop().call_later(_RETRY, self.flush)

    def take_over(self, other: FileSink) -> None:
        """Take the records that `other`, which is about to be closed, can't write; before any of one's own."""
        if other._flush():
            return
        self._waiting.extendleft(reversed(other._waiting))
        self._lost += other._lost
        other._waiting.clear()
        other._lost = 0
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self.flush)

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._flush()
        for descriptor in (self._file, self._state):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._state = -1
        if lost := len(self._waiting) + self._lost:
            logger.error("the audit log %r is closed; %d records are lost", str(self._path), lost)
            self._waiting.clear()
            self._lost = 0

    def _flush(self) -> bool:
        """Write what has been recorded; tell whether nothing is left."""
        if not self._waiting or self._file < 0:
            return True
        try:
            self._write()
        except OSError as error:
            problem = error.strerror or type(error).__name__
            if problem != self._problem:
                logger.error("the audit log %r can't be written: %s; records wait", str(self._path), problem)
            self._problem = problem
            return False
        self._waiting.clear()
        if self._problem or self._lost:
            logger.warning("the audit log %r can be written again; %d records are lost", str(self._path), self._lost)
            self._problem, self._lost = "", 0
        return True

    def _write(self) -> None:
        if self._chain:
            with _locked(self._state):
                self._follow_rotation()
                self._append_chained()
            return
        while True:
            with _locked(self._file):
                if not self._follow_rotation():
                    self._append("".join(line + "\n" for line in self._waiting))
                    return

    def _follow_rotation(self) -> bool:
        """Open the file anew if it has been moved away; tell whether it had."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        if found is not None and os.path.samestat(found, os.fstat(self._file)):
            return False
        renewed = _open(self._path, os.O_APPEND)
        # Under the old number, which the lock that is held belongs to.
        os.dup2(renewed, self._file, inheritable=False)
        os.close(renewed)
        return True

    def _append(self, text: str) -> None:
        """Append whole lines or nothing."""
        data = text.encode("ascii")
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            while written < len(data):  # the disk is full, unless the rest fits now
                written += os.write(self._file, data[written:])
        except OSError:
            with contextlib.suppress(OSError):  # what went wrong before tells more
                os.ftruncate(self._file, size)
            raise

    def _append_chained(self) -> None:
        last, size = self._end(), os.fstat(self._file).st_size
        lines: list[str] = []
        for record in self._waiting:
            line, last = chained(record, last, self._key, first=not size and not lines)
            lines.append(line + "\n")
        self._append("".join(lines))
        self._save_state(last)

    # The chain's end

    def _end(self) -> ChainLink:
        """Return the chain's end. The note of it is good only if it was made when the file was as it is now."""
        end, size = self._load_state()
        if os.fstat(self._file).st_size in {0, size}:  # 0: the file is new, and goes on from the one before it
            return end
        self._find_end()
        return self._load_state()[0]

    def _load_state(self) -> tuple[ChainLink, int]:
        """Return the chain's end as it was noted, with the size that the file had then."""
        try:
            state = json.loads(os.pread(self._state, _STATE_SIZE, 0))
            return ChainLink(int(state["n"]), bytes.fromhex(state["hash"])), int(state["size"])
        except (ValueError, KeyError, TypeError):
            return ChainLink(), 0

    def _save_state(self, end: ChainLink) -> None:
        state = {"n": end.number, "hash": end.hash.hex(), "size": os.fstat(self._file).st_size}
        os.pwrite(self._state, (json.dumps(state).ljust(_STATE_SIZE - 1) + "\n").encode("ascii"), 0)

    def _find_end(self) -> None:
        """See where the chain ends: a process may have died between a record and the note of it."""
        (kept, _size), last = self._load_state(), self._last_line()
        if last is None:
            return  # a new file, which goes on from the one before it
        found = link_of(last)
        if found is None:
            logger.warning(
                "the last line of the audit log %r is no record of a chain; the chain goes on", str(self._path)
            )
        elif found.number > kept.number:
            self._save_state(found)
        elif found.number < kept.number:
            logger.error(
                "the records %d to %d are missing at the end of the audit log %r",
                found.number + 1,
                kept.number,
                str(self._path),
            )

    def _last_line(self) -> str | None:
        size = os.fstat(self._file).st_size
        if not size:
            return None
        start = max(0, size - _MAX_LINE)
        tail = os.pread(self._file, size - start, start)
        if not tail.endswith(b"\n"):  # cut off by a power failure: it must not swallow the next one
            os.write(self._file, b"\n")
        return tail.rstrip(b"\n").rpartition(b"\n")[2].decode("utf-8", "replace")


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

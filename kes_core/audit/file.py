"""Write audit records to a file, with an optional hash chain.

Several processes can write to one file. Each writes the records of several requests at once, under a lock, so that
lines do not mix and the chain stays in order. To rotate the file, rename it: the next record goes to a new file of the
old name. No line is lost or written twice, with or without SIGHUP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path
from typing import Final

from kes_core.audit.chain import ChainLink, make_line, parse_link
from kes_core.audit.event import Ended, line_start
from kes_core.audit.lines import Appender, LineSink, MakeAppender
from kes_core.counters import LOST_RECORDS

__all__ = ["AuditFileError", "FileSink"]

logger = logging.getLogger("kes.audit")

MAX_WAITING: Final = 10_000
"""The limit of records that wait in memory while the file can't be written."""
_STATE_SIZE: Final = 160
_MAX_LINE: Final = 1024 * 1024
_RETRY: Final = 1.0
"""Seconds until the next attempt after a failed write."""


class AuditFileError(Exception):
    """The file can't be used. The message names the file and says why."""


class FileSink(LineSink):
    """Writes records to a file. Creates the file if it is missing, readable by its owner only."""

    def __init__(self, path: Path, *, chain: bool = False, key: bytes = b"") -> None:
        """Open the file.

        Args:
            path: The file. With a chain, `<path>.chain` stores the end of the chain.
            chain: Whether to add a hash chain.
            key: The chain's key for HMAC; empty for plain hashes.

        Raises:
            AuditFileError: The file can't be opened.
        """
        self._path = path
        self._name = str(path)
        self._chain = chain
        self._key = key
        self._waiting: list[str] = []
        self._lost = 0
        self._problem = ""
        self._retry: asyncio.Handle | None = None
        self._file = -1
        self._device = self._inode = 0
        """Those of the open file."""
        self._make_appender: MakeAppender | None = None
        self._appender: Appender | None = None
        """For the open file."""
        self._may_be_cut = True
        """Whether the file may end in the middle of a line."""
        self._state = -1
        self._saved: tuple[bytes, tuple[ChainLink, int]] = (b"", (ChainLink(), 0))
        """What this process last saved as the end of the chain, as bytes and as `_load_state` returns it."""
        try:
            self._file = _open(path, os.O_APPEND)
            self._note_place()
            if chain:
                self._state = _open(path.with_name(path.name + ".chain"))
                with _locked(self._state):
                    self._recover_end()
        except OSError as error:
            self.finish()
            raise AuditFileError(f"the audit log {str(path)!r} can't be opened: {error.strerror}") from None

    def write_lines(self, lines: Sequence[str]) -> None:
        waiting = self._waiting
        waiting.extend(lines)
        if len(waiting) > MAX_WAITING:
            self._drop(len(waiting) - MAX_WAITING)
        if not self._problem and not self._flush():
            self._retry_later()

    def speed_up(self, make_appender: MakeAppender | None) -> None:
        """Let an appender write the records where that is possible: those of a chain are linked here."""
        if not self._chain:
            self._make_appender = make_appender
            self._note_place()

    def write_ended(self, ended: list[Ended]) -> None:
        appender = self._appender
        if appender is not None and not (self._waiting or self._may_be_cut):
            if appender.append(line_start(), ended):
                return
            self._may_be_cut = True
        super().write_ended(ended)

    def take_over(self, other: FileSink) -> None:
        """Take the records that `other` can't write before it is closed. They come before this sink's own."""
        if other._flush():
            return
        self._waiting[:0] = other._waiting
        self._lost += other._lost
        other._waiting.clear()
        other._lost = 0
        self._try_again()

    def _drop(self, count: int) -> None:
        """Lose the oldest records that wait."""
        del self._waiting[:count]
        self._lost += count
        LOST_RECORDS.add("file", count)

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY, self._try_again)

    def _try_again(self) -> None:
        """Write the waiting records; retry later if that fails."""
        self._retry = None
        if not self._flush():
            self._retry_later()

    async def close(self) -> None:
        self.finish()

    def finish(self) -> None:
        """Write the waiting records and close the file."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._flush()
        self._appender = None
        for descriptor in (self._file, self._state):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._state = -1
        LOST_RECORDS.add("file", len(self._waiting))
        if lost := len(self._waiting) + self._lost:
            logger.error("the audit log %r is closed; %d records are lost", self._name, lost)
            self._waiting.clear()
            self._lost = 0

    def _flush(self) -> bool:
        """Write the waiting records; return whether that succeeded."""
        if not self._waiting or self._file < 0:
            return True
        try:
            self._write()
        except OSError as error:
            problem = error.strerror or type(error).__name__
            if problem != self._problem:
                logger.error("the audit log %r can't be written: %s; records wait in memory", self._name, problem)
            self._problem = problem
            return False
        self._waiting.clear()
        if self._problem or self._lost:
            logger.warning("the audit log %r can be written again; %d records are lost", self._name, self._lost)
            self._problem, self._lost = "", 0
        return True

    def _write(self) -> None:
        if self._chain:
            with _locked(self._state):
                self._reopen_if_rotated()
                self._append_chained()
            return
        data = ("\n".join(self._waiting) + "\n").encode("ascii")
        file = self._file
        while True:
            # Without `_locked`, which takes as long as both calls.
            flock(file, LOCK_EX)
            try:
                if not self._reopen_if_rotated():
                    self._append(data)
                    return
            finally:
                flock(file, LOCK_UN)

    def _reopen_if_rotated(self) -> bool:
        """Open a new file if the old one was renamed or removed; return whether it was."""
        try:
            found = os.stat(self._name)  # noqa: PTH116 # Path.stat() takes half as long again
        except FileNotFoundError:
            pass
        else:
            # No other file can have the inode of one that is open.
            if found.st_ino == self._inode and found.st_dev == self._device:
                return False
        opened = _open(self._path, os.O_APPEND)
        # Keep the number of the descriptor: the lock is released by it.
        os.dup2(opened, self._file, inheritable=False)
        os.close(opened)
        self._may_be_cut = True
        self._note_place()
        return True

    def _note_place(self) -> None:
        status = os.fstat(self._file)
        self._device, self._inode = place = status.st_dev, status.st_ino
        if self._make_appender is not None:
            self._appender = self._make_appender(self._file, os.fsencode(self._path), *place)

    def _append(self, data: bytes) -> None:
        """Append all of `data`, or nothing. The caller has the lock."""
        if self._may_be_cut:
            data = b"\n" * self._is_cut() + data
        self._may_be_cut = True
        written = os.write(self._file, data)
        if written == len(data):
            self._may_be_cut = False
            return
        size = os.fstat(self._file).st_size - written
        try:
            while written < len(data):  # the disk was full: either the rest fits now, or this raises
                written += os.write(self._file, data[written:])
            self._may_be_cut = False
        except OSError:
            # The error of the write explains more. A file may be for appending only: then a part of a line stays.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def _is_cut(self) -> bool:
        """Return whether the file ends in the middle of a line, as after a power failure."""
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def _append_chained(self) -> None:
        last, size = self._load_end()
        lines: list[str] = []
        for record in self._waiting:
            line, last = make_line(record, last, self._key, first=not size and not lines)
            lines.append(line)
        data = ("\n".join(lines) + "\n").encode("ascii")
        self._append(data)
        self._save_state(last, size + len(data))

    # The chain's end

    def _load_end(self) -> tuple[ChainLink, int]:
        """Return the end of the chain, and the size of the file.

        The saved end is valid only if the size of the file has not changed since.
        """
        (end, saved_size), size = self._load_state(), os.fstat(self._file).st_size
        if size in (0, saved_size):  # 0: a new file, which continues the chain of the last one
            return end, size
        self._recover_end()
        return self._load_state()[0], os.fstat(self._file).st_size

    def _load_state(self) -> tuple[ChainLink, int]:
        """Return the saved end of the chain, and the size of the file when it was saved."""
        data = os.pread(self._state, _STATE_SIZE, 0)
        if data == self._saved[0]:  # no other process has written since
            return self._saved[1]
        try:
            state = json.loads(data)
            return ChainLink(int(state["n"]), bytes.fromhex(state["hash"])), int(state["size"])
        except (ValueError, KeyError, TypeError):
            return ChainLink(), 0

    def _save_state(self, end: ChainLink, size: int) -> None:
        text = f'{{"n": {end.number}, "hash": "{end.hash.hex()}", "size": {size}}}'
        data = (text.ljust(_STATE_SIZE - 1) + "\n").encode("ascii")
        os.pwrite(self._state, data, 0)
        self._saved = (data, (end, size))

    def _recover_end(self) -> None:
        """Find the end of the chain in the file: a process may have died after a record and before it saved the end."""
        (saved, _size), last = self._load_state(), self._last_line()
        if last is None:
            return  # a new file, which continues the chain of the last one
        found = parse_link(last)
        if found is None:
            logger.warning(
                "the last line of the audit log %r is not a record of a chain; the chain continues", self._name
            )
        elif found.number > saved.number:
            self._save_state(found, os.fstat(self._file).st_size)
        elif found.number < saved.number:
            logger.error(
                "the records %d to %d are missing at the end of the audit log %r",
                found.number + 1,
                saved.number,
                self._name,
            )

    def _last_line(self) -> str | None:
        size = os.fstat(self._file).st_size
        if not size:
            return None
        start = max(0, size - _MAX_LINE)
        tail = os.pread(self._file, size - start, start)
        if not tail.endswith(b"\n"):  # cut off: the next record needs a line of its own
            os.write(self._file, b"\n")
        return tail.rstrip(b"\n").rpartition(b"\n")[2].decode("utf-8", "replace")


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    flock(descriptor, LOCK_EX)
    try:
        yield
    finally:
        flock(descriptor, LOCK_UN)

"""Keys as files. Creating a key is atomic and durable and never overwrites, even if other servers use the directory.

The store writes a key to a temporary file, syncs it, and links it to its name. The link appears complete or not at all,
fails if the name is taken, and is durable once the directory is synced. So a process that is killed at any moment
leaves a key complete or absent, and of several processes that create the same key one wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import stat
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from kes_core import (
    BlockingCalls,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
    Page,
    page_of,
)
from kes_core.keystore import PAGE_SIZE
from kes_core.names import is_valid_entry
from kes_fs.access import check_access
from kes_fs.listing import Listing

__all__ = ["FileKeyStore"]

logger = logging.getLogger("kes.fs")

P = ParamSpec("P")
T = TypeVar("T")

MAX_VALUE_SIZE: Final = 64 * 1024
"""The longest value of a key, in bytes. A longer file is not a key."""
TIME_LIMIT: Final = 10.0
"""Seconds after which a file system that does not answer counts as unreachable."""

_TEMPORARY: Final = ".new-"
"""The beginning of the names of temporary files. No key has such a name: names have no dot."""
_IS_TEMPORARY: Final = re.compile(re.escape(_TEMPORARY) + "[0-9a-f]{32}")
_ABANDONED: Final = 3600.0
"""Seconds after which a temporary file counts as abandoned, if the file system has no locks."""
_UNREACHABLE: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO}
"""The errors of a network file system that lost its server (EIO on a soft mount), and of a lost disk."""
_NO_HARD_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_OPEN: Final = os.O_NONBLOCK | os.O_CLOEXEC
"""Do not wait for the other end of a pipe."""


class FileKeyStore(KeyStore):
    """Keeps keys in a directory."""

    check_interval = 1.0  # reading a file is cheap

    def __init__(self, path: Path, *, time_limit: float = TIME_LIMIT) -> None:
        """Use the directory at `path`, which must exist: `open` creates it.

        Args:
            path: The directory. A relative path starts at the current directory of the process.
            time_limit: Seconds that one call may take.
        """
        self._path = path.absolute()
        self._time_limit = time_limit
        self._calls = BlockingCalls("fs")
        self._is_read_only = False
        """Whether the server may not write into the directory, as far as is known."""
        self._left: set[Path] = set()
        """Temporary files of this store that it could not remove."""
        self._listing = Listing(self._path)
        self._unusable = f"the key directory {str(self._path)!r} can't be used"

    def __repr__(self) -> str:
        return f"<FileKeyStore {str(self._path)!r}>"

    @classmethod
    async def open(cls, path: Path) -> FileKeyStore:
        """Return the store in the directory at `path`. Create the directory if it is missing.

        Raises:
            KeyStoreError: It can't be created or used, or others could read or change the keys.
        """
        store = cls(path)
        try:
            await store._run(store._unusable, store._prepare)
        except BaseException:
            await store.close()
            raise
        return store

    async def check(self) -> bool:
        """Check that the directory exists and can be used. Change nothing in it.

        Returns:
            Whether the server may write into it.

        Raises:
            KeyStoreError: It can't be used, or others could read or change the keys.
        """
        await self._run(self._unusable, self._check)
        return not self._is_read_only

    async def status(self) -> None:
        await self._run(self._unusable, self._status)

    async def create(self, name: str, value: bytes) -> None:
        await self._run(f"can't create key {name!r} in {str(self._path)!r}", self._create, self._file(name), value)

    async def get(self, name: str) -> bytes:
        return await self._run(f"can't read key {name!r} in {str(self._path)!r}", self._get, self._file(name))

    async def delete(self, name: str) -> None:
        await self._run(f"can't delete key {name!r} in {str(self._path)!r}", self._delete, self._file(name))

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return await self._run(f"can't list the keys in {str(self._path)!r}", self._list, prefix, start, limit)

    async def close(self) -> None:
        self._calls.close()

    def _file(self, name: str) -> Path:
        """Return the file of a key. The server checks names too, but a path must not depend on that."""
        if not is_valid_entry(name):
            raise KeyStoreError("not a valid name for a key")
        return self._path / name

    async def _run(self, trouble: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a worker thread: a disk can be slow, and a network file system hang.

        `trouble` is how the error of a call that fails begins.
        """
        try:
            async with asyncio.timeout(self._time_limit):
                return await self._calls.run(function, *args, **kwargs)
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:  # ours, not one of the file system
                raise KeyStoreUnreachableError(f"{trouble}: no answer within {self._time_limit:g} s") from None
            kind = KeyStoreUnreachableError if error.errno in _UNREACHABLE else KeyStoreError
            raise kind(f"{trouble}: {error.strerror or error}") from error

    # On a worker thread

    def _prepare(self) -> None:
        if _make_directory(self._path):
            # Either this is the server's first start, or the disk is missing, and the keys with it.
            logger.warning(
                "the key directory %r was missing and was created: it holds no keys; is the disk mounted?",
                str(self._path),
            )
        self._check()
        if self._is_read_only:
            logger.warning(
                "the server may only read the key directory %r: it can't create or delete keys", str(self._path)
            )
        else:
            self._remove_leftovers()

    def _check(self) -> None:
        self._is_read_only = not check_access(self._path)

    def leftovers(self) -> Sequence[Path]:
        """Return the temporary files in the directory: of servers that are writing a key, or were killed."""
        with os.scandir(self._path) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if _IS_TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            ]

    def _remove_leftovers(self) -> None:
        """Remove temporary files that killed servers left behind. They may hold the text of a key."""
        removed = sum(_remove_leftover(leftover) for leftover in self.leftovers())
        if removed:
            logger.warning(
                "removed %d temporary file(s) with key text that a server left in the key directory %r",
                removed,
                str(self._path),
            )

    def _status(self) -> None:
        os.close(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for path in list(self._left):  # a failed disk may work again
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                self._left.discard(path)

    def _create(self, file: Path, value: bytes) -> None:
        if len(value) > MAX_VALUE_SIZE:
            raise KeyStoreError(f"the value of a key has at most {MAX_VALUE_SIZE} bytes")
        if self._is_read_only and os.path.lexists(file):
            raise EntryExistsError(f"key {file.name!r} already exists")
        with self._temporary() as (temporary, output):
            os.fchmod(output, 0o600)  # regardless of the process's umask
            with os.fdopen(output, "wb", closefd=False) as stream:
                stream.write(value)
            os.fsync(output)
            try:
                os.link(temporary, file)
            except FileExistsError:
                # The caller may rely on the key that exists, so make it durable first.
                _sync(self._path)
                raise EntryExistsError(f"key {file.name!r} already exists") from None
            except OSError as error:
                if error.errno in _NO_HARD_LINKS:
                    raise KeyStoreError(
                        f"the file system of the key directory {str(self._path)!r} has no hard links: use another one"
                    ) from error
                raise
        _sync(self._path)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, int]]:
        """Create a temporary file and yield it open for writing. No other server removes it while it is in use."""
        while True:
            path = self._path / f"{_TEMPORARY}{secrets.token_hex(16)}"
            output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with contextlib.suppress(OSError):  # without locks, the file's age decides
                    fcntl.flock(output, fcntl.LOCK_EX)
                if os.fstat(output).st_nlink == 0:
                    continue  # another server started and removed it before it was locked
                yield path, output
                return
            finally:
                self._discard(path)
                os.close(output)

    def _discard(self, path: Path) -> None:
        """Remove a temporary file, or try again later. The outcome for the key does not depend on it."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._left.add(path)
            logger.error(
                "the temporary file %r, which may hold the text of a key, can't be removed: %s; it is tried again",
                str(path),
                error.strerror,
            )

    def _get(self, file: Path) -> bytes:
        try:
            source = os.open(file, os.O_RDONLY | _OPEN)
        except OSError as error:
            if file.is_symlink():
                reason = error.strerror
                raise KeyStoreError(
                    f"{str(file)!r} is a symbolic link, and its target can't be read: {reason}"
                ) from None
            if isinstance(error, FileNotFoundError):
                self._status()  # a directory that is gone is not an absent key
                raise EntryNotFoundError(f"key {file.name!r} does not exist") from None
            if error.errno == errno.ENXIO:
                raise _not_a_file(file) from None  # a socket can't be opened at all
            raise
        try:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                raise _not_a_file(file)
            with os.fdopen(source, "rb", closefd=False) as stream:
                value = stream.read(MAX_VALUE_SIZE + 1)
        finally:
            os.close(source)
        if len(value) > MAX_VALUE_SIZE:
            raise KeyStoreError(f"{str(file)!r} is too large to be a key")
        return value

    def _delete(self, file: Path) -> None:
        try:
            mode = file.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise KeyStoreError(
                    f"{str(file)!r} is a symbolic link: remove it and the file that it points to where they are managed"
                )
            if not stat.S_ISREG(mode):
                raise _not_a_file(file)
            file.unlink()
        except FileNotFoundError:
            self._status()
            raise EntryNotFoundError(f"key {file.name!r} does not exist") from None
        _sync(self._path)

    def _list(self, prefix: str, start: str, limit: int) -> Page:
        names = self._listing.names()
        # The names are in order: those before this place and behind the page are not looked at.
        first = bisect_left(names, max(prefix, start))
        limit = limit if limit > 0 else PAGE_SIZE
        return page_of(names[first : first + limit + 1], prefix, start=start, limit=limit)


def _remove_leftover(path: Path) -> bool:
    """Remove a temporary file unless a running process writes it; return whether it is removed.

    A process that writes one holds a lock on it. If the file system has no locks, the age of the file decides.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | _OPEN)  # NFS locks only what is open for writing
    except OSError:
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            is_in_use = error.errno in {errno.EWOULDBLOCK, errno.EACCES}
            if is_in_use or time.time() - os.fstat(file).st_mtime < _ABANDONED:
                return False
        path.unlink()
    except FileNotFoundError:
        return False  # its writer has removed it meanwhile
    except OSError as error:
        logger.warning(
            "the temporary file %r, which may hold the text of a key, can't be removed: %s", str(path), error.strerror
        )
        return False
    finally:
        os.close(file)
    return True


def _make_directory(path: Path) -> bool:
    """Create a directory and the missing ones above it, durable and with mode 0700. Return whether it was missing."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)  # another server may make it too
        _sync(each.parent)
    return bool(missing)


def _sync(directory: Path) -> None:
    """Make new, linked and removed entries of a directory durable."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _not_a_file(file: Path) -> KeyStoreError:
    return KeyStoreError(f"{str(file)!r} is not a regular file, so it is not a key")

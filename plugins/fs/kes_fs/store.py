"""Keys as files. Creating one is atomic and durable and never overwrites, whoever else works in the directory.

A key is written to a temporary file, which is synced and then linked to its name. A link appears whole or not at all,
fails if the name is taken, and is durable once the directory is synced. So a process that is killed at any moment
leaves a key whole or not there, and of several that create the same key one wins.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from kes_core import (
    BlockingCalls,
    KeyExistsError,
    KeyNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
    Page,
    page_of,
)
from kes_core.keystore import PAGE_SIZE
from kes_core.names import is_valid_name

__all__ = ["FileKeyStore"]

P = ParamSpec("P")
T = TypeVar("T")

MAX_VALUE_SIZE: Final = 64 * 1024
"""The longest value of a key, in bytes. A longer file is not one of ours."""

_TEMPORARY: Final = ".new-"
"""How temporary files are called. No key can be: its name has no dot."""
_UNREACHABLE: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO}
"""What a network file system that has lost its server answers, and a disk that is gone."""


class FileKeyStore(KeyStore):
    """Keeps keys in a directory."""

    def __init__(self, path: Path) -> None:
        """Use the directory at `path`, which must be there: `open` makes it."""
        self._path = path
        self._calls = BlockingCalls("fs")

    def __repr__(self) -> str:
        return f"<FileKeyStore {str(self._path)!r}>"

    @classmethod
    async def open(cls, path: Path) -> FileKeyStore:
        """Return the store in the directory at `path`, which is made if it is missing.

        Raises:
            KeyStoreError: It can't be made or used, or others could write into it.
        """
        store = cls(path)
        try:
            await store._run(store._prepare)
        except BaseException:
            await store.close()
            raise
        return store

    async def status(self) -> None:
        await self._run(self._status)

    async def create(self, name: str, value: bytes) -> None:
        await self._run(self._create, self._file(name), value)

    async def get(self, name: str) -> bytes:
        return await self._run(self._get, self._file(name))

    async def delete(self, name: str) -> None:
        await self._run(self._delete, self._file(name))

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return page_of(await self._run(self._names), prefix, start=start, limit=limit)

    async def close(self) -> None:
        self._calls.close()

    def _file(self, name: str) -> Path:
        """Return the file of a key. The server has checked the name; a path must not depend on that."""
        if not is_valid_name(name):
            raise KeyStoreError("not a valid name for a key")
        return self._path / name

    async def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a worker thread: a disk can be slow, and a network file system hang."""
        try:
            return await self._calls.run(function, *args, **kwargs)
        except OSError as error:
            kind = KeyStoreUnreachableError if error.errno in _UNREACHABLE else KeyStoreError
            raise kind(f"the key directory {str(self._path)!r} can't be used: {error.strerror or error}") from error

    # On a worker thread

    def _prepare(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = self._path.stat()
        if not stat.S_ISDIR(facts.st_mode):
            raise KeyStoreError(f"{str(self._path)!r} is not a directory")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeyStoreError(
                f"others can write into the key directory {str(self._path)!r} "
                f"(mode {stat.S_IMODE(facts.st_mode):04o}): chmod 0700 {self._path}"
            )
        if not os.access(self._path, os.R_OK | os.W_OK | os.X_OK):
            raise KeyStoreError(f"the server may not read and write the key directory {str(self._path)!r}")
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove temporary files that a killed process has left behind. A living one holds a lock on its own."""
        with os.scandir(self._path) as entries:
            leftovers = [Path(entry.path) for entry in entries if entry.name.startswith(_TEMPORARY)]
        for leftover in leftovers:
            with contextlib.suppress(OSError):
                file = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    leftover.unlink()
                finally:
                    os.close(file)

    def _status(self) -> None:
        with self._directory() as directory:
            os.fstat(directory)

    def _create(self, file: Path, value: bytes) -> None:
        if len(value) > MAX_VALUE_SIZE:
            raise KeyStoreError(f"the value of a key has at most {MAX_VALUE_SIZE} bytes")
        temporary = self._path / f"{_TEMPORARY}{secrets.token_hex(16)}"
        output = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(output, fcntl.LOCK_EX)
            os.fchmod(output, 0o600)  # whatever the process's umask takes away
            with os.fdopen(output, "wb", closefd=False) as stream:
                stream.write(value)
            os.fsync(output)
            try:
                os.link(temporary, file)
            except FileExistsError:
                raise KeyExistsError(f"key {file.name!r} already exists") from None
        finally:
            os.close(output)
            temporary.unlink(missing_ok=True)
        self._sync()

    def _get(self, file: Path) -> bytes:
        try:
            # Neither follow a link out of the directory nor wait for the other end of a pipe.
            source = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._status()  # a directory that is gone is not an absent key
            raise KeyNotFoundError(f"key {file.name!r} does not exist") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise KeyStoreError(f"{str(file)!r} is a symbolic link, not a key") from None
            raise
        with os.fdopen(source, "rb") as stream:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                raise KeyStoreError(f"{str(file)!r} is not a regular file")
            value = stream.read(MAX_VALUE_SIZE + 1)
        if len(value) > MAX_VALUE_SIZE:
            raise KeyStoreError(f"{str(file)!r} is too large to be a key")
        return value

    def _delete(self, file: Path) -> None:
        try:
            file.unlink()
        except FileNotFoundError:
            self._status()
            raise KeyNotFoundError(f"key {file.name!r} does not exist") from None
        self._sync()

    def _names(self) -> tuple[str, ...]:
        with os.scandir(self._path) as entries:
            files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return tuple(name for name in files if is_valid_name(name))

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int]:
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)

    def _sync(self) -> None:
        """Make what was linked or unlinked durable."""
        with self._directory() as directory:
            os.fsync(directory)

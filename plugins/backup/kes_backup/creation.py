"""How a backup is made: the keys are read from a key store while servers use it, and written to a new file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Final

from pyrage import x25519

from kes_backup.records import BackupError, BackupWriter, Header
from kes_backup.sealing import seal
from kes_core.keys.copying import CopyError, KeyEntries, read_entries, retried
from kes_core.keys.stored import KeyState, Timestamp
from kes_core.keystore import KeyStore, KeyStoreError, KeyStoreUnreachableError
from kes_core.names import is_hidden_entry

__all__ = ["Creation", "new_file"]

_CONCURRENCY: Final = 32
_PAGE: Final = 10_000
"""Names in a page of the listing: some stores list all names for each page."""
_PIECE: Final = 64 * 1024
"""How many bytes to encrypt at once."""
_NO_HARD_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


class Creation:
    """Reads the keys of a store and writes a backup."""

    def __init__(self, store: KeyStore, kind: str) -> None:
        """Read from `store`, whose kind is named in the backup."""
        self._store = store
        self._kind = kind
        self._at_once = min(_CONCURRENCY, store.capabilities.max_concurrency or _CONCURRENCY)
        self._stopping = False
        self._lines = BackupWriter()
        self.failures: dict[str, str] = {}
        """Why keys are not in the backup, by name."""

    @property
    def keys(self) -> int:
        """The number of keys in the backup."""
        return self._lines.keys

    @property
    def entries(self) -> int:
        """The number of entries in the backup."""
        return self._lines.entries

    def stop(self) -> None:
        """End the creation soon: `write` raises an error."""
        self._stopping = True

    async def write(
        self,
        target: BinaryIO,
        pattern: str,
        recipients: Sequence[x25519.Recipient],
        passphrase: str | None,
        on_key: Callable[[], None],
    ) -> None:
        """Write the backup.

        Args:
            target: Where to write it.
            pattern: A name of a key, or the beginning of names and a `*`.
            recipients: Who can decrypt it; empty if `passphrase` is not None.
            passphrase: What decrypts it.
            on_key: Called for each key.

        Raises:
            BackupError: `stop` was called.
            KeyStoreError: The store fails.
            OSError: The target can't be written.
        """
        async with contextlib.aclosing(self._content(pattern, on_key)) as content:
            await seal(content, target, recipients, passphrase)

    async def _content(self, pattern: str, on_key: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        program = f"kes-backup {metadata.version('kes-backup')}"
        piece = self._lines.header(Header(Timestamp.now(), program, self._kind))
        async with contextlib.aclosing(self._read(pattern)) as found:
            async for key in found:
                on_key()
                piece += self._lines.key(key)
                if len(piece) >= _PIECE:
                    yield piece
                    piece = b""
        yield piece + self._lines.trailer()

    async def _read(self, pattern: str) -> AsyncGenerator[KeyEntries, None]:
        """Yield the keys in the order of their names. Some are read at once."""
        reads: deque[asyncio.Task[KeyEntries | None]] = deque()
        try:
            async with contextlib.aclosing(self._names(pattern)) as names:
                async for name in names:
                    reads.append(asyncio.create_task(self._key(name)))
                    if len(reads) >= self._at_once:
                        key = await reads.popleft()
                        if key is not None:
                            yield key
            while reads:
                key = await reads.popleft()
                if key is not None:
                    yield key
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    async def _names(self, pattern: str) -> AsyncGenerator[str, None]:
        prefix, start = pattern.removesuffix("*"), ""
        while True:
            page = await retried(lambda: self._store.list(prefix, start=start, limit=_PAGE))  # noqa: B023 # called at once
            for name in page.names:
                if self._stopping:
                    raise BackupError("interrupted: no backup was written")
                if not is_hidden_entry(name) and (pattern.endswith("*") or name == pattern):
                    yield name
            start = page.next
            if not start:
                return

    async def _key(self, name: str) -> KeyEntries | None:
        try:
            key = await read_entries(self._store, name)
        except KeyStoreUnreachableError:
            raise
        except (CopyError, KeyStoreError) as error:
            self.failures[name] = str(error)
            return None
        return key if key is not None and key.key.state is not KeyState.DELETING else None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, for its owner only, that gets the name `path` at the end, complete and durable, or never.

    Raises:
        BackupError: The name is taken.
        OSError: The file can't be written.
    """
    taken = BackupError(f"{path} exists: a backup never overwrites a file")
    if os.path.lexists(path):
        raise taken
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(opened, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise taken from None
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS or os.path.lexists(path):
                raise
            temporary.rename(path)  # a medium without hard links
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

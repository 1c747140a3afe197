"""The encryption of backups: files in the age format, by pyrage (https://age-encryption.org/v1).

A backup for recipients is an age file. A backup for a passphrase begins with a small age file in its text form, which
the passphrase decrypts, with a random identity in it; the rest is an age file for this identity. The reason is that
pyrage holds the whole content in memory if it encrypts to a passphrase, and passes it through in pieces otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, BinaryIO, Final, TypeVar

import pyrage
from pyrage import passphrase as age_passphrase
from pyrage import x25519

from kes_backup.records import BackupError, NotABackupError

__all__ = ["Opener", "WrongSecretError", "seal"]

T = TypeVar("T")

_BINARY: Final = b"age-encryption.org/v1\n"
_BEGIN: Final = b"-----BEGIN AGE ENCRYPTED FILE-----\n"
_END: Final = b"-----END AGE ENCRYPTED FILE-----\n"
_MAX_HEAD: Final = 4096
"""The longest text form of the identity, in bytes. It has about 500."""
_ATTEMPTS: Final = 5
_ENOUGH_WORK: Final = 16
"""The logarithm of the least work that one attempt to guess the passphrase costs: a quarter of a second."""
_PIECE: Final = 64 * 1024
"""How many bytes of a backup to decrypt before its keys are handled."""


class WrongSecretError(BackupError):
    """The passphrase or the identities do not decrypt the backup."""


async def seal(
    lines: AsyncIterator[bytes], target: BinaryIO, recipients: Sequence[x25519.Recipient], passphrase: str | None
) -> None:
    """Encrypt a backup.

    Args:
        lines: Its content.
        target: Where to write it.
        recipients: Who can decrypt it; empty if `passphrase` is not None.
        passphrase: What decrypts it.

    Raises:
        OSError: The target can't be written.
    """
    if passphrase is not None:
        identity = x25519.Identity.generate()
        recipients = [identity.to_public()]
        target.write(await asyncio.to_thread(_protected, identity, passphrase))
    source, sink = _Feed(lines, asyncio.get_running_loop()), _File(target)
    try:
        await asyncio.to_thread(pyrage.encrypt_io, source, sink, recipients)
    finally:
        # pyrage replaces the errors of the two, and hides one of the last write.
        source.check()
        sink.check()


class Opener:
    """Decrypts a backup, as often as needed, in pieces."""

    def __init__(self, source: BinaryIO) -> None:
        """Read the beginning of a backup.

        Raises:
            NotABackupError: The file is not a backup.
        """
        self._source = source
        self._head = b""
        self._identities: Sequence[x25519.Identity] = ()
        first = source.readline(len(_BEGIN))
        if first == _BEGIN:
            self._head = _read_head(source)
        elif first != _BINARY:
            raise NotABackupError("the file is not a backup: it does not begin as an age file")
        self._start = len(self._head)

    @property
    def needs_passphrase(self) -> bool:
        """Whether the backup is for a passphrase, and not for recipients."""
        return bool(self._head)

    async def unlock(self, identities: Sequence[x25519.Identity], passphrase: str | None) -> None:
        """Set what decrypts the backup: the identities, or the passphrase if it needs one.

        Raises:
            WrongSecretError: The passphrase is wrong.
            BackupError: The backup is damaged, or its passphrase can't be checked here.
        """
        if passphrase is None:
            self._identities = identities
            return
        text = await asyncio.to_thread(_unprotected, self._head, passphrase)
        try:
            self._identities = [x25519.Identity.from_str(text.decode("ascii").strip())]
        except (ValueError, pyrage.IdentityError):
            raise NotABackupError("the file is not a backup: its passphrase does not protect an identity") from None

    async def read(self, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Decrypt the backup, and call `take` with each piece. What it raises ends the reading.

        Raises:
            WrongSecretError: No identity decrypts the backup.
            BackupError: The backup is damaged. The pieces before are as they were encrypted.
            OSError: The file can't be read.
        """
        self._source.seek(self._start)
        source, sink = _File(self._source), _Pieces(take, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(pyrage.decrypt_io, source, sink, self._identities)
        except asyncio.CancelledError as error:
            sink.fail(error)  # or the thread would decrypt the rest
            raise
        except Exception as error:  # of pyrage, or an error of the two that it may have replaced
            source.check()
            sink.check()
            if "matching keys" in str(error):
                raise WrongSecretError("none of the identities decrypts the backup") from None
            await sink.rest()  # what comes before the damage is authentic
            raise BackupError("the file is damaged or incomplete: its encryption does not verify") from None
        sink.check()
        await sink.rest()


def _protected(identity: x25519.Identity, passphrase: str) -> bytes:
    """Encrypt an identity to a passphrase, in the text form of age.

    age measures how much work the machine does in a second, to let each attempt to guess the passphrase cost as much.
    On a busy machine the result may be much too low, so measure again.
    """
    best = b""
    for _ in range(_ATTEMPTS):
        head = age_passphrase.encrypt(f"{identity}\n".encode(), passphrase, armored=True)
        if not best or _work(head) > _work(best):
            best = head
        if _work(best) >= _ENOUGH_WORK:
            break
    return best if best.endswith(b"\n") else best + b"\n"


def _work(head: bytes) -> int:
    """Return the logarithm of the work that a passphrase costs, from the line `-> scrypt SALT WORK` of the header."""
    text = base64.b64decode(b"".join(head.split(b"\n")[1:4]))
    return int(text.split(b"\n")[1].split(b" ")[3])


def _unprotected(head: bytes, passphrase: str) -> bytes:
    for _ in range(_ATTEMPTS):
        try:
            return age_passphrase.decrypt(head, passphrase)
        except pyrage.DecryptError as error:
            # age refuses what would take long. On a busy machine it may be wrong.
            if "xcessive" not in str(error):
                raise WrongSecretError("the passphrase is wrong, or the beginning of the backup is damaged") from None
    raise BackupError("the passphrase was protected on a much faster machine: restore the backup on such a one")


def _read_head(source: BinaryIO) -> bytes:
    head = _BEGIN
    while not head.endswith(_END):
        line = source.readline(_MAX_HEAD)
        head += line
        if not line or len(head) > _MAX_HEAD:
            raise NotABackupError("the file is not a backup: its beginning is not that of one for a passphrase")
    return head


class _ForPyrage(io.BufferedIOBase):
    """A file for pyrage, which remembers the first error: pyrage replaces some errors and hides others."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error

    def fail(self, error: BaseException) -> None:
        """Let the next use fail."""
        self._error = self._error or error

    def _call(self, function: Callable[[], T]) -> T:
        self.check()
        try:
            return function()
        except BaseException as error:  # raised again by `check`
            self._error = error
            raise


class _File(_ForPyrage):
    """A file on the disk."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        return self._call(lambda: self._file.read(-1 if size is None else size))

    def write(self, data: Any, /) -> int:
        return self._call(lambda: self._file.write(data))


class _Feed(_ForPyrage):
    """Lines that come from an event loop, read on another thread."""

    def __init__(self, lines: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._lines = lines
        self._loop = loop
        self._rest = memoryview(b"")

    def read(self, size: int | None = -1, /) -> bytes:
        if not self._rest:
            self._rest = memoryview(self._call(self._next))
        size = len(self._rest) if size is None or size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def _next(self) -> bytes:
        async def following() -> bytes:
            return await anext(self._lines, b"")

        return asyncio.run_coroutine_threadsafe(following(), self._loop).result()


class _Pieces(_ForPyrage):
    """Collects what another thread writes into pieces, which a function on an event loop takes."""

    def __init__(self, take: Callable[[bytes], Awaitable[None]], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._take = take
        self._loop = loop
        self._piece = bytearray()

    def write(self, data: Any, /) -> int:
        self.check()
        self._piece += data
        if len(self._piece) >= _PIECE:
            self._call(lambda: asyncio.run_coroutine_threadsafe(self.rest(), self._loop).result())
        return len(data)

    async def rest(self) -> None:
        """Let the function take what has been collected. Runs on the event loop."""
        piece, self._piece = bytes(self._piece), bytearray()
        await self._take(piece)

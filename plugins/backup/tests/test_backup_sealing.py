"""The encryption of backups: what does not decrypt gets one clear error, and nothing that fails goes unnoticed."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pyrage
import pytest
from pyrage import passphrase as age_passphrase
from pyrage import x25519

from kes_backup.reading import Contents, restore, verify
from kes_backup.records import BackupError, NotABackupError
from kes_backup.sealing import Opener, WrongSecretError, seal
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.keys.copying import KeyCopies
from tests.helpers.backups import (
    IDENTITY,
    RECORDED,
    RECORDED_HASH,
    RECORDED_PASSPHRASE,
    backup,
    digest,
    entries,
    filled,
    verified,
)

PASSPHRASE = "a long passphrase"


async def lines(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def sealed(*pieces: bytes, passphrase: str | None = None) -> bytes:
    target = io.BytesIO()
    recipients = [] if passphrase is not None else [IDENTITY.to_public()]
    asyncio.run(seal(lines(*pieces), target, recipients, passphrase))
    return target.getvalue()


def opened(data: bytes, passphrase: str | None = None, times: int = 1) -> bytes:
    async def start() -> bytes:
        opener = Opener(io.BytesIO(data))
        assert opener.needs_passphrase == (passphrase is not None)
        await opener.unlock([IDENTITY], passphrase)
        for _ in range(times):
            found = b""

            async def take(piece: bytes) -> None:
                nonlocal found
                found += piece

            await opener.read(take)
        return found

    return asyncio.run(start())


def test_content_of_any_length_comes_back_as_often_as_wanted() -> None:
    for length in (0, 1, 8191, 8192, 65535, 65536, 65537, 300_001):
        content = bytes(number % 251 for number in range(length))
        assert opened(sealed(content[:100], content[100:] or b""), times=2) == content
        assert pyrage.decrypt(sealed(content), [IDENTITY]) == content


def test_recorded_backup_of_format_1_can_be_restored() -> None:
    async def start() -> None:
        with RECORDED.open("rb") as file:
            opener = Opener(file)
            assert opener.needs_passphrase
            with pytest.raises(WrongSecretError, match=r"^the passphrase is wrong, or the beginning of the backup is "):
                await opener.unlock([], "another passphrase")
            await opener.unlock([], RECORDED_PASSPHRASE)
            contents = Contents()
            await verify(opener, contents)
            assert (contents.header.store, contents.keys, contents.versions) == ("memory", 6, 11)
            await restore(opener, store, KeyCopies(store), "*", dry_run=False, on_key=lambda _name, _outcome: None)

    store = MemoryKeyStore()
    asyncio.run(start())
    assert digest(entries(store)) == RECORDED_HASH


@pytest.mark.slow
def test_passphrase_opens_and_another_one_does_not() -> None:
    data = sealed(b"content", passphrase=PASSPHRASE)
    assert opened(data, PASSPHRASE) == b"content"
    with pytest.raises(WrongSecretError, match=r"^the passphrase is wrong, or the beginning of the backup is damaged$"):
        opened(data, "another passphrase")


def test_passphrase_protects_as_well_as_on_an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """age chooses less work if the machine is busy while it measures."""

    def head(work: int) -> bytes:
        text = base64.b64encode(b"age-encryption.org/v1\n-> scrypt LL9m3nDZGpUWhNCMFoly6A %d\n" % work + bytes(200))
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        return b"\n".join([b"-----BEGIN AGE ENCRYPTED FILE-----", *lines, b"-----END AGE ENCRYPTED FILE-----\n"])

    for measured, used in (([18], 18), ([10, 12, 17], 17), ([9, 14, 12, 9, 9], 14)):
        heads = iter([head(work) for work in measured])
        monkeypatch.setattr(age_passphrase, "encrypt", lambda *_arguments, heads=heads, **_options: next(heads))
        assert sealed(b"x", passphrase=PASSPHRASE).startswith(head(used))
        assert list(heads) == []


def test_identity_of_somebody_else_opens_nothing() -> None:
    with pytest.raises(WrongSecretError, match=r"^none of the identities decrypts the backup$"):
        verified(backup(filled()), [x25519.Identity.generate()])


def test_each_of_several_recipients_opens_the_backup() -> None:
    others = [x25519.Identity.generate() for _ in range(3)]
    target = io.BytesIO()
    asyncio.run(seal(lines(b"content"), target, [identity.to_public() for identity in others], None))
    for identity in others:
        assert pyrage.decrypt(target.getvalue(), [identity]) == b"content"


def test_truncated_file_is_refused_wherever_it_ends() -> None:
    data = backup(filled())
    for length in [*range(0, 400, 7), *range(400, len(data), 97), *range(len(data) - 20, len(data))]:
        with pytest.raises(BackupError):
            verified(data[:length])


def test_changed_byte_is_noticed_wherever_it_is() -> None:
    data = backup(filled())
    for place in [*range(0, 400, 3), *range(400, len(data), 61), *range(len(data) - 20, len(data))]:
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(BackupError) as caught:
            verified(bytes(changed))
        assert "\n" not in str(caught.value)
    with pytest.raises(BackupError, match=r"^the file is damaged or incomplete: its encryption does not verify$"):
        verified(data + b"x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"keys",
        b"-----BEGIN AGE ENCRYPTED FILE-----\n",
        b"-----BEGIN AGE ENCRYPTED FILE-----\n" + b"x" * 10_000,
        b"-----BEGIN AGE ENCRYPTED FILE-----\n" + b"x\n" * 10_000,
    ],
)
def test_other_file_is_refused(data: bytes) -> None:
    with pytest.raises(NotABackupError, match="the file is not a backup: "):
        Opener(io.BytesIO(data))


@pytest.mark.slow
def test_file_that_age_has_encrypted_to_a_passphrase_is_refused() -> None:
    """It has the form of the beginning of a backup."""
    data = age_passphrase.encrypt(b"something else", PASSPHRASE, armored=True)
    with pytest.raises(NotABackupError, match="its passphrase does not protect an identity"):
        opened(data, PASSPHRASE)


class FullDisk(io.BytesIO):
    """Has room for some writes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any, /) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_full_disk_is_noticed_at_each_write_even_the_last_one() -> None:
    for room in range(100):
        disk = FullDisk(room)
        try:
            asyncio.run(seal(lines(b"x" * 100_000), disk, [IDENTITY.to_public()], None))
        except OSError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 # all but the last round end here
        else:
            assert disk.room >= 0
            break
    assert room > 1
    assert opened(disk.getvalue()) == b"x" * 100_000


def test_error_of_whoever_gives_or_takes_the_content_is_the_error() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(seal(broken(), io.BytesIO(), [IDENTITY.to_public()], None))

    async def refuse(_piece: bytes) -> None:
        raise LookupError("mine")

    async def read(data: bytes) -> None:
        opener = Opener(io.BytesIO(data))
        await opener.unlock([IDENTITY], None)
        await opener.read(refuse)

    for length in (1, 10**6):
        with pytest.raises(LookupError, match="mine"):
            asyncio.run(read(sealed(b"x" * length)))

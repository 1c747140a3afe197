"""What encrypts and decrypts backups: passphrases, recipients and identities, and where they come from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import pyrage
from pyrage import x25519

from kes_backup.records import BackupError

__all__ = ["PASSPHRASE", "make_identity", "new_passphrase", "passphrase", "read_identities", "read_recipients"]

PASSPHRASE: Final = "KES_BACKUP_PASSPHRASE"
"""The environment variable with the passphrase."""
MIN_PASSPHRASE: Final = 12
"""The shortest passphrase, in characters. Whoever has the file can try any number of them."""
_MAX_FILE: Final = 64 * 1024


def passphrase(file: Path | None) -> str:
    """Return the passphrase: from a file, from the environment, or typed at a terminal.

    Raises:
        BackupError: There is none.
    """
    given = _given(file)
    if given is not None:
        return given
    typed: str = click.prompt("Passphrase of the backup", hide_input=True, err=True)
    return typed


def new_passphrase(file: Path | None) -> str:
    """Return the passphrase for a new backup, typed twice at a terminal; otherwise as `passphrase`.

    Raises:
        BackupError: There is none, or it is too short.
    """
    text = _given(file)
    if text is None:
        text = click.prompt("Passphrase for the backup", hide_input=True, confirmation_prompt=True, err=True)
    if len(text) < MIN_PASSPHRASE:
        raise BackupError(
            f"the passphrase is too short: use {MIN_PASSPHRASE} characters or more, as from: openssl rand -base64 18"
        )
    return text


def _given(file: Path | None) -> str | None:
    if file is not None:
        lines = _read(file).splitlines()
        if len(lines) != 1 or not lines[0]:
            raise BackupError(f"{file}: expected the passphrase in one line")
        return lines[0]
    text = os.environ.get(PASSPHRASE)
    if text is not None:
        if not text:
            raise BackupError(f"the environment variable {PASSPHRASE} is empty")
        return text
    if not sys.stdin.isatty():
        raise BackupError(
            f"no passphrase: name a file with --passphrase-file, set {PASSPHRASE}, or run the command on a terminal"
        )
    return None


def read_recipients(texts: Sequence[str], files: Sequence[Path]) -> list[x25519.Recipient]:
    """Return the recipients on the command line and in files, one a line.

    Raises:
        BackupError: One of them is not a recipient, or a file has none.
    """
    found = [_recipient(text, "--recipient") for text in texts]
    for file in files:
        lines = [(number, line) for number, line in _lines(file)]
        if not lines:
            raise BackupError(f"{file}: no recipient")
        found += [_recipient(line, f"{file}:{number}") for number, line in lines]
    return found


def _recipient(text: str, place: str) -> x25519.Recipient:
    if text.upper().startswith("AGE-SECRET-KEY-"):
        raise BackupError(f"{place}: this is a secret identity, not a recipient; its recipient begins with age1")
    try:
        return x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise BackupError(f"{place}: not a recipient of age: expected age1 and 58 more letters and digits") from None


def read_identities(files: Sequence[Path]) -> list[x25519.Identity]:
    """Return the identities in files, as `kes backup keygen` and `age-keygen` write them.

    Raises:
        BackupError: A file has none, or something else. The message does not show it.
    """
    found = []
    for file in files:
        lines = list(_lines(file))
        if lines and lines[0][1].startswith(("-----BEGIN AGE", "age-encryption.org/")):
            raise BackupError(f"{file}: the identity is encrypted: decrypt it with age -d first")
        if not lines:
            raise BackupError(f"{file}: no identity")
        for number, line in lines:
            try:
                found.append(x25519.Identity.from_str(line))
            except pyrage.IdentityError:
                raise BackupError(
                    f"{file}:{number}: not an identity of age: expected a line that begins with AGE-SECRET-KEY-1"
                ) from None
    return found


def make_identity(file: Path) -> str:
    """Write a new identity to a new file, for its owner only; return its recipient.

    Raises:
        OSError: The file exists, or can't be written.
    """
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "w", encoding="ascii") as stream:
        stream.write(f"# public key: {recipient}\n{identity}\n")
        stream.flush()
        os.fsync(stream.fileno())
    return recipient


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty and not comments, with their numbers."""
    for number, line in enumerate(_read(file).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except OSError as error:
        raise BackupError(f"{file}: can't be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BackupError(f"{file}: not UTF-8") from None
    if len(data) > _MAX_FILE:
        raise BackupError(f"{file}: larger than {_MAX_FILE} bytes")
    return text

"""Passphrases, recipients and identities, and where they come from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pyrage import x25519

from kes_backup.records import BackupError
from kes_backup.secrets import (
    PASSPHRASE,
    make_identity,
    new_passphrase,
    passphrase,
    read_identities,
    read_recipients,
)

SECRET = str(x25519.Identity.generate())
RECIPIENT = str(x25519.Identity.from_str(SECRET).to_public())


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_identity_is_for_its_owner_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "offline.key"
    recipient = make_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    (identity,) = read_identities([path])
    assert str(identity.to_public()) == recipient
    assert [str(found) for found in read_recipients([recipient], [])] == [recipient]
    with pytest.raises(FileExistsError):
        make_identity(path)


def test_files_have_comments_and_empty_lines(tmp_path: Path) -> None:
    path = file(tmp_path, f"# mine\n\n{SECRET}\r\n{SECRET}\n")
    assert [str(identity) for identity in read_identities([path])] == [SECRET] * 2
    path = file(tmp_path, f"# mine\n\n {RECIPIENT}\n")
    assert [str(found) for found in read_recipients([RECIPIENT], [path])] == [RECIPIENT] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no identity"),
        ("\nSECRETx\n", "2: not an identity of age: expected a line that begins with AGE-SECRET-KEY-1"),
        ("RECIPIENT\n", "1: not an identity of age: expected a line that begins with AGE-SECRET-KEY-1"),
        ("-----BEGIN AGE ENCRYPTED FILE-----\n", "the identity is encrypted: decrypt it with age -d first"),
        (b"\xff", "not UTF-8"),
        ("#" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_file_without_an_identity_is_refused_and_not_shown(tmp_path: Path, content: str | bytes, message: str) -> None:
    if isinstance(content, str):
        content = content.replace("SECRET", SECRET).replace("RECIPIENT", RECIPIENT)
    path = file(tmp_path, content)
    with pytest.raises(BackupError) as caught:
        read_identities([path])
    assert str(caught.value) in {f"{path}: {message}", f"{path}:{message}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ssh-ed25519 AAAA", "not a recipient of age: expected age1 and 58 more letters and digits"),
        ("RECIPIENTx", "not a recipient of age: expected age1 and 58 more letters and digits"),
        ("SECRET", "this is a secret identity, not a recipient; its recipient begins with age1"),
    ],
)
def test_text_that_is_not_a_recipient_is_refused_and_not_shown(tmp_path: Path, text: str, message: str) -> None:
    text = text.replace("SECRET", SECRET).replace("RECIPIENT", RECIPIENT)
    with pytest.raises(BackupError) as caught:
        read_recipients([text], [])
    assert str(caught.value) == f"--recipient: {message}"
    path = file(tmp_path, f"# some\n{text}\n")
    with pytest.raises(BackupError) as caught:
        read_recipients([], [path])
    assert str(caught.value) == f"{path}:2: {message}"


def test_file_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="none: can't be read: No such file or directory"):
        read_recipients([], [tmp_path / "none"])
    with pytest.raises(BackupError, match="no recipient"):
        read_recipients([], [file(tmp_path, "# none\n")])


def test_passphrase_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "from the environment")
    for read in (passphrase, new_passphrase):
        assert read(None) == "from the environment"
        assert read(file(tmp_path, "from the file\n")) == "from the file"
        assert read(file(tmp_path, " ends in a space ")) == " ends in a space "


@pytest.mark.parametrize("content", ["", "\n", "two\nlines\n"])
def test_file_without_one_passphrase_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BackupError, match=r"expected the passphrase in one line$"):
        passphrase(file(tmp_path, content))


def test_missing_empty_and_short_passphrases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.delenv(PASSPHRASE, raising=False)
    with pytest.raises(BackupError, match=r"^no passphrase: name a file with --passphrase-file, set KES_BACKUP_PASS"):
        passphrase(None)
    monkeypatch.setenv(PASSPHRASE, "")
    with pytest.raises(BackupError, match=r"^the environment variable KES_BACKUP_PASSPHRASE is empty$"):
        passphrase(None)
    monkeypatch.setenv(PASSPHRASE, "x" * 11)
    assert passphrase(None) == "x" * 11  # a backup may be older than the rule
    with pytest.raises(BackupError, match=r"^the passphrase is too short: use 12 characters or more"):
        new_passphrase(None)

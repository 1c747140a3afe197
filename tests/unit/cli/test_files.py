"""What `kes identity new` leaves on disk when it fails halfway, and what it refuses to start."""

from __future__ import annotations

import datetime as dt
import errno
import os
from pathlib import Path

import pytest

from kes_core.cli.identity import write_certificate
from tests.helpers.command import kes_here as kes


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def test_overwriting_replaces_both_files_or_neither(tmp_path: Path) -> None:
    kes("identity", "new", "x", cwd=tmp_path)
    (tmp_path / "public.crt").unlink()
    (tmp_path / "public.crt").mkdir()
    before = contents(tmp_path)
    done = kes("identity", "new", "-f", "x", cwd=tmp_path, code=1)
    assert done.stderr == "Error: 'public.crt' can't be written: Is a directory\n"
    assert contents(tmp_path) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["private.key", "public.crt"]


def test_a_new_key_is_taken_back_when_the_certificate_fails(tmp_path: Path) -> None:
    (tmp_path / "public.crt").mkdir()
    kes("identity", "new", "-f", "x", cwd=tmp_path, code=1)
    assert [file.name for file in tmp_path.iterdir()] == ["public.crt"]


def test_temporary_files_that_cannot_be_removed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names each leftover file, and still writes the key and the certificate."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    key, cert = tmp_path / "private.key", tmp_path / "public.crt"
    monkeypatch.setattr(Path, "unlink", fail)
    write_certificate(key, cert, subject="x", dns=[], ips=[], valid_for=dt.timedelta(days=1))
    left = [file for file in tmp_path.iterdir() if file not in {key, cert}]
    assert len(left) == 2
    warnings = capsys.readouterr().err
    assert all(f"Warning: {str(file)!r} may hold the private key" in warnings for file in left)


@pytest.mark.parametrize("cert", ["a", "./a", "folder/../a", "link"])
def test_key_and_certificate_never_share_a_file(tmp_path: Path, cert: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("a")
    done = kes("identity", "new", "-f", "--key", "a", "--cert", cert, "x", cwd=tmp_path, code=1)
    assert done.stderr == "Error: key and certificate can't both be written to 'a'\n"
    assert not (tmp_path / "a").exists()


def test_a_dangling_link_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "private.key").symlink_to("elsewhere")
    done = kes("identity", "new", "x", cwd=tmp_path, code=1)
    assert done.stderr == "Error: 'private.key' exists already; -f overwrites it\n"
    assert [file.name for file in tmp_path.iterdir()] == ["private.key"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--key", "k" * 300, "x"], 1, "can't be written: File name too long"),
        (["--expiry", "10h"], 2, "--expiry and --force are for certificates"),
        (["-f"], 2, "--expiry and --force are for certificates"),
        (["a\nb"], 2, "A subject has printable characters only."),
        (["\udcff"], 2, "A subject has printable characters only."),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in kes("identity", "new", *arguments, cwd=tmp_path, code=code).stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("passphrase", "message"),
    [("p" * 1024, "the passphrase is too long; it can have 1023 bytes"), ("\udcff", "the passphrase is not UTF-8")],
)
def test_passphrases_that_can_not_be_used(tmp_path: Path, passphrase: str, message: str) -> None:
    environment = {"KES_PRIVATE_KEY_PASSWORD": passphrase}
    done = kes("identity", "new", "--encrypt", "x", cwd=tmp_path, code=1, environment=environment)
    assert done.stderr == f"Error: {message}\n"
    assert not list(tmp_path.iterdir())

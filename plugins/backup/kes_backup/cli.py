"""`kes backup`: all keys in one encrypted file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kes_core.cli._command import Group
from kes_core.cli._common import for_people, json_option, print_json
from kes_core.cli._stores import (
    AGAIN,
    counted,
    key_stores,
    opened,
    progress,
    rate,
    require_persistent,
    show_failures,
    stopped_by,
)
from kes_core.cli._terminal import escape_control
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from pyrage import x25519

    from kes_backup.reading import Contents
    from kes_backup.sealing import Opener
    from kes_core.config import KeyStoreChoice
    from kes_core.keys.copying import KeyCopies

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])

Unlock = tuple["Sequence[x25519.Identity]", str | None]
"""What decrypts a backup: identities, or a passphrase."""

_OUTCOMES: Final = ("copied", "identical", "failed")
_FILE: Final = click.Path(path_type=Path)
_PASSPHRASE_FILE: Final = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=_FILE,
    help="A file with the passphrase. Without it, KES_BACKUP_PASSPHRASE, or a question on the terminal.",
)
_IDENTITY: Final = click.option(
    "--identity",
    "identities",
    metavar="FILE",
    type=_FILE,
    multiple=True,
    help="A file with an identity for which the backup is encrypted. May be given several times.",
)


def _config(use: str) -> Callable[[F], F]:
    return click.option("--config", metavar="FILE", type=_FILE, required=True, help=f"A configuration with {use}.")


def _check_pattern(_context: click.Context, _parameter: click.Parameter, pattern: str) -> str:
    from kes_core.names import is_valid_pattern

    if not is_valid_pattern(pattern):
        raise click.BadParameter(f"{pattern!r} is neither a name nor the beginning of names and a *.")
    return pattern or "*"


_PATTERN: Final = click.argument("pattern", default="*", callback=_check_pattern)


@click.group("backup", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Back up keys to an encrypted file, verify and restore them.

    These commands read and write a key store themselves, and need no server. Servers may run meanwhile. The file has
    the format of age, and is encrypted to a passphrase or to recipients.
    """
    from kes_core.server.hardening import harden

    harden(mlock=False)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what can go wrong into one line."""
    from kes_backup.records import BackupError
    from kes_core.keystore import KeyStoreError

    try:
        yield
    except (BackupError, KeyStoreError) as error:
        raise CLIError(str(error)) from error


@command.command("keygen")
@click.argument("file", type=_FILE)
def keygen(file: Path) -> None:
    """Write a new identity to FILE, and print its recipient.

    Whoever has the identity can decrypt the backups for this recipient: keep it away from the servers. To make backups,
    the recipient is enough.
    """
    from kes_backup.secrets import make_identity

    click.echo(make_identity(file))


@command.command("create")
@_config("the key store to read")
@click.option(
    "--recipient", "recipients", metavar="AGE1...", multiple=True, help="Encrypt to this recipient, or several."
)
@click.option(
    "--recipients-file",
    "files",
    metavar="FILE",
    type=_FILE,
    multiple=True,
    help="A file with recipients, one a line.",
)
@_PASSPHRASE_FILE
@json_option
@click.argument("file", type=_FILE)
@_PATTERN
def create(
    config: Path,
    recipients: Sequence[str],
    files: Sequence[Path],
    passphrase_file: Path | None,
    as_json: bool,
    file: Path,
    pattern: str,
) -> int:
    """Write the keys whose names match PATTERN, with all their versions, to the new FILE.

    Without recipients, the backup is encrypted to a passphrase. FILE appears at the end, complete, and only its owner
    can read it. Exit code 0 means that all keys are in it.
    """
    from kes_backup.secrets import new_passphrase, read_recipients

    if passphrase_file is not None and (recipients or files):
        raise click.UsageError("A backup is encrypted to recipients or to a passphrase, not to both.")
    with _errors():
        (choice,) = key_stores(config)
        to = read_recipients(recipients, files)
        passphrase = None if to else new_passphrase(passphrase_file)
        return asyncio.run(_create(choice, file, pattern, to, passphrase, as_json=as_json))


async def _create(
    choice: KeyStoreChoice,
    file: Path,
    pattern: str,
    recipients: Sequence[x25519.Recipient],
    passphrase: str | None,
    *,
    as_json: bool,
) -> int:
    from kes_backup.creation import Creation, new_file
    from kes_backup.records import BackupError

    with new_file(file) as target:
        async with opened(choice) as store:
            creation = Creation(store, choice.backend.name)
            stopped_by(creation.stop)
            started = time.monotonic()
            with progress(f"{choice.backend.name} → {file.name}", None, show=for_people(as_json)) as advance:
                await creation.write(target, pattern, recipients, passphrase, advance)
        if not creation.keys:
            show_failures(creation.failures)
            raise BackupError(f"the key store has no key that matches {pattern!r} and can be read: nothing was written")
        size = target.tell()
    failures = dict(sorted(creation.failures.items()))
    if as_json:
        counts = {"keys": creation.keys, "entries": creation.entries, "bytes": size}
        print_json({"file": str(file), **counts, "failures": failures})
    else:
        speed = rate(creation.keys, time.monotonic() - started)
        click.echo(f"{file}: {creation.keys} keys, {creation.entries} entries, {size} bytes{speed}")
        if failures:
            click.echo(f"{len(failures)} keys are not in it:", err=True)
        show_failures(failures)
    return 1 if failures else 0


@command.command("verify")
@_IDENTITY
@_PASSPHRASE_FILE
@json_option
@click.argument("file", type=_FILE)
def verify(identities: Sequence[Path], passphrase_file: Path | None, as_json: bool, file: Path) -> None:
    """Decrypt the whole FILE, and check that each key in it can be used and that nothing is missing."""
    with _errors(), _backup(file, identities, passphrase_file) as (opener, unlock):
        contents = asyncio.run(_verify(opener, unlock, show=for_people(as_json)))
        _show(file, contents, as_json=as_json)


@contextlib.contextmanager
def _backup(file: Path, identities: Sequence[Path], passphrase_file: Path | None) -> Iterator[tuple[Opener, Unlock]]:
    """Open a backup; yield it, and what decrypts it.

    Raises:
        BackupError: It is not a backup, or what decrypts it is missing.
    """
    from kes_backup.records import BackupError
    from kes_backup.sealing import Opener
    from kes_backup.secrets import passphrase, read_identities

    with file.open("rb") as source:
        opener = Opener(source)
        if opener.needs_passphrase:
            if identities:
                raise BackupError(f"{file} is encrypted to a passphrase: leave out --identity")
            yield opener, ([], passphrase(passphrase_file))
        elif identities:
            yield opener, (read_identities(identities), None)
        else:
            raise BackupError(f"{file} is encrypted to recipients: name the file of an identity with --identity")


async def _verify(opener: Opener, unlock: Unlock, *, show: bool) -> Contents:
    from kes_backup.reading import Contents, verify

    await opener.unlock(*unlock)
    contents = Contents()
    with progress("verifying", None, show=show) as advance:
        await verify(opener, contents, on_key=advance)
    return contents


def _show(file: Path, contents: Contents, *, as_json: bool) -> None:
    header = contents.header
    counts = {
        "keys": contents.keys,
        "entries": contents.entries,
        "versions": contents.versions,
        "disabled": contents.disabled,
        "scheduled_for_deletion": contents.scheduled,
    }
    if as_json:
        members = {"created_at": header.created_at.rfc3339(), "created_by": header.created_by, "store": header.store}
        print_json({"file": str(file), **members, **counts})
        return
    source = escape_control(f"{header.created_by} at {header.created_at.rfc3339()} from the key store {header.store!r}")
    click.echo(f"{file}: made by {source}")
    click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    click.echo("The backup is complete, and each key can be used.")


@command.command("restore")
@_config("the key store to write")
@_IDENTITY
@_PASSPHRASE_FILE
@click.option("--dry-run", is_flag=True, help="Write nothing, and print what it would do.")
@click.option("--damaged", is_flag=True, help="Restore the keys before the damage of a damaged or incomplete file.")
@json_option
@click.argument("file", type=_FILE)
@_PATTERN
def restore(
    config: Path,
    identities: Sequence[Path],
    passphrase_file: Path | None,
    dry_run: bool,
    damaged: bool,
    as_json: bool,
    file: Path,
    pattern: str,
) -> int:
    """Write the keys of the backup FILE whose names match PATTERN to a key store.

    The command verifies the whole file first. It overwrites nothing: a key that the store already has, byte for byte,
    counts as identical, and another key of the same name is an error. After an interruption, run the same command
    again. Exit code 0 means that every matching key can be read from the key store.
    """
    with _errors(), _backup(file, identities, passphrase_file) as (opener, unlock):
        (choice,) = key_stores(config)
        require_persistent(choice, config)
        return asyncio.run(_restore(opener, unlock, choice, pattern, dry_run=dry_run, damaged=damaged, as_json=as_json))


async def _restore(
    opener: Opener,
    unlock: Unlock,
    choice: KeyStoreChoice,
    pattern: str,
    *,
    dry_run: bool,
    damaged: bool,
    as_json: bool,
) -> int:
    from kes_backup import reading
    from kes_backup.records import BackupError
    from kes_core.keys.copying import KeyCopies
    from kes_core.keystore import KeyStoreError

    show = for_people(as_json)
    await opener.unlock(*unlock)
    contents = reading.Contents()
    try:
        with progress("verifying", None, show=show) as advance:
            await reading.verify(opener, contents, pattern, advance)
    except BackupError:
        if not damaged or not contents.keys:
            raise
    if not contents.keys:
        raise BackupError(f"the backup has no key that matches {pattern!r}")
    problem = ""
    async with opened(choice) as store:
        copies = KeyCopies(store)
        stopped_by(copies.stop)
        started = time.monotonic()
        try:
            with progress(f"backup → {choice.backend.name}", contents.keys, show=show) as advance:
                await reading.restore(
                    opener, store, copies, pattern, dry_run=dry_run, on_key=lambda _name, _outcome: advance()
                )
        except (reading.InterruptedRestoreError, KeyStoreError) as error:
            problem = f"{error}; {AGAIN}"
        except BackupError as error:
            problem = f"{error}; only the keys before the damage were read" if damaged else str(error)
    _report(copies, contents, time.monotonic() - started, dry_run=dry_run, as_json=as_json)
    if problem:
        raise CLIError(problem)
    return 1 if copies.summary.failures else 0


def _report(copies: KeyCopies, contents: Contents, seconds: float, *, dry_run: bool, as_json: bool) -> None:
    summary = copies.summary
    failures = dict(sorted(summary.failures.items()))
    if as_json:
        counts = {str(outcome): count for outcome, count in summary.counts.items() if outcome in _OUTCOMES}
        print_json({"dry_run": dry_run, "keys": contents.keys, **counts, "failures": failures})
    else:
        click.echo(
            f"{'Would be: ' if dry_run else ''}{contents.keys} keys: {counted(summary)}{rate(summary.done, seconds)}"
        )
        show_failures(failures)
    if contents.overdue:
        click.echo(
            f"Warning: {contents.overdue} keys were scheduled for deletion at a time that is over: a server with "
            "deletion.scheduled: on deletes them. To keep one: kes key undelete NAME, on a server with this setting "
            "off",
            err=True,
        )

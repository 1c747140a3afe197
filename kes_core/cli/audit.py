"""`kes audit`: verify audit logs."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._command import Group
from kes_core.cli._common import json_option, print_json
from kes_core.cli._terminal import styled
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kes_core.audit.chain import Problem, Verification

__all__ = ["command"]

_KEY_VARIABLE: Final = "KES_AUDIT_KEY"
_GZIP: Final = b"\x1f\x8b"
"""The first bytes of a compressed file (RFC 1952)."""
_MAX_SHOWN: Final = 100


@click.group("audit", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Verify audit records."""


@command.command("verify")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--key-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"The key of the chain, if it has one. Or set {_KEY_VARIABLE}.",
)
@json_option
def verify(files: tuple[Path, ...], key_file: Path | None, as_json: bool) -> int:
    """Find changed, removed and reordered audit records.

    FILEs are audit logs that the server wrote with audit.file.chain: on. Give rotated files too, the oldest first. The
    exit code is 1 if anything is wrong.
    """
    from kes_core.audit.chain import Verification

    verification = Verification(_key(key_file))
    problems: list[Problem] = []
    for file in files:
        try:
            with _opened(file) as lines:
                problems += verification.check(str(file), lines)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise CLIError(f"{str(file)!r} is compressed, and damaged or cut off") from None
    note, why_not = _read_note(files[-1])
    if note is not None:
        problems += _cut_off(files[-1], verification, note)
    if not verification.records:
        raise CLIError("the files contain no records")
    _print(verification, problems, why_not, as_json=as_json)
    if verification.end is not None and len(problems) >= verification.records > 1:
        click.echo("No record fits: is this the key that the chain was made with, and was it made with one?", err=True)
    return 1 if problems else 0


def _key(file: Path | None) -> bytes:
    if file is None:
        return os.environ.get(_KEY_VARIABLE, "").encode("utf-8")
    try:
        return file.read_bytes().strip()
    except OSError as error:
        raise CLIError(f"the key file {str(file)!r} can't be read: {error.strerror}") from None


def _opened(file: Path) -> Any:
    try:
        opened = file.open("rb")
        compressed = opened.peek(2)[:2] == _GZIP  # logrotate compresses files
        # Only line feeds end lines. A line that is not text is not a record.
        return io.TextIOWrapper(
            gzip.GzipFile(fileobj=opened) if compressed else opened,
            encoding="utf-8",
            errors="surrogateescape",
            newline="\n",
        )
    except OSError as error:
        raise CLIError(f"{str(file)!r} can't be read: {error.strerror}") from None


def _read_note(file: Path) -> tuple[tuple[int, str] | None, str]:
    """Return the server's note of the number and the hash at the end of the chain in `file`, or why there is none."""
    note = Path(f"{file}.chain")
    try:
        state = json.loads(note.read_bytes())
        return (int(state["n"]), str(state["hash"])), ""
    except FileNotFoundError:
        why = "is missing"
    except OSError as error:
        why = f"can't be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        why = "holds no end of a chain"
    return None, f"The end was not checked: {str(note)!r} {why}, so records may be missing there."


def _cut_off(file: Path, verification: Verification, note: tuple[int, str]) -> Iterator[Problem]:
    """Compare the end with the server's note, to find out whether records are missing there."""
    from kes_core.audit.chain import Problem

    (number, digest), end = note, verification.end
    if end is None or number > end.number:
        first = end.number + 1 if end is not None else 1
        missing = f"record {number} is" if first == number else f"the records {first} to {number} are"
        yield Problem(str(file), verification.records, f"{missing} missing at the end")
    elif number == end.number and digest != end.hash.hex():
        yield Problem(str(file), verification.records, "the end is not the one that the server has noted")


def _print(verification: Verification, problems: list[Problem], not_checked: str, *, as_json: bool) -> None:
    """Print the result. If the end was not checked, `not_checked` says why."""
    end = verification.end
    facts: dict[str, Any] = {
        "ok": not problems,
        "records": verification.records,
        "first": verification.first,
        "last": end.number if end is not None else None,
        "hash": end.hash.hex() if end is not None else None,
        "end_checked": not not_checked,
    }
    if as_json:
        print_json(facts | {"problems": [dataclasses.asdict(problem) for problem in problems]})
        return
    for problem in itertools.islice(problems, _MAX_SHOWN):
        click.echo(problem)
    if len(problems) > _MAX_SHOWN:
        click.echo(f"... and {len(problems) - _MAX_SHOWN} more")
    if end is not None:
        click.echo(f"Records     {verification.first} to {end.number}")
        click.echo(f"Last hash   {end.hash.hex()}")
    if problems:
        click.echo(styled(f"Problems    {len(problems)}", fg="red", bold=True))
    else:
        click.echo(styled("Nothing was changed, removed or reordered.", fg="green"))
    if not_checked:
        click.echo(styled(not_checked, fg="yellow"))

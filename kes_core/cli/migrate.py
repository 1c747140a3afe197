"""`kes migrate`: copy keys from one key store to another."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._command import Command
from kes_core.cli._common import for_people, print_json
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import KeyStoreChoice
    from kes_core.keys.migration import Migration, OnConflict

__all__ = ["command"]

_AGAIN: Final = "run the same command again to go on from here"
_MAX_SHOWN: Final = 20


@click.command("migrate", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--from", "source", metavar="FILE", required=True, help="A configuration with the key store to read.")
@click.option("--to", "target", metavar="FILE", required=True, help="A configuration with the key store to write.")
@click.option("--merge", is_flag=True, help="Keep the keys that the target already has under the same name.")
@click.option("-f", "--force", is_flag=True, help="Replace the keys that the target already has under the same name.")
@click.option("--dry-run", is_flag=True, help="Write nothing, and print what it would do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("pattern", default="*")
def command(source: str, target: str, merge: bool, force: bool, dry_run: bool, as_json: bool, pattern: str) -> int:
    """Copy the keys whose names match PATTERN: a name, or the beginning of names and a *.

    The command reads each key back after it wrote it. A key that the target already has, byte for byte, counts as
    copied: after an interruption, run the same command again. Another key of the same name is an error without --merge
    or --force. Exit code 0 means that every matching key can be read at the target.
    """
    from kes_core.keys.migration import OnConflict

    if merge and force:
        raise click.UsageError("--merge and --force exclude each other.")
    existing = OnConflict.KEEP if merge else OnConflict.REPLACE if force else OnConflict.FAIL
    choices = _choices(Path(source), Path(target))
    return asyncio.run(_migrate(*choices, pattern, existing, dry_run=dry_run, as_json=as_json))


def _choices(source: Path, target: Path) -> tuple[KeyStoreChoice, KeyStoreChoice]:
    from kes_core.config import ConfigError, load_keystores

    try:
        from_store, to_store = load_keystores(source, target)
    except ConfigError as error:
        raise CLIError(str(error)) from error
    if from_store == to_store:
        raise CLIError(f"{source} and {target} name the same key store: there is nothing to copy")
    if not to_store.backend.persistent:
        raise CLIError(f"{target}: keys in the key store {to_store.backend.name!r} would be gone at the end")
    return from_store, to_store


async def _migrate(
    source: KeyStoreChoice, target: KeyStoreChoice, pattern: str, existing: OnConflict, *, dry_run: bool, as_json: bool
) -> int:
    from kes_core.boundary import Surroundings, connect_store
    from kes_core.keys.migration import Migration
    from kes_core.keystore import KeyStoreError

    async with contextlib.AsyncExitStack() as stores:
        problem = ""
        try:
            opened = []
            for choice in (source, target):
                context = Surroundings().context("keystore", choice.backend, choice.directory)
                store = await connect_store(choice.backend, choice.config, context)
                stores.push_async_callback(store.close)
                opened.append(store)
            migration = Migration(*opened, on_conflict=existing, dry_run=dry_run)
            names = await migration.names(pattern)
        except KeyStoreError as error:
            raise CLIError(str(error)) from error
        loop, started = asyncio.get_running_loop(), time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, migration.stop)
        try:
            ends = f"{source.backend.name} → {target.backend.name}"
            with _progress(ends, len(names), show=for_people(as_json)) as advance:
                await migration.run(names, lambda _name, _outcome: advance())
        except KeyStoreError as error:
            problem = str(error)
        if not problem and migration.summary.done < len(names):
            problem = "interrupted"
        seconds = time.monotonic() - started
        _report(migration, len(names), seconds=seconds, dry_run=dry_run, as_json=as_json)
        if problem:
            raise CLIError(f"{problem}; {_AGAIN}")
        return 1 if migration.summary.failures else 0


def _report(migration: Migration, keys: int, *, seconds: float, dry_run: bool, as_json: bool) -> None:
    counts = {str(outcome): count for outcome, count in migration.summary.counts.items()}
    failures = dict(sorted(migration.summary.failures.items()))
    if as_json:
        print_json({"dry_run": dry_run, "keys": keys, **counts, "failures": failures})
        return
    counted = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to do"
    rate = f" ({migration.summary.done / seconds:.0f} keys/s)" if seconds > 0 and for_people() else ""
    click.echo(f"{'Would be: ' if dry_run else ''}{keys} keys: {counted}{rate}")
    for name, reason in list(failures.items())[:_MAX_SHOWN]:
        click.echo(f"  {name}: {reason}", err=True)
    if len(failures) > _MAX_SHOWN:
        click.echo(f"  and {len(failures) - _MAX_SHOWN} more; --json lists them", err=True)


@contextlib.contextmanager
def _progress(ends: str, total: int, *, show: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar to a person; yield the function that advances it by one key.

    Args:
        ends: The names of both stores, as in `fs → vault`.
        total: The number of keys.
        show: Whether there is a person.
    """
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} keys/s"),
        TimeRemainingColumn(),
    )
    started, done = time.monotonic(), 0
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(ends, total=total, rate="-")

        def advance() -> None:
            nonlocal done
            done += 1
            seconds = time.monotonic() - started
            bar.update(task, advance=1, rate=f"{done / seconds:.0f}" if seconds > 0 else "-")

        yield advance

"""`kes migrate`: copy keys from one key store to another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kes_core.cli._command import Command
from kes_core.cli._common import for_people, print_json
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
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import KeyStoreChoice
    from kes_core.keys.migration import Migration
    from kes_core.keys.writing import OnConflict

__all__ = ["command"]


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
    from kes_core.keys.writing import OnConflict

    if merge and force:
        raise click.UsageError("--merge and --force exclude each other.")
    existing = OnConflict.KEEP if merge else OnConflict.REPLACE if force else OnConflict.FAIL
    choices = _choices(Path(source), Path(target))
    return asyncio.run(_migrate(*choices, pattern, existing, dry_run=dry_run, as_json=as_json))


def _choices(source: Path, target: Path) -> tuple[KeyStoreChoice, KeyStoreChoice]:
    from_store, to_store = key_stores(source, target)
    if from_store == to_store:
        raise CLIError(f"{source} and {target} name the same key store: there is nothing to copy")
    require_persistent(to_store, target)
    return from_store, to_store


async def _migrate(
    source: KeyStoreChoice, target: KeyStoreChoice, pattern: str, existing: OnConflict, *, dry_run: bool, as_json: bool
) -> int:
    from kes_core.keys.migration import Migration
    from kes_core.keystore import KeyStoreError

    async with contextlib.AsyncExitStack() as stores:
        problem = ""
        try:
            found = [await stores.enter_async_context(opened(choice)) for choice in (source, target)]
            migration = Migration(*found, on_conflict=existing, dry_run=dry_run)
            names = await migration.names(pattern)
        except KeyStoreError as error:
            raise CLIError(str(error)) from error
        stopped_by(migration.stop)
        started = time.monotonic()
        try:
            ends = f"{source.backend.name} → {target.backend.name}"
            with progress(ends, len(names), show=for_people(as_json)) as advance:
                await migration.run(names, lambda _name, _outcome: advance())
        except KeyStoreError as error:
            problem = str(error)
        if not problem and migration.summary.done < len(names):
            problem = "interrupted"
        seconds = time.monotonic() - started
        _report(migration, len(names), seconds=seconds, dry_run=dry_run, as_json=as_json)
        if problem:
            raise CLIError(f"{problem}; {AGAIN}")
        return 1 if migration.summary.failures else 0


def _report(migration: Migration, keys: int, *, seconds: float, dry_run: bool, as_json: bool) -> None:
    summary = migration.summary
    failures = dict(sorted(summary.failures.items()))
    if as_json:
        counts = {str(outcome): count for outcome, count in summary.counts.items()}
        print_json({"dry_run": dry_run, "keys": keys, **counts, "failures": failures})
        return
    click.echo(f"{'Would be: ' if dry_run else ''}{keys} keys: {counted(summary)}{rate(summary.done, seconds)}")
    show_failures(failures)

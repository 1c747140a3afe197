"""The shared parts of commands that work on key stores without a server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._common import for_people
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import KeyStoreChoice
    from kes_core.keys.copying import Summary
    from kes_core.keystore import KeyStore

__all__ = [
    "AGAIN",
    "counted",
    "key_stores",
    "opened",
    "progress",
    "rate",
    "require_persistent",
    "show_failures",
    "stopped_by",
]

AGAIN: Final = "run the same command again to go on from here"
"""How an error ends that does not end the work for good."""
_MAX_SHOWN: Final = 20


def key_stores(*paths: Path) -> tuple[KeyStoreChoice, ...]:
    """Return the key store of each configuration file.

    Raises:
        CLIError: A file does not name a usable key store.
    """
    from kes_core.config import ConfigError, load_keystores

    try:
        return load_keystores(*paths)
    except ConfigError as error:
        raise CLIError(str(error)) from error


def require_persistent(choice: KeyStoreChoice, path: Path) -> None:
    """Check that keys written to a store outlast the command.

    Raises:
        CLIError: They do not.
    """
    if not choice.backend.persistent:
        raise CLIError(f"{path}: keys in the key store {choice.backend.name!r} would be gone at the end")


@contextlib.asynccontextmanager
async def opened(choice: KeyStoreChoice) -> AsyncIterator[KeyStore]:
    """Connect to a key store, and close it at the end.

    Raises:
        KeyStoreError: It can't be used.
    """
    from kes_core.boundary import Surroundings, connect_store

    context = Surroundings().context("keystore", choice.backend, choice.directory)
    store = await connect_store(choice.backend, choice.config, context)
    try:
        yield store
    finally:
        await store.close()


def stopped_by(stop: Callable[[], None]) -> None:
    """Call `stop` on Ctrl-C and on SIGTERM from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def counted(summary: Summary) -> str:
    """Return the results of copying keys, for people."""
    found = ", ".join(f"{count} {outcome}" for outcome, count in summary.counts.items() if count)
    return found or "nothing to do"


def show_failures(failures: dict[str, str]) -> None:
    """Print why keys could not be copied, for people, to standard error."""
    for name, reason in list(failures.items())[:_MAX_SHOWN]:
        click.echo(f"  {name}: {reason}", err=True)
    if len(failures) > _MAX_SHOWN:
        click.echo(f"  and {len(failures) - _MAX_SHOWN} more; --json lists them", err=True)


def rate(done: int, seconds: float) -> str:
    """Return how fast keys were copied, for people; empty in a pipe."""
    return f" ({done / seconds:.0f} keys/s)" if seconds > 0 and for_people() else ""


@contextlib.contextmanager
def progress(title: str, total: int | None, *, show: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar to a person; yield the function that advances it by one key.

    Args:
        title: What stands before the bar, as in `fs → vault`.
        total: The number of keys, if it is known.
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
        task = bar.add_task(title, total=total, rate="-")

        def advance() -> None:
            nonlocal done
            done += 1
            seconds = time.monotonic() - started
            bar.update(task, advance=1, rate=f"{done / seconds:.0f}" if seconds > 0 else "-")

        yield advance

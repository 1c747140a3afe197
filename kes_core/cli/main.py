"""The frame of the command line: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final, NoReturn

import click

__all__ = ["CLIError", "cli", "main"]

_COMMANDS: Final = {
    "server": "Start a server.",
    "identity": "Make and inspect API keys, certificates and identities.",
    "key": "Manage and use keys.",
    "policy": "Look at policies.",
    "ls": "List keys, identities or policies.",
    "status": "Show the state of a server.",
    "log": "Show what a server is doing, as it happens.",
    "metric": "Show what a server counts, as it changes.",
    "audit": "Verify audit records.",
    "config": "Check and show configurations.",
    "doctor": "Find out what is wrong, and who is refused and why.",
    "plugins": "List the installed plugins.",
    "plugin": "Write a plugin.",
    "migrate": "Copy keys from one key store to another.",
    "completion": "Let the shell complete commands and options.",
}
"""The commands, in the order of the help, each in the module of its name."""


class CLIError(Exception):
    """A command can't do what it should. The message says why, in a line or a few; the exit code is 1."""


class _Commands(click.Group):
    """Knows its commands by name and imports one when it is called: `kes --help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"kes_core.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib import metadata

        click.echo(f"kes {metadata.version('kes-core')}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Key management for data encryption keys: the server and its command line."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


def _drop_output() -> None:
    """Let nothing more be written: what is still buffered would fail once more, with a traceback, at the end."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main() -> NoReturn:
    """Run the command that the arguments of the process name. Exit code 1: it failed; 2: it was called wrongly."""
    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CLIError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):  # whoever read the output has read enough
            click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)

"""The command `kes`: find the command to run, and turn an error into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import threading
import time
from typing import Final, NoReturn

import click
from click.shell_completion import CompletionItem

from kes_core.cli._command import Group

__all__ = ["CLIError", "cli", "main"]

_SECTIONS: Final = {
    "Run a server": {
        "server": "Start a server.",
        "doctor": "Find what is wrong with a server, and explain refusals.",
        "config": "Check and show configurations.",
        "migrate": "Copy keys from one key store to another.",
        "plugins": "List the installed plugins.",
    },
    "Use a server": {
        "key": "Manage and use keys.",
        "identity": "Make and inspect API keys, certificates and identities.",
        "policy": "Show policies.",
        "ls": "List keys, identities or policies.",
    },
    "Watch a server": {
        "status": "Show the state of a server.",
        "log": "Show requests or errors as they happen.",
        "metric": "Show the metrics of a server as they change.",
        "audit": "Verify audit records.",
    },
    "More": {
        "plugin": "Write a plugin.",
        "completion": "Print a script that completes commands in the shell.",
    },
}
"""The commands in the order of the help. Each is in the module of the same name."""
_COMMANDS: Final = {name: text for commands in _SECTIONS.values() for name, text in commands.items()}


_PATIENCE: Final = 5.0
"""Seconds that threads have to end after the command has ended."""


class CLIError(Exception):
    """A command failed. The message says why, in one line or a few; the exit code is 1."""


class _Commands(Group):
    """The commands by name. Imports a command when it is called: `kes --help` imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from kes_core.cli._foreign import names_of_plugins

        return [*_COMMANDS, *(name for name in names_of_plugins() if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            from kes_core.cli._foreign import PluginCommandError, command_of_plugin

            try:
                return command_of_plugin(cmd_name)
            except PluginCommandError as error:
                raise CLIError(str(error)) from error
        module = importlib.import_module(f"kes_core.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, CLIError, OSError):
            raise
        except Exception as error:
            name = ctx.invoked_subcommand
            if name is None or name in _COMMANDS:
                raise
            from kes_core.cli._foreign import names_of_plugins

            whose = names_of_plugins().get(name, "a plugin")
            raise CLIError(f"the command {name!r} of {whose} failed: {type(error).__name__}") from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing the commands."""
        from kes_core.cli._foreign import names_of_plugins

        texts = {**{name: f"From {packages}." for name, packages in names_of_plugins().items()}, **_COMMANDS}
        found = [CompletionItem(name, help=text) for name, text in texts.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])
        from kes_core.cli._foreign import names_of_plugins

        foreign = {name: packages for name, packages in names_of_plugins().items() if name not in _COMMANDS}
        if foreign:
            with formatter.section("Of plugins"):
                formatter.write_dl([(name.ljust(width), f"From {packages}.") for name, packages in foreign.items()])


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib import metadata

        click.echo(f"kes {metadata.version('kes-core')}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-v", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Manage encryption keys: run a key server, and use one."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


def _drop_output() -> None:
    """Discard buffered output: writing it again when the process ends would print a traceback."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main() -> NoReturn:
    """Run the command that the process's arguments name. Exit with 1 if it fails, with 2 for wrong usage."""
    code = _run()
    _leave_threads(code)
    sys.exit(code)


def _run() -> int:
    """Run the command, and show its error; return the exit code of the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # other encodings than UTF-8 lack some characters
    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return 2
    except click.Abort:
        click.echo("Aborted.", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CLIError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):  # the reader of the output has read enough
            click.echo(f"Error: {error}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _leave_threads(code: int) -> None:
    """End the process if threads of a plugin still run, for which Python would wait without end."""
    others = [each for each in threading.enumerate() if each is not threading.current_thread() and not each.daemon]
    ends = time.monotonic() + _PATIENCE
    for thread in others:
        thread.join(max(0.0, ends - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.flush()
        os._exit(code)

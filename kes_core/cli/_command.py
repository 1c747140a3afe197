"""The base classes of all commands and groups of commands."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

import click

__all__ = ["Command", "Group"]

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_WHOLE: Final = 1000
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""The values of a switch that Go's strconv.ParseBool accepts."""


class Command(click.Command):
    """A command. Its switches also accept a value, because scripts pass one to the Go tool: `--insecure=true`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        switches = {
            name
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and parameter.is_flag
            for name in parameter.opts
        }
        return super().parse_args(ctx, list(_without_values(args, switches)))


def _without_values(arguments: Sequence[str], switches: set[str]) -> Iterator[str]:
    """Yield `arguments` with `--switch` for `--switch=true`, and without `--switch=false`."""
    for position, argument in enumerate(arguments):
        if argument == "--":
            yield from arguments[position:]
            return
        name, separator, value = argument.partition("=")
        if not separator or name not in switches or value not in _TRUE | _FALSE:
            yield argument
        elif value in _TRUE:
            yield name


class Group(click.Group):
    """A group of commands. It proposes a command when a name is misspelled."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence: click would cut it to the width of the terminal."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, each.get_short_help_str(_WHOLE)) for name, each in commands if each is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

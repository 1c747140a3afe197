"""Commands of plugins: `kes NAME`, from the entry-point group `kes.commands`. Loaded only when called."""

from __future__ import annotations

from importlib import metadata
from typing import Final

import click

__all__ = ["PluginCommandError", "command_of_plugin", "names_of_plugins"]

_GROUP: Final = "kes.commands"


class PluginCommandError(Exception):
    """The command of a plugin can't be used. The message says why."""


def names_of_plugins() -> dict[str, str]:
    """Return the names of the commands of plugins, each with the packages that offer it. Imports no plugin."""
    found: dict[str, set[str]] = {}
    for point in metadata.entry_points(group=_GROUP):
        found.setdefault(point.name, set()).add(_package(point))
    return {name: ", ".join(sorted(packages)) for name, packages in sorted(found.items())}


def command_of_plugin(name: str) -> click.Command | None:
    """Import a command of a plugin; return None if no plugin has it.

    Raises:
        PluginCommandError: It can't be imported, is not a click command, or several packages offer it.
    """
    points = {(_package(point), point.value): point for point in metadata.entry_points(group=_GROUP, name=name)}
    if not points:
        return None
    if len(points) > 1:
        packages = ", ".join(sorted(package for package, _value in points))
        raise PluginCommandError(f"several packages offer the command {name!r}: {packages}; uninstall one of them")
    (point,) = points.values()
    try:
        command = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, also SystemExit
        kind = type(error).__name__
        raise PluginCommandError(f"the command {name!r} of {_package(point)} can't be imported: {kind}") from error
    if not isinstance(command, click.Command):
        raise PluginCommandError(f"the command {name!r} of {_package(point)} is not a command of click")
    return command


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"

"""`kes config`: check a configuration, show what is in force, and describe the format to editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kes_core.cli._command import Group
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import LoadedConfig

__all__ = ["command"]

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group("config", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check and show configurations."""


def _load(file: Path) -> LoadedConfig:
    from kes_core.config import ConfigError, load

    try:
        return load(file)
    except ConfigError as error:
        raise CLIError(str(error)) from error


@command.command("check")
@_FILE
def check(file: Path) -> None:
    """Check the configuration FILE without starting a server: every problem and warning, with line and field.

    The server reports the same when it starts. The key store is not contacted.
    """
    from kes_core.config.files import check_files
    from kes_core.tls import TLSError

    loaded = _load(file)
    try:
        about_files = check_files(loaded.config)
    except TLSError as error:
        raise CLIError(f"{file}: tls: {error}") from error
    for warning in (*loaded.warnings, *(f"{file}: tls: {text}" for text in about_files)):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{file}: ok")


@command.command("show")
@_FILE
def show(file: Path) -> None:
    """Show what is in force with the configuration FILE: with defaults and variables filled in and secrets masked."""
    import yaml

    from kes_core.config.views import effective

    click.echo(yaml.safe_dump(effective(_load(file).config), sort_keys=False, allow_unicode=True), nl=False)


@command.command("schema")
def schema() -> None:
    """Print a JSON Schema of configuration files, with the sections of the installed plugins, for editors."""
    from kes_core.config.views import json_schema
    from kes_core.plugins import load_plugins

    click.echo(json.dumps(json_schema(load_plugins()), indent=2))

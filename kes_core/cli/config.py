"""`kes config`: check a configuration, show it as the server applies it, and describe the format to editors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kes_core.cli._command import Group
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import LoadedConfig

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])


def _takes_file(function: F) -> F:
    """Let a command take its configuration file as an argument or as `--config`."""

    @click.argument("file", required=False, type=click.Path(path_type=Path))
    @click.option("--config", "config_file", metavar="FILE", type=click.Path(path_type=Path), help="The same as FILE.")
    @functools.wraps(function)
    def command(file: Path | None, config_file: Path | None) -> Any:
        files = [given for given in (file, config_file) if given is not None]
        if len(files) != 1:
            raise click.UsageError("Give one configuration: FILE, or --config FILE.")
        return function(files[0])

    return command  # type: ignore[return-value] # click calls it with its own arguments


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
@_takes_file
def check(file: Path) -> None:
    """Check a configuration without starting a server.

    Print every problem and warning in FILE with its line and field, as the server does when it starts. Do not
    contact the key store.
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
@_takes_file
def show(file: Path) -> None:
    """Show a configuration as the server applies it.

    Fill in defaults, resolve variables and mask secrets in FILE.
    """
    import yaml

    from kes_core.config.views import effective, exposed_credentials

    config = _load(file).config
    click.echo(yaml.safe_dump(effective(config), sort_keys=False, allow_unicode=True), nl=False)
    for field in exposed_credentials(config):
        click.echo(
            f"warning: {field} looks like a credential and is shown: its plugin should use the type Secret", err=True
        )


@command.command("schema")
def schema() -> None:
    """Print a JSON Schema of configurations for editors.

    It includes the sections of the installed plugins.
    """
    from kes_core.config.views import json_schema
    from kes_core.plugins import load_plugins

    click.echo(json.dumps(json_schema(load_plugins()), indent=2))

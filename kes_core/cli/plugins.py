"""`kes plugins`: the installed plugins, and why some of them are skipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from kes_core.cli._command import Command
from kes_core.cli._common import json_option, print_json, print_table
from kes_core.cli._terminal import escape_control

__all__ = ["command"]


@click.command("plugins", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Apply its plugins.block.",
)
@click.option("--debug", is_flag=True, help="Show the whole error of a skipped plugin. It may contain a secret.")
@json_option
def command(config_file: Path | None, debug: bool, as_json: bool) -> None:
    """List the installed plugins: what each contributes, or why it was skipped."""
    from kes_core.config import blocked_plugins
    from kes_core.plugins import load_plugins

    infos = load_plugins(block=blocked_plugins(config_file) if config_file is not None else ()).infos
    if as_json:
        hidden = () if debug else ("details",)
        print_json(
            [{key: value for key, value in dataclasses.asdict(info).items() if key not in hidden} for info in infos]
        )
        return
    rows = []
    for info in infos:
        kinds = {
            "key store": info.backends,
            "policy engine": info.engines,
            "audit sink": info.sinks,
            "front end": info.frontends,
            "hook": info.hooks,
        }
        given = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names) or "nothing"
        rows.append([info.name, info.distribution, info.version, f"skipped: {info.error}" if info.error else given])
    print_table(["Plugin", "Distribution", "Version", "Contributes"], rows)
    for info in infos:
        if debug and info.details:
            click.echo("\n" + "\n".join(escape_control(line) for line in f"{info.name}: {info.details}".splitlines()))

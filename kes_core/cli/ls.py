"""`kes ls`: list keys, identities or policies."""

from __future__ import annotations

from typing import Any

import click

from kes_core.cli._common import server_options
from kes_core.cli.key import print_names

__all__ = ["command"]


@click.command("ls", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pattern", default="")
@click.option("-i", "--identity", is_flag=True, help="List identities.")
@click.option("-p", "--policy", is_flag=True, help="List policies.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@server_options
def command(server: Any, pattern: str, identity: bool, policy: bool, as_json: bool) -> None:
    """List keys, or identities or policies, whose names begin with PATTERN."""
    if identity and policy:
        raise click.UsageError("-i and -p exclude each other.")
    with server() as client:
        if identity:
            print_names(list(client.list_identities(pattern)), "Identity", as_json=as_json)
        elif policy:
            print_names(list(client.list_policies(pattern)), "Policy", as_json=as_json)
        else:
            print_names(list(client.list_keys(pattern)), "Key", as_json=as_json)

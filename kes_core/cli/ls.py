"""`kes ls`: list keys, identities or policies."""

from __future__ import annotations

from typing import Any

import click

from kes_core.cli._command import Command
from kes_core.cli._common import json_option, server_options
from kes_core.cli.key import print_names

__all__ = ["command"]


@click.command("ls", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pattern", default="")
@click.option("-i", "--identity", is_flag=True, help="List identities instead of keys.")
@click.option("-p", "--policy", is_flag=True, help="List policies instead of keys.")
@json_option
@server_options
def command(server: Any, pattern: str, identity: bool, policy: bool, as_json: bool) -> None:
    """List the keys, identities or policies whose names begin with PATTERN."""
    if identity and policy:
        raise click.UsageError("-i and -p exclude each other.")
    what, title = ("identities", "Identity") if identity else ("policies", "Policy") if policy else ("keys", "Key")
    with server(f"list {what}") as client:
        lists = {"identities": client.list_identities, "policies": client.list_policies, "keys": client.list_keys}
        print_names(list(lists[what](pattern)), title, as_json=as_json)

"""`kes policy`: look at policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kes_core.cli._common import for_people, print_json, server_options
from kes_core.cli._terminal import describe_time, escape_control, print_facts, styled
from kes_core.cli.key import print_names
from kes_core.units import format_time

if TYPE_CHECKING:
    from kes_core.client import IdentityInfo, PolicyInfo

__all__ = ["command", "print_patterns"]


@click.group("policy", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look at policies. They are made in the server's configuration file."""


@command.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@server_options
def info(server: Any, name: str, as_json: bool) -> None:
    """Show facts about a policy."""
    with server() as client:
        found = client.describe_policy(name)
    if for_people(as_json):
        print_facts(
            [
                ("Name", escape_control(found.name)),
                ("Created", describe_time(found.created_at)),
                ("Created by", escape_control(found.created_by) or "-"),
            ]
        )
    else:
        print_json({"name": found.name, "created_at": format_time(found.created_at), "created_by": found.created_by})


@command.command("ls")
@click.argument("pattern", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@server_options
def ls(server: Any, pattern: str, as_json: bool) -> None:
    """List the policies whose names begin with PATTERN."""
    with server() as client:
        print_names(list(client.list_policies(pattern)), "Policy", as_json=as_json)


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@server_options
def show(server: Any, name: str, as_json: bool) -> None:
    """Show a policy with its patterns."""
    with server() as client:
        found = client.read_policy(name)
    if not for_people(as_json):
        print_json(
            {
                "allow": {pattern: {} for pattern in found.allow},
                "deny": {pattern: {} for pattern in found.deny},
                "created_at": format_time(found.created_at),
                "created_by": found.created_by,
            }
        )
        return
    print_patterns(found)


def print_patterns(found: PolicyInfo | IdentityInfo) -> None:
    """Print what is allowed and what is denied. A policy without patterns allows nothing."""
    for title, patterns, colour in (("Allow", found.allow, "green"), ("Deny", found.deny, "red")):
        if patterns:
            click.echo(styled(f"{title}:", bold=True, fg=colour))
            for pattern in patterns:
                click.echo(f"  · {escape_control(pattern)}")
    if not found.allow and not found.deny:
        click.echo("It allows nothing.")

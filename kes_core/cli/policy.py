"""`kes policy`: show policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kes_core.cli._command import Group
from kes_core.cli._common import for_people, json_option, print_json, quote, server_options
from kes_core.cli._terminal import describe_time, escape_control, print_facts, styled
from kes_core.cli.key import print_names
from kes_core.units import format_time

if TYPE_CHECKING:
    from kes_core.client import IdentityInfo, PolicyInfo

__all__ = ["command", "print_patterns"]


@click.group("policy", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show policies. The server's configuration file defines them."""


@command.command("info")
@click.argument("name")
@json_option
@server_options
def info(server: Any, name: str, as_json: bool) -> None:
    """Show facts about a policy."""
    with server(f"describe policy {quote(name)}") as client:
        found = client.describe_policy(name)
    if as_json:
        print_json({"name": found.name, "created_at": format_time(found.created_at), "created_by": found.created_by})
        return
    print_facts(
        [
            ("Name", escape_control(found.name)),
            ("Created", describe_time(found.created_at)),
            ("Created by", escape_control(found.created_by) or "-"),
        ]
    )


@command.command("ls")
@click.argument("pattern", default="")
@json_option
@server_options
def ls(server: Any, pattern: str, as_json: bool) -> None:
    """List the policies whose names begin with PATTERN."""
    with server("list policies") as client:
        print_names(list(client.list_policies(pattern)), "Policy", as_json=as_json)


@command.command("show")
@click.argument("name")
@json_option
@server_options
def show(server: Any, name: str, as_json: bool) -> None:
    """Show a policy with its patterns."""
    with server(f"show policy {quote(name)}") as client:
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
    """Print the patterns of a policy."""
    for title, patterns, colour in (("Allow", found.allow, "green"), ("Deny", found.deny, "red")):
        if patterns:
            click.echo(styled(f"{title}:", bold=True, fg=colour))
            for pattern in patterns:
                click.echo(f"  · {escape_control(pattern)}")
    if not found.allow and not found.deny:
        click.echo("The policy allows nothing.")

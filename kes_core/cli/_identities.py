"""`kes identity info` and `kes identity ls`: what a server knows of identities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kes_core.cli._command import Command
from kes_core.cli._common import for_people, json_option, print_json, print_table, quote, server_options
from kes_core.cli._terminal import describe_time, escape_control, print_facts
from kes_core.cli.key import print_names
from kes_core.units import format_time

if TYPE_CHECKING:
    from kes_core.client import Client, IdentityInfo

__all__ = ["info", "ls"]


@click.command("info", cls=Command)
@click.argument("identity", default="")
@json_option
@server_options
def info(server: Any, identity: str, as_json: bool) -> None:
    """Show facts about an identity. Without an argument, show your own."""
    with server(f"describe identity {quote(identity)}" if identity else "describe your identity") as client:
        found = client.describe_identity(identity) if identity else client.describe_self()
    if not as_json:
        _print_info(found, with_patterns=not identity)
        return
    facts: dict[str, Any] = {
        "identity": found.identity,
        "admin": found.is_admin,
        "policy": found.policy,
        "created_at": format_time(found.created_at),
        "created_by": found.created_by,
    }
    if not identity:
        facts |= {"allow": list(found.allow), "deny": list(found.deny)}
    print_json(facts)


def _print_info(found: IdentityInfo, *, with_patterns: bool) -> None:
    from kes_core.cli.policy import print_patterns

    facts = [
        ("Identity", escape_control(found.identity)),
        ("Role", "Admin: allowed everything" if found.is_admin else "User"),
        ("Created", describe_time(found.created_at)),
        ("Created by", escape_control(found.created_by) or "-"),
    ]
    if not found.is_admin:
        facts.insert(2, ("Policy", escape_control(found.policy) or "none: allowed nothing"))
    print_facts(facts)
    if with_patterns and found.policy and not found.is_admin:
        click.echo()
        print_patterns(found)


@click.command("ls", cls=Command)
@click.argument("pattern", default="")
@click.option("-l", "--long", "is_long", is_flag=True, help="Show roles and policies in a pipe and in JSON too.")
@json_option
@server_options
def ls(server: Any, pattern: str, is_long: bool, as_json: bool) -> None:
    """List the identities that begin with PATTERN.

    On a terminal, show the role and the policy of each. That needs a policy that allows /v1/identity/describe/*.
    """
    is_long = is_long or for_people(as_json)
    with server("list identities") as client:
        names = list(client.list_identities(pattern))
        found = _described(client, names) if is_long and names else None
    if found is None:
        print_names(names, "Identity", as_json=as_json)
    elif as_json:
        print_json([{"identity": each.identity, "admin": each.is_admin, "policy": each.policy} for each in found])
    else:
        rows = [[each.identity, "admin" if each.is_admin else "user", each.policy or "-"] for each in found]
        print_table(["Identity", "Role", "Policy"], rows)


def _described(client: Client, names: list[str]) -> list[IdentityInfo] | None:
    """Describe identities; return None if the caller may only list them."""
    from kes_core.client import IdentityNotFoundError, NotAllowedError

    found = []
    for name in names:
        try:
            found.append(client.describe_identity(name))
        except IdentityNotFoundError:
            continue  # a reload has just removed it
        except NotAllowedError:
            click.echo("No role and no policy is shown: you may not describe identities.", err=True)
            return None
    return found

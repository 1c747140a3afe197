"""`kes kubernetes`: what an administrator of a cluster needs."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["command"]


@click.group("kubernetes")
def command() -> None:
    """Examine the KMS plugin for Kubernetes."""


@command.command("check")
@click.argument("socket", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(socket: Path, *, as_json: bool) -> None:
    """Ask the plugin behind SOCKET what an API server asks: its status, to encrypt and to decrypt."""
    from kes_kubernetes.client import KMSCallError, ask

    try:
        found = ask(socket.absolute())
    except KMSCallError as error:
        raise click.ClickException(f"{socket}: {_shown(str(error))}") from None
    if as_json:
        facts = {"health": found.health, "key_id": found.key_id, "size": found.size}
        click.echo(json.dumps(facts | {"seconds": round(found.seconds, 4)}))
    else:
        click.echo(f"health  {_shown(found.health)}")
        click.echo(f"key_id  {_shown(found.key_id)}")
        click.echo(f"a data encryption key becomes {found.size} bytes; all took {found.seconds * 1000:.0f} ms")
    if found.health != "ok":
        raise click.ClickException("the plugin is not healthy")


def _shown(text: str) -> str:
    """Return a text of the plugin without characters that a terminal would interpret."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

"""`kes key`: manage and use keys."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from kes_core.cli._common import decode_base64_argument, explain, for_people, print_json, print_table, server_options
from kes_core.cli._terminal import describe_time, escape_control, print_facts
from kes_core.cli.main import CLIError
from kes_core.units import format_time

__all__ = ["command"]


@click.group("key", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Manage and use keys."""


@command.command("create")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@server_options
def create(server: Any, names: tuple[str, ...]) -> None:
    """Make new random keys."""
    with server() as client:
        for number, name in enumerate(names):
            with _one_of(names, number):
                client.create_key(name)


@contextlib.contextmanager
def _one_of(names: tuple[str, ...], number: int) -> Iterator[None]:
    """Say which of several keys something fails for: those before it are done by then."""
    from kes_core.client import KESError

    try:
        yield
    except KESError as error:
        if len(names) == 1:
            raise
        before = "; those before it are done" if number else ""
        raise CLIError(f"{names[number]!r}: {explain(error)}{before}") from error


@command.command("import")
@click.argument("name")
@click.argument("key", metavar="KEY")
@click.option(
    "--cipher",
    default="AES256",
    show_default=True,
    type=click.Choice(["AES256", "ChaCha20"]),
    help="What the key is for.",
)
@server_options
def import_(server: Any, name: str, key: str, cipher: str) -> None:
    """Store a key made elsewhere: 32 bytes in base64; - reads it from standard input."""
    with server() as client:
        client.import_key(name, decode_base64_argument(key, "key"), cipher)


@command.command("info")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@server_options
def info(server: Any, names: tuple[str, ...], as_json: bool) -> None:
    """Show facts about keys, never the keys."""
    with server() as client:
        for number, name in enumerate(names):
            with _one_of(names, number):
                found = client.describe_key(name)
            if for_people(as_json):
                if number:
                    click.echo()
                print_facts(
                    [
                        ("Name", escape_control(found.name)),
                        ("Algorithm", escape_control(found.algorithm)),
                        ("Created", describe_time(found.created_at)),
                        ("Created by", escape_control(found.created_by) or "-"),
                    ]
                )
            else:
                print_json(dataclasses.asdict(found) | {"created_at": format_time(found.created_at)})


@command.command("ls")
@click.argument("pattern", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@server_options
def ls(server: Any, pattern: str, as_json: bool) -> None:
    """List the keys whose names begin with PATTERN."""
    with server() as client:
        print_names(list(client.list_keys(pattern)), "Key", as_json=as_json)


def print_names(names: list[str], title: str, *, as_json: bool) -> None:
    """Print a listing."""
    if for_people(as_json):
        print_table([title], [[name] for name in names])
    else:
        print_json(names)


@command.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@server_options
def rm(server: Any, names: tuple[str, ...]) -> None:
    """Delete keys for good, and with them everything that they have encrypted."""
    with server() as client:
        for number, name in enumerate(names):
            with _one_of(names, number):
                client.delete_key(name)


@command.command("encrypt")
@click.argument("name")
@click.argument("message")
@server_options
def encrypt(server: Any, name: str, message: str) -> None:
    """Encrypt a message given in base64; - reads it from standard input."""
    from kes_core.encoding import encode_base64

    with server() as client:
        ciphertext = encode_base64(client.encrypt(name, decode_base64_argument(message, "message")))
    if for_people():
        click.echo(f"\nciphertext: {ciphertext}")
    else:
        print_json({"ciphertext": ciphertext})


@command.command("decrypt")
@click.argument("name")
@click.argument("ciphertext")
@click.argument("context", default="")
@server_options
def decrypt(server: Any, name: str, ciphertext: str, context: str) -> None:
    """Decrypt a ciphertext given in base64, with its CONTEXT in base64; - reads it from standard input."""
    from kes_core.encoding import encode_base64

    sealed, bound = decode_base64_argument(ciphertext, "ciphertext"), decode_base64_argument(context, "context")
    with server() as client:
        plaintext = encode_base64(client.decrypt(name, sealed, bound))
    if for_people():
        click.echo(f"\nplaintext: {plaintext}")
    else:
        print_json({"plaintext": plaintext})


@command.command("dek")
@click.argument("name")
@click.argument("context", default="")
@server_options
def dek(server: Any, name: str, context: str) -> None:
    """Make a data encryption key, bound to a CONTEXT given in base64."""
    from kes_core.encoding import encode_base64

    with server() as client:
        made = client.generate_data_key(name, decode_base64_argument(context, "context"))
    plaintext, ciphertext = encode_base64(made.plaintext), encode_base64(made.ciphertext)
    if for_people():
        click.echo(f"{{\n  plaintext : {plaintext}\n  ciphertext: {ciphertext}\n}}")
    else:
        print_json({"plaintext": plaintext, "ciphertext": ciphertext})

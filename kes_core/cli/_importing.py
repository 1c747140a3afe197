"""`kes key import` and `kes key wrapping-key`: keys that were made elsewhere."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kes_core.cli._command import Command
from kes_core.cli._common import decode_base64_argument, for_people, json_option, print_json, quote, server_options
from kes_core.cli._terminal import describe_time, print_facts
from kes_core.cli.main import CLIError
from kes_core.units import format_time

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from kes_core.client import Client

__all__ = ["import_key", "wrapping_key"]


class _Wrapped(NamedTuple):
    """What is sent: a wrapped key, and the id of its wrapping key; or a plain key and None."""

    key: bytes
    wrapping_key: str | None


@click.command("import", cls=Command)
@click.argument("name")
@click.argument("key", metavar="[KEY]", required=False)
@click.option(
    "--cipher",
    default=None,
    type=click.Choice(["AES256", "ChaCha20"]),
    help="The cipher that the key is for: AES256 if not given, or that of the key with --new-version.",
)
@click.option(
    "--wrap",
    "is_to_wrap",
    is_flag=True,
    help="Wrap the KEY before it is sent: a TLS proxy that reads along does not learn it.",
)
@click.option("--wrapped", metavar="FILE", help="Import a key that is wrapped already, as by an HSM or by openssl.")
@click.option(
    "--wrapping-key",
    "wrapping_key_file",
    metavar="FILE",
    help="The wrapping key, as `kes key wrapping-key` printed it. Without it: the one that it would print now.",
)
@click.option("--new-version", is_flag=True, help="Add it as the newest version of the key NAME, which exists.")
@server_options
def import_key(
    server: Any,
    name: str,
    key: str | None,
    cipher: str | None,
    is_to_wrap: bool,
    wrapped: str | None,
    wrapping_key_file: str | None,
    new_version: bool,
) -> None:
    """Store a given KEY: 32 bytes in base64. - reads it from standard input.

    With --wrapped, FILE has the 552 bytes of a wrapped key, or their base64, and - is standard input.
    """
    if (key is None) == (wrapped is None):
        raise click.UsageError("Give a KEY, or --wrapped FILE, and not both.")
    if wrapped is not None and is_to_wrap:
        raise click.UsageError("--wrap and --wrapped exclude each other.")
    if wrapping_key_file is not None and wrapped is None and not is_to_wrap:
        raise click.UsageError("--wrapping-key needs --wrap or --wrapped.")
    public_key = _read_wrapping_key(wrapping_key_file) if wrapping_key_file is not None else None
    material = decode_base64_argument(key, "key") if key is not None else _read_wrapped(wrapped or "")
    with server(f"import key {quote(name)}") as client:
        sent = _Wrapped(material, None)
        if is_to_wrap or wrapped is not None:
            sent = _prepare(client, material, public_key, is_wrapped=wrapped is not None)
        if new_version:
            done = client.import_key_version(name, sent.key, wrapping_key=sent.wrapping_key, cipher=cipher)
            click.echo(f"{quote(name)} has version {done.version} now")
        elif sent.wrapping_key is None:
            client.import_key(name, sent.key, cipher or "AES256")
        else:
            client.import_wrapped_key(name, sent.key, sent.wrapping_key, cipher or "AES256")


def _prepare(client: Client, material: bytes, public_key: RSAPublicKey | None, *, is_wrapped: bool) -> _Wrapped:
    """Wrap a key, or take one that is wrapped, for the given wrapping key or for the server's current one."""
    from kes_core.keys.wrapping import public_key_id, read_public_key, wrap

    if public_key is None:
        try:
            public_key = read_public_key(client.wrapping_key().public_key.encode())
        except ValueError as error:
            raise CLIError(f"the server's wrapping key can't be used: {error}") from None
    return _Wrapped(material if is_wrapped else wrap(public_key, material), public_key_id(public_key))


def _read_wrapping_key(filename: str) -> RSAPublicKey:
    from kes_core.keys.wrapping import read_public_key

    try:
        return read_public_key(_read(filename))
    except ValueError as error:
        raise CLIError(f"{quote(filename)} is not a wrapping key: {error}") from None


def _read_wrapped(filename: str) -> bytes:
    """Return the wrapped key in a file. Anything else is refused here: it may be a key in the clear."""
    from kes_core.encoding import decode_base64
    from kes_core.keys.wrapping import WRAPPED_SIZE

    content = sys.stdin.buffer.read() if filename == "-" else _read(filename)
    if len(content) != WRAPPED_SIZE:
        try:
            content = decode_base64(content.decode("ascii").strip())
        except ValueError:
            pass
    if len(content) != WRAPPED_SIZE:
        raise CLIError(f"{quote(filename)} holds no wrapped key, which has {WRAPPED_SIZE} bytes; nothing was sent")
    return content


def _read(filename: str) -> bytes:
    try:
        return Path(filename).read_bytes()
    except OSError as error:
        raise CLIError(f"{quote(filename)} can't be read: {error.strerror}") from None


@click.command("wrapping-key", cls=Command)
@json_option
@server_options
def wrapping_key(server: Any, as_json: bool) -> None:
    """Print the public key of the server for which keys are wrapped, in PEM.

    The server imports what is wrapped for it for at least a week. A terminal shows until when.
    """
    from kes_core.keys.wrapping import public_key_id, public_key_pem, read_public_key

    with server("read the wrapping key") as client:
        found = client.wrapping_key()
    if as_json:
        times = {"created_at": format_time(found.created_at), "expires_at": format_time(found.expires_at)}
        print_json(dataclasses.asdict(found) | times)
        return
    try:
        public_key = read_public_key(found.public_key.encode())
    except ValueError as error:
        raise CLIError(f"the server's wrapping key can't be used: {error}") from None
    if for_people():
        print_facts([("ID", public_key_id(public_key)), ("Expires", describe_time(found.expires_at))])
    click.echo(public_key_pem(public_key), nl=False)

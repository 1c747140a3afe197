"""`kes key`: manage and use keys."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import click

from kes_core.cli import _importing
from kes_core.cli._command import Group
from kes_core.cli._common import (
    decode_base64_argument,
    explain,
    for_people,
    json_option,
    print_json,
    print_table,
    quote,
    server_options,
)
from kes_core.cli._terminal import describe_time, escape_control, print_facts
from kes_core.cli.main import CLIError
from kes_core.units import format_time, parse_duration

__all__ = ["command"]

_DAYS = re.compile(r"(\d{1,5})d", re.ASCII)
_NAMES = click.argument("names", metavar="NAME...", nargs=-1, required=True)


def _age(_context: click.Context, _option: click.Parameter, text: str | None) -> timedelta | None:
    """Read an age, in days or as a duration."""
    if text is None:
        return None
    days = _DAYS.fullmatch(text)
    if days is not None:
        return timedelta(days=int(days[1]))
    try:
        return timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(f"{quote(text)} {error}; or days, as in 90d") from None


@click.group("key", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Manage and use keys."""


command.add_command(_importing.import_key)
command.add_command(_importing.wrapping_key)


@command.command("create")
@_NAMES
@server_options
def create(server: Any, names: tuple[str, ...]) -> None:
    """Create random keys."""
    with server("create keys") as client:
        for name in names:
            with _naming(name, "create", names):
                client.create_key(name)


@contextlib.contextmanager
def _naming(name: str, verb: str, names: tuple[str, ...]) -> Iterator[None]:
    """Make an error name its key, and say that the keys before it are done."""
    from kes_core.client import KESError

    try:
        yield
    except KESError as error:
        before = "; those before it are done" if name != names[0] else ""
        raise CLIError(f"failed to {verb} key {quote(name)}: {explain(error)}{before}") from error


@command.command("info")
@_NAMES
@json_option
@server_options
def info(server: Any, names: tuple[str, ...], as_json: bool) -> None:
    """Show facts about keys. Key material is never shown."""
    with server("describe keys") as client:
        for number, name in enumerate(names):
            with _naming(name, "describe", (name,)):
                found = client.describe_key(name)
            if as_json:
                facts = dataclasses.asdict(found) | {"created_at": format_time(found.created_at)}
                # Scripts compare what is printed for keys to which nothing was added.
                if found.version == 1:
                    del facts["version"]
                if found.min_decryption_version == 1:
                    del facts["min_decryption_version"]
                if found.state == "enabled":
                    del facts["state"]
                if found.delete_at is None:
                    del facts["delete_at"]
                else:
                    facts["delete_at"] = format_time(found.delete_at)
                print_json(facts)
                continue
            if number:
                click.echo()
            print_facts(
                [
                    ("Name", escape_control(found.name)),
                    ("Algorithm", escape_control(found.algorithm)),
                    *([("Version", str(found.version))] if found.version > 1 else []),
                    *(
                        [("Decrypts from", f"version {found.min_decryption_version} on")]
                        if found.min_decryption_version > 1
                        else []
                    ),
                    *([("State", escape_control(found.state))] if found.state != "enabled" else []),
                    *([("Deleted at", describe_time(found.delete_at))] if found.delete_at is not None else []),
                    ("Created", describe_time(found.created_at)),
                    ("Created by", escape_control(found.created_by) or "-"),
                ]
            )


@command.command("ls")
@click.argument("pattern", default="")
@json_option
@server_options
def ls(server: Any, pattern: str, as_json: bool) -> None:
    """List the keys whose names begin with PATTERN."""
    with server("list keys") as client:
        print_names(list(client.list_keys(pattern)), "Key", as_json=as_json)


def print_names(names: list[str], title: str, *, as_json: bool) -> None:
    """Print a header, and one name per line. In a pipe, print nothing for an empty listing, as the Go tool does."""
    if as_json:
        print_json(names)
    elif names or for_people():
        print_table([title], [[name] for name in names])


@command.command("rm")
@_NAMES
@click.option(
    "--in",
    "after",
    metavar="TIME",
    callback=_age,
    help="Delete them after this time, 7d or 240h; until then refuse their use, and `kes key undelete` keeps them.",
)
@server_options
def rm(server: Any, names: tuple[str, ...], after: timedelta | None) -> None:
    """Delete keys. Nothing that they encrypted can be decrypted again."""
    with server("delete keys") as client:
        for name in names:
            with _naming(name, "delete", names):
                if after is None:
                    client.delete_key(name)
                    continue
                delete_at = client.schedule_key_deletion(name, after=after)
            click.echo(f"{quote(name)} will be deleted {describe_time(delete_at)}")


command.add_command(rm, "delete")


@command.command("undelete")
@_NAMES
@server_options
def undelete(server: Any, names: tuple[str, ...]) -> None:
    """Keep keys whose deletion is scheduled, in the state that they had before."""
    with server("undelete keys") as client:
        for name in names:
            with _naming(name, "undelete", names):
                client.undelete_key(name)


@command.command("rotate")
@_NAMES
@click.option(
    "--if-older-than",
    metavar="AGE",
    callback=_age,
    help="Leave a key as it is if its newest version is younger: 90d, 12h.",
)
@json_option
@server_options
def rotate(server: Any, names: tuple[str, ...], if_older_than: timedelta | None, as_json: bool) -> None:
    """Add a version to keys. The newest version encrypts, and all versions decrypt what they encrypted.

    With --if-older-than, the command may run on several machines at once, and again and again.
    """
    with server("rotate keys") as client:
        for name in names:
            with _naming(name, "rotate", names):
                done = client.rotate_key(name, if_older_than=if_older_than)
            if as_json:
                facts = {"name": name, "version": done.version, "rotated": done.is_rotated}
                print_json(facts | {"created_at": format_time(done.created_at)})
            elif done.is_rotated:
                click.echo(f"{quote(name)} has version {done.version} now")
            else:
                click.echo(f"{quote(name)} stays at version {done.version}, made {describe_time(done.created_at)}")


@command.command("min-version")
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@server_options
def min_version(server: Any, name: str, version: int) -> None:
    """Refuse to decrypt ciphertexts of versions before VERSION. 1 allows all of them again."""
    with server(f"change key {quote(name)}") as client:
        client.set_min_decryption_version(name, version)


@command.command("disable")
@_NAMES
@click.option("--allow-decrypt", is_flag=True, help="Still decrypt, and compute HMACs.")
@server_options
def disable(server: Any, names: tuple[str, ...], allow_decrypt: bool) -> None:
    """Refuse the use of keys until they are enabled again. Nothing is deleted."""
    with server("disable keys") as client:
        for name in names:
            with _naming(name, "disable", names):
                client.disable_key(name, allow_decrypt=allow_decrypt)


@command.command("enable")
@_NAMES
@server_options
def enable(server: Any, names: tuple[str, ...]) -> None:
    """Allow the use of disabled keys again."""
    with server("enable keys") as client:
        for name in names:
            with _naming(name, "enable", names):
                client.enable_key(name)


@command.command("versions")
@click.argument("name")
@json_option
@server_options
def versions(server: Any, name: str, as_json: bool) -> None:
    """List the versions of a key, the oldest one first."""
    with server(f"list the versions of key {quote(name)}") as client:
        found = client.key_versions(name)
    if as_json:
        print_json([dataclasses.asdict(each) | {"created_at": format_time(each.created_at)} for each in found])
        return
    rows = [
        [str(each.version), each.algorithm, describe_time(each.created_at), each.created_by or "-"] for each in found
    ]
    print_table(["Version", "Algorithm", "Created", "Created by"], rows)


@command.command("rewrap")
@click.argument("name")
@click.argument("ciphertext")
@click.argument("context", default="")
@json_option
@server_options
def rewrap(server: Any, name: str, ciphertext: str, context: str, as_json: bool) -> None:
    """Encrypt a CIPHERTEXT, in base64, again under the newest version of the key. - reads it from standard input.

    The CONTEXT, in base64, stays the same. Nobody sees the plaintext.
    """
    from kes_core.encoding import encode_base64

    sealed, bound = decode_base64_argument(ciphertext, "ciphertext"), decode_base64_argument(context, "context")
    with server(f"rewrap with key {quote(name)}") as client:
        again = encode_base64(client.rewrap(name, sealed, bound))
    _print_values({"ciphertext": again}, "\n{}: {}", as_json=as_json)


@command.command("encrypt")
@click.argument("name")
@click.argument("message")
@json_option
@server_options
def encrypt(server: Any, name: str, message: str, as_json: bool) -> None:
    """Encrypt a MESSAGE, taken as it is. - reads it from standard input."""
    from kes_core.encoding import encode_base64

    content = sys.stdin.buffer.read() if message == "-" else os.fsencode(message)
    with server(f"encrypt with key {quote(name)}") as client:
        ciphertext = encode_base64(client.encrypt(name, content))
    _print_values({"ciphertext": ciphertext}, "\n{}: {}", as_json=as_json)


@command.command("decrypt")
@click.argument("name")
@click.argument("ciphertext")
@click.argument("context", default="")
@json_option
@server_options
def decrypt(server: Any, name: str, ciphertext: str, context: str, as_json: bool) -> None:
    """Decrypt a CIPHERTEXT, in base64, with its CONTEXT, in base64. - reads it from standard input.

    The plaintext is printed in base64.
    """
    from kes_core.encoding import encode_base64

    sealed, bound = decode_base64_argument(ciphertext, "ciphertext"), decode_base64_argument(context, "context")
    with server(f"decrypt with key {quote(name)}") as client:
        plaintext = encode_base64(client.decrypt(name, sealed, bound))
    _print_values({"plaintext": plaintext}, "\n{}: {}", as_json=as_json)


@command.command("dek")
@click.argument("name")
@click.argument("context", default="")
@json_option
@server_options
def dek(server: Any, name: str, context: str, as_json: bool) -> None:
    """Generate a data encryption key, bound to a CONTEXT in base64."""
    from kes_core.encoding import encode_base64

    bound = decode_base64_argument(context, "context")
    with server(f"generate a data encryption key with key {quote(name)}") as client:
        made = client.generate_data_key(name, bound)
    values = {"plaintext": encode_base64(made.plaintext), "ciphertext": encode_base64(made.ciphertext)}
    _print_values(values, "  {:<10}: {}", as_json=as_json, frame=True)


def _print_values(values: Mapping[str, str], line: str, *, as_json: bool, frame: bool = False) -> None:
    """Print the result of a cryptographic command: JSON in a pipe, as in the Go tool."""
    if not for_people(as_json):
        print_json(values)
        return
    lines = [line.format(name, value) for name, value in values.items()]
    click.echo("\n".join(["{", *lines, "}"] if frame else lines))

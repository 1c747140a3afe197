"""What commands that speak to a server share: their options, the client they make, and how they print."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kes_core.cli._terminal import escape_control
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.client import Client, KESError

__all__ = [
    "connected",
    "decode_base64_argument",
    "explain",
    "for_people",
    "print_json",
    "print_table",
    "server_options",
]

F = TypeVar("F", bound=Callable[..., Any])

_PASSWORD: Final = "KES_CLIENT_KEY_PASSWORD"
_CERTIFICATE_REFUSED: Final = re.compile(r"ALERT_(?:\w*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""The TLS alerts of a server about a client's certificate, in OpenSSL's names."""


def server_options(function: F, *, names: tuple[str, ...] = ("-s", "--server")) -> F:
    """Add the options that say which server to ask, and as whom. The command gets them as `server`."""

    @click.option(*names, "endpoint", metavar="HOST[:PORT]", help="The server, or several, separated by commas.")
    @click.option("-a", "--api-key", metavar="KEY", help="The API key to use. Better given by KES_API_KEY.")
    @click.option("-k", "--insecure", is_flag=True, help="Do not verify the server's certificate.")
    @functools.wraps(function)
    def command(endpoint: str | None, api_key: str | None, insecure: bool, **arguments: Any) -> Any:
        server = functools.partial(connected, endpoint, api_key, insecure=insecure)
        return function(server=server, **arguments)

    return command  # type: ignore[return-value] # click calls it with its own arguments


def _keep_httpx_small() -> None:
    """Import httpx without its own command line, and so without rich, which takes a sixth of a command's time.

    httpx does without it where its dependencies are not installed; this makes it think so, in this process only.
    """
    if "httpx" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["httpx._main"] = None
    try:
        import httpx  # noqa: F401 # only to have it imported
    finally:
        modules.pop("httpx._main", None)


@contextlib.contextmanager
def connected(endpoint: str | None, api_key: str | None, *, insecure: bool) -> Iterator[Client]:
    """Give a client for the server that the options or the environment name.

    Raises:
        CLIError: There are no client credentials, or two kinds of them, or a request fails.
    """
    _keep_httpx_small()
    from kes_core.client import Client, KESError
    from kes_core.client.transport import arguments_from_environment

    try:
        arguments = arguments_from_environment(os.environ, endpoints=endpoint, api_key=api_key)
        client = Client(**arguments, insecure=insecure)
    except ValueError as error:
        # A program gives the password itself; here it comes from a variable.
        hint = f" ({_PASSWORD})" if str(error).endswith((" password is needed", " password is wrong")) else ""
        raise CLIError(f"{error}{hint}") from error
    with client:
        try:
            yield client
        except KESError as error:
            raise CLIError(explain(error)) from error


def explain(error: KESError) -> str:
    """Return what a person is told of a request that has failed: why, and what can be done here."""
    text = escape_control(str(error))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text} (set SSL_CERT_FILE to it, or -k skips the verification)"
    if _CERTIFICATE_REFUSED.search(text):
        cure = "give one that its tls.ca vouches for; its log says why"
        return f"{text}; the server refuses your certificate (tls.auth: on): {cure}"
    return text


def for_people(as_json: bool = False) -> bool:
    """Tell whether somebody reads the output: it goes to a terminal, and JSON was not asked for."""
    if as_json or sys.stdout is None or not sys.stdout.isatty():
        return False
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 lacks a few signs
    return True


def print_json(value: object) -> None:
    """Print `value` for a program."""
    # ASCII throughout, with the one control character of it that JSON leaves alone.
    click.echo(json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f"))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table for a person. What stands in it may come from a server."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape_control, row))
    Console(highlight=False, markup=False).print(table)


def decode_base64_argument(text: str, what: str) -> bytes:
    """Return the bytes that a base64 argument stands for; `-` reads it from standard input."""
    from kes_core.encoding import decode_base64

    if text == "-":
        text = sys.stdin.read().strip()
    try:
        return decode_base64(text)
    except ValueError:
        raise CLIError(f"the {what} is not base64") from None

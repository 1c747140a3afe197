"""The shared parts of commands: the options and the client for a server, and the output."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kes_core.cli._terminal import colours, escape_control
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.client import Client, KESError

__all__ = [
    "connected",
    "decode_base64_argument",
    "explain",
    "for_people",
    "json_option",
    "print_json",
    "print_table",
    "quote",
    "server_options",
]

F = TypeVar("F", bound=Callable[..., Any])

_SERVER_HELP: Final = "The server, or several, separated by commas."
_PASSWORD: Final = "KES_CLIENT_KEY_PASSWORD"
_CERTIFICATE_REFUSED: Final = re.compile(r"ALERT_(?:\w*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
"""A server's TLS alerts about a client's certificate, by OpenSSL's names."""


json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""The option of every command that prints something. The command gets it as `as_json`."""


def _set_colour(context: click.Context, _parameter: click.Parameter, when: str) -> None:
    if when != "auto":
        context.color = when == "always"


def _ignore_enclave(_context: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        click.echo("Warning: --enclave is ignored: this server has no enclaves", err=True)


def server_options(function: F, *, bare_server: str | None = None) -> F:
    """Add the options for the server and for the client's identity. The command gets them as `server`.

    Call `server("list keys")` for a client. Its errors then begin with `failed to list keys`.

    Args:
        function: The command.
        bare_server: The meaning of `-s` without a value: the command gets it as its own option, `short`.
    """
    bare: dict[str, Any] = {"is_flag": False, "flag_value": ""} if bare_server is not None else {}

    @click.option("-s", "--server", "endpoint", metavar="HOST[:PORT]", help=_SERVER_HELP + (bare_server or ""), **bare)
    @click.option("-a", "--api-key", metavar="KEY", help="The API key to use. KES_API_KEY hides it from other users.")
    @click.option("-k", "--insecure", is_flag=True, help="Do not verify the server's certificate.")
    @click.option(
        "--color",
        metavar="WHEN",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        expose_value=False,
        callback=_set_colour,
        help="When to use colors: auto, always or never.",
    )
    @click.option(
        "-e",
        "--enclave",
        metavar="NAME",
        expose_value=False,
        callback=_ignore_enclave,
        hidden=True,  # only scripts for the Go tool pass it
    )
    @functools.wraps(function)
    def command(endpoint: str | None, api_key: str | None, insecure: bool, **arguments: Any) -> Any:
        if bare_server is not None and endpoint == "":
            arguments["short"] = True
        server = functools.partial(connected, endpoint, api_key, insecure=insecure)
        return function(server=server, **arguments)

    return command  # type: ignore[return-value] # click calls it with its own arguments


def _keep_httpx_small() -> None:
    """Import httpx without its own command line, which imports rich and takes a sixth of a command's time.

    httpx skips its command line if the packages for it are missing. This function pretends that they are missing.
    """
    if "httpx" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["httpx._main"] = None
    try:
        import httpx  # noqa: F401 # imported now, without its command line
    finally:
        modules.pop("httpx._main", None)


@contextlib.contextmanager
def connected(endpoint: str | None, api_key: str | None, task: str, *, insecure: bool) -> Iterator[Client]:
    """Yield a client for the server in the options or the environment.

    Args:
        endpoint: The value of `--server`.
        api_key: The value of `--api-key`.
        task: The command's task, for its errors: `list keys`.
        insecure: Whether to skip the verification of the server's certificate.

    Raises:
        CLIError: The client credentials are missing, or given twice, or a request fails.
    """
    _keep_httpx_small()
    from kes_core.client import Client, KESError
    from kes_core.client.transport import arguments_from_environment

    try:
        arguments = arguments_from_environment(os.environ, endpoints=endpoint, api_key=api_key)
        client = Client(**arguments, insecure=insecure)
    except ValueError as error:
        # The Python client takes the password as an argument, the command line from a variable.
        hint = f" ({_PASSWORD})" if str(error).endswith((" password is needed", " password is wrong")) else ""
        raise CLIError(f"{error}{hint}") from error
    with client:
        try:
            yield client
        except KESError as error:
            raise CLIError(f"failed to {task}: {explain(error)}") from error


def explain(error: KESError) -> str:
    """Return the text of a request's error for a person, with the cure if the command line offers one."""
    from kes_core.client.transport import SELF_SIGNED_HINT

    text = escape_control(str(error))
    if text.endswith(SELF_SIGNED_HINT):
        cure = "; if the server's certificate is self-signed, set SSL_CERT_FILE to it, or skip its verification with -k"
        return text.removesuffix(SELF_SIGNED_HINT) + cure
    if _CERTIFICATE_REFUSED.search(text):
        cure = "present one that a CA in its tls.ca issued; its log says why"
        return f"{text}; the server refuses your certificate (tls.auth: on): {cure}"
    return text


def quote(text: str) -> str:
    """Return a name in double quotes, harmless for a terminal."""
    return f'"{escape_control(text)}"'


def for_people(as_json: bool = False) -> bool:
    """Return whether the output is text for a terminal."""
    return not as_json and sys.stdout is not None and sys.stdout.isatty()


def print_json(value: object) -> None:
    """Print `value` as one line of JSON."""
    # ASCII only. JSON does not escape one of its control characters.
    click.echo(json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f"))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table: folded to the width of a terminal, or one line a row if the output is piped.

    The cells may come from a server.
    """
    cells = [[escape_control(cell) for cell in row] for row in rows]
    if not for_people():
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console(highlight=False, markup=False, no_color=not colours()).print(table)


def decode_base64_argument(text: str, what: str) -> bytes:
    """Decode a base64 argument. `-` reads it from standard input."""
    from kes_core.encoding import decode_base64

    if text == "-":
        text = sys.stdin.read().strip()
    try:
        return decode_base64(text)
    except ValueError:
        raise CLIError(f"the {what} is not base64") from None

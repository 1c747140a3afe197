"""`kes log`: requests and errors of a server as they happen."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._command import Command
from kes_core.cli._common import for_people, json_option, server_options
from kes_core.cli._terminal import escape_control, styled
from kes_core.units import format_latency

if TYPE_CHECKING:
    from kes_core.client import AuditEvent, Client

__all__ = ["INTERRUPTED", "command"]

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as with `tail -f`: a script that runs the command stops too."""
_HEADER: Final = f"{'Time':<8}  {'Identity':<11}  {'IP':<15}  {'Status':<6}  {'Latency':>9}  API"
_MIN_PATH: Final = 40
_OTHER_COLUMNS: Final = len(_HEADER) - len("API")
_SHORT: Final = 10
"""The number of shown characters of an identity."""
_LEVEL: Final = re.compile(r"\S+ (WARNING|ERROR|CRITICAL)\b", re.ASCII)


@click.command("log", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--audit", is_flag=True, help="Show requests and their outcome.  [default]")
@click.option("--error", is_flag=True, help="Show the error log.")
@json_option
@server_options
def command(server: Any, audit: bool, error: bool, as_json: bool) -> int:
    """Show the requests or the errors of a server as they happen. Ctrl-C ends the command with exit code 130.

    In a pipe, each event is a line of JSON, as the server sends it. The exit code is 1 if the server ends the log:
    later events are missing.
    """
    if audit and error:
        raise click.UsageError("--audit and --error exclude each other.")
    people = for_people(as_json)
    try:
        with server("read the error log" if error else "read the audit log") as client:
            if not people:
                _copy(client, error=error)
            elif error:
                _show_errors(client)
            else:
                _show_requests(client)
    except KeyboardInterrupt:
        if for_people():
            click.echo()  # below the ^C
        return INTERRUPTED
    return 0


def _copy(client: Client, *, error: bool) -> None:
    terminal = for_people()
    with client.error_log() if error else client.audit_log() as stream:
        for line in stream.lines():
            click.echo(_harmless(line) if terminal else line)


def _harmless(line: bytes) -> str:
    """Return the same JSON with escapes for everything that a terminal would interpret."""
    text = line.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _show_requests(client: Client) -> None:
    with client.audit_log() as events:
        click.echo(styled(_HEADER, bold=True))
        for event in events:
            click.echo(_row(event))


def _row(event: AuditEvent) -> str:
    identity = escape_control(event.identity)
    short = f"{identity[:_SHORT]}…" if len(identity) > _SHORT else identity or "-"
    room = max(_MIN_PATH, shutil.get_terminal_size().columns - _OTHER_COLUMNS)
    path = escape_control(event.path)
    if len(path) > room:
        path = path[: room - 1] + "…"
    columns = [
        f"{event.time.astimezone():%H:%M:%S}",
        f"{short:<11}",
        f"{escape_control(event.ip):<15}",
        styled(f"{event.code:<6}", fg=_colour(event.code)),
        f"{format_latency(event.response_time):>9}",
        path,
    ]
    return "  ".join(columns)


def _colour(code: int) -> str:
    return {2: "green", 4: "yellow", 5: "red"}.get(code // 100, "cyan")


def _show_errors(client: Client) -> None:
    with client.error_log() as events:
        click.echo(styled("New errors of the server. Ctrl-C ends the log.", bold=True))
        for event in events:
            first, *more = event.message.split("\n")
            level = _LEVEL.match(first)
            colour = {"WARNING": "yellow"}.get(level.group(1), "red") if level is not None else None
            click.echo(styled(escape_control(first), fg=colour))
            for line in more:  # indented, so as not to look like another event
                click.echo(f"    {escape_control(line)}")

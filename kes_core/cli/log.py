"""`kes log`: requests and errors of a server as they happen."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
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
"""The exit code after Ctrl-C, as of `tail -f`: a script that runs the command stops too."""
_HEADER: Final = f"{'Time':<8}  {'Identity':<11}  {'Policy':<9}  {'IP':<15}  {'Status':<6}  {'Latency':>9}  API"
_MIN_PATH: Final = 30
_OTHER_COLUMNS: Final = len(_HEADER) - len("API")
_POLICY: Final = 9
"""The width of the column for policies."""
_SHORT: Final = 10
"""The number of shown characters of an identity."""
_LEVEL: Final = re.compile(r"\S+ (WARNING|ERROR|CRITICAL)\b", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Filter:
    """What a request has to be to be shown; empty fields match everything."""

    path: str = ""
    identity: str = ""
    policy: str = ""
    ip: str = ""
    status: range | None = None

    def matches(self, event: AuditEvent) -> bool:
        """Return whether to show a request."""
        start = self.path.removesuffix("*")
        is_path = event.path.startswith(start) if start != self.path else event.path == self.path
        return (
            (not self.path or is_path)
            and event.identity.startswith(self.identity)
            and (not self.policy or event.policy == self.policy)
            and (not self.ip or event.ip == self.ip)
            and (self.status is None or event.code in self.status)
        )


def _status(_context: click.Context, _parameter: click.Parameter, text: str | None) -> range | None:
    if text is None:
        return None
    if text == "failed":
        return range(400, 600)
    if re.fullmatch(r"[1-5]xx", text):
        return range(int(text[0]) * 100, int(text[0]) * 100 + 100)
    if re.fullmatch(r"[1-5][0-9]{2}", text):
        return range(int(text), int(text) + 1)
    raise click.BadParameter(f"{text!r} is neither a status (403) nor a class (4xx) nor 'failed'")


@click.command("log", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--audit", is_flag=True, help="Show requests and their outcome.  [default]")
@click.option("--error", is_flag=True, help="Show the error log.")
@click.option("--path", metavar="PATTERN", default="", help="Show only requests to this path. It may end in *.")
@click.option("--identity", metavar="ID", default="", help="Show only requests of the identity that begins so.")
@click.option("--policy", metavar="NAME", default="", help="Show only requests of identities with this policy.")
@click.option("--ip", metavar="IP", default="", help="Show only requests from this address.")
@click.option(
    "--status", metavar="CODE", callback=_status, help="Show only requests with this status, as 403, 4xx or failed."
)
@json_option
@server_options
def command(
    server: Any,
    audit: bool,
    error: bool,
    path: str,
    identity: str,
    policy: str,
    ip: str,
    status: range | None,
    as_json: bool,
) -> int:
    """Show the requests or the errors of a server as they happen. Ctrl-C ends the command with exit code 130.

    Below a request that was refused or failed stands the reason. In a pipe, each event is a line of JSON, as the server
    sends it. The exit code is 1 if the server ends the log: later events are missing.
    """
    if audit and error:
        raise click.UsageError("--audit and --error exclude each other.")
    wanted = _Filter(path, identity, policy, ip, status)
    if error and wanted != _Filter():
        raise click.UsageError("--path, --identity, --policy, --ip and --status are for requests, not for --error.")
    people = for_people(as_json)
    try:
        with server("read the error log" if error else "read the audit log") as client:
            if not people:
                _copy(client, wanted, error=error)
            elif error:
                _show_errors(client)
            else:
                _show_requests(client, wanted)
    except KeyboardInterrupt:
        if for_people():
            click.echo()  # below the ^C
        return INTERRUPTED
    return 0


def _copy(client: Client, wanted: _Filter, *, error: bool) -> None:
    from kes_core.client.requests import audit_log
    from kes_core.client.transport import parsed

    terminal, parse = for_people(), audit_log().parse
    with client.error_log() if error else client.audit_log() as stream:
        for line in stream.lines():
            if wanted != _Filter() and not wanted.matches(parsed(parse, 200, line)):
                continue
            click.echo(_harmless(line) if terminal else line)


def _harmless(line: bytes) -> str:
    """Return the same JSON with escapes for everything that a terminal would interpret."""
    text = line.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _show_requests(client: Client, wanted: _Filter) -> None:
    with client.audit_log() as events:
        click.echo(styled(_HEADER, bold=True))
        for event in events:
            if not wanted.matches(event):
                continue
            click.echo(_row(event))
            if event.reason:
                click.echo(f"          {styled(escape_control(event.reason), dim=True)}")


def _row(event: AuditEvent) -> str:
    identity = escape_control(event.identity)
    short = f"{identity[:_SHORT]}…" if len(identity) > _SHORT else identity or "-"
    room = max(_MIN_PATH, shutil.get_terminal_size().columns - _OTHER_COLUMNS)
    columns = [
        f"{event.time.astimezone():%H:%M:%S}",
        f"{short:<11}",
        f"{_cut(escape_control(event.policy) or '-', _POLICY):<{_POLICY}}",
        f"{escape_control(event.ip or event.frontend):<15}",
        styled(f"{event.code:<6}", fg=_colour(event.code)),
        f"{format_latency(event.response_time):>9}",
        _cut(escape_control(event.path), room),
    ]
    return "  ".join(columns)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


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

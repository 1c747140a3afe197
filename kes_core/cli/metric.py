"""`kes metric`: the metrics of a server as they change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._command import Command
from kes_core.cli._common import for_people, json_option, print_json, server_options
from kes_core.cli.log import INTERRUPTED
from kes_core.cli.main import CLIError
from kes_core.protocol import EXPIRY_NOTICE
from kes_core.units import format_latency, format_uptime, humanize

if TYPE_CHECKING:
    from rich.table import Table

    from kes_core.cli._metrics import Snapshot
    from kes_core.client import Client

__all__ = ["command"]

_COLOURS: Final = {"success": "green", "error": "yellow", "failure": "red"}
_SHORTEST: Final = 0.1


def _rate(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    from kes_core.units import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from None
    if seconds < _SHORTEST:
        raise click.BadParameter("the shortest interval is 100ms")
    return seconds


@click.command("metric", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rate", metavar="DURATION", callback=_rate, help="How often to ask the server.  [default: 1s]")
@json_option
@server_options
def command(server: Any, rate: float | None, as_json: bool) -> int:
    """Show the metrics of a server as they change. Ctrl-C ends the command with exit code 130.

    In a pipe, print one JSON object; with --rate, one a line until the command ends. The members have the names that
    Prometheus sees. Uptime and the bounds of kes_http_response_time are in nanoseconds, as in the Go tool. The other
    times are in seconds: p50, p90 and p99 say below which time 50, 90 and 99 percent of the requests stayed. The
    object has no member for what the server does not count.
    """
    try:
        with server("fetch metrics") as client:
            if for_people(as_json):
                _show(client, rate or 1.0)
            else:
                for snapshot, earlier, elapsed in _snapshots(client, rate):
                    print_json(snapshot.facts(earlier, elapsed))
    except KeyboardInterrupt:
        if for_people():
            click.echo()  # below the ^C
        return INTERRUPTED
    return 0


def _snapshots(client: Client, rate: float | None) -> Iterator[tuple[Snapshot, Snapshot | None, float]]:
    """Yield a snapshot, the one before it, and the seconds between them: forever if there is a rate, else once."""
    from kes_core.cli._metrics import parse

    earlier: Snapshot | None = None
    asked = due = time.monotonic()
    while True:
        before, asked = asked, time.monotonic()
        try:
            snapshot = parse(client.metrics())
        except ValueError as error:
            raise CLIError(f"the server's metrics can't be read: {error}") from error
        yield snapshot, earlier, asked - before
        if rate is None:
            return
        earlier = snapshot
        due = max(due + rate, time.monotonic())  # do not catch up on missed intervals
        time.sleep(max(0.0, due - time.monotonic()))


def _show(client: Client, rate: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False)
    if console.is_dumb_terminal:  # the terminal can't overwrite its lines
        for snapshot, earlier, elapsed in _snapshots(client, rate):
            console.print(_table(snapshot, earlier, elapsed))
            console.print()
        return
    with Live(console=console, auto_refresh=False) as live:
        for snapshot, earlier, elapsed in _snapshots(client, rate):
            live.update(_table(snapshot, earlier, elapsed), refresh=True)


def _table(snapshot: Snapshot, earlier: Snapshot | None, elapsed: float) -> Table:
    from rich.table import Table
    from rich.text import Text

    rates = snapshot.rates(earlier, elapsed) if earlier is not None else {}
    requests = Table(box=None, pad_edge=False, header_style="bold")
    requests.add_column("Requests")
    for title in ("Total", "Per second"):
        requests.add_column(title, justify="right", min_width=10)
    for name, count in snapshot.requests.items():
        rate = f"{rates[name]:.1f}" if rates else "-"
        requests.add_row(Text(name.capitalize(), style=_COLOURS[name]), f"{count:.0f}", rate)
    requests.add_row("Active", f"{snapshot.numbers.get('active', 0):.0f}", "")

    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(snapshot, earlier):
        facts.add_row(Text(name, style="bold"), value)
    whole = Table.grid()
    whole.add_row(requests)
    whole.add_row("")
    whole.add_row(facts)
    return whole


def _facts(snapshot: Snapshot, earlier: Snapshot | None) -> Iterator[tuple[str, Any]]:
    from rich.text import Text

    numbers = snapshot.numbers
    times = snapshot.recent(earlier)
    if times.count:
        bounds = [f"{part:.0%} {_below(times.below(part))}" for part in (0.5, 0.9, 0.99)]
        yield "Latency", ", ".join([f"{format_latency(timedelta(seconds=times.mean))} on average", *bounds])
    yield "Uptime", format_uptime(timedelta(seconds=numbers["uptime"]))
    if "cpus" in numbers:
        threads = f", {numbers['threads']:.0f} threads" if "threads" in numbers else ""
        yield "CPUs", f"{numbers.get('usable_cpus', numbers['cpus']):.0f} of {numbers['cpus']:.0f}{threads}"
    if "heap_memory" in numbers:
        stack = numbers.get("stack_memory", 0.0)
        yield "Memory", f"{numbers['heap_memory'] / 2**20:.0f} MiB heap, {stack / 2**10:.0f} KiB stack"
    asked = numbers.get("cache_hits", 0.0) + numbers.get("cache_misses", 0.0)
    if asked:
        yield "Cache", f"{numbers.get('cache_hits', 0.0) / asked:.1%} hits"
    if snapshot.store_times.count:
        errors = numbers.get("keystore_errors", 0.0)
        failed = f", {errors:.0f} errors" if errors else ""
        yield "Key store", f"{format_latency(timedelta(seconds=snapshot.store_times.mean))} on average{failed}"
    if "audit_events" in numbers:
        yield "Log events", f"{numbers['audit_events']:.0f} audit, {numbers.get('error_events', 0.0):.0f} error"
    if numbers.get("workers", 1.0) > 1 or numbers.get("worker_restarts"):
        yield "Workers", f"{numbers['workers']:.0f}, {numbers.get('worker_restarts', 0.0):.0f} restarts"
    if numbers.get("certificate_expires"):
        left = numbers["certificate_expires"] - time.time()
        distance = humanize(timedelta(seconds=abs(left)))
        text = f"expires in {distance}" if left > 0 else f"expired {distance} ago"
        yield "Certificate", Text(text, style="yellow" if left < EXPIRY_NOTICE.total_seconds() else "")


def _below(seconds: float) -> str:
    return f"≤ {seconds * 1e3:g} ms" if seconds < 1 else "> 10 s" if seconds == float("inf") else f"≤ {seconds:g} s"

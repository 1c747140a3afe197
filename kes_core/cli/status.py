"""`kes status`: the state of a server."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

import click

from kes_core.cli._common import for_people, print_json, print_table, server_options

if TYPE_CHECKING:
    from kes_core.client import APIRoute, ServerStatus

__all__ = ["command"]


@click.command("status", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-s", "--short", is_flag=True, help="Show less: no memory and CPUs.")
@click.option("--api", is_flag=True, help="Also list the APIs of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal.")
@functools.partial(server_options, names=("--server",))
def command(server: Any, short: bool, api: bool, as_json: bool) -> None:
    """Show the state of a server and its key store."""
    with server() as client:
        client.version()  # the connection is there: what follows is the way there and back
        started = time.perf_counter()
        status = client.status()
        latency = time.perf_counter() - started
        routes = client.apis() if api else []
    if for_people(as_json):
        _print(status, latency, routes, short=short)
        return
    facts = dataclasses.asdict(status) | {"latency": int(latency * 1e9)}
    print_json(facts | {"apis": [dataclasses.asdict(route) for route in routes]} if api else facts)


def _print(status: ServerStatus, latency: float, routes: list[APIRoute], *, short: bool) -> None:
    hours, seconds = divmod(status.uptime, 3600)
    rows = [
        ["Version", status.version],
        ["Uptime", f"{hours}h {seconds // 60}m {seconds % 60}s"],
        ["Latency", f"{latency * 1e3:.1f} ms"],
    ]
    if not short:
        rows += [
            ["OS", status.os],
            ["CPUs", f"{status.usable_cpus} of {status.cpus} {status.arch}"],
            ["Memory", f"{status.heap_memory / 2**20:.0f} MiB heap, {status.stack_memory / 2**10:.0f} KiB stack"],
        ]
    if status.keystore_latency is not None:
        store = click.style(f"reachable, {status.keystore_latency / 1e6:.1f} ms", fg="green")
    else:
        reason = f" ({status.keystore_reason})" if status.keystore_reason else ""
        store = click.style(f"not available{reason}", fg="red", bold=True)
    rows.append(["Key store", store])
    for name, value in rows:
        click.echo(f"{name:<10}  {value}")
    if routes:
        click.echo()
        rows = [[r.method, r.path, str(r.max_body), f"{r.timeout} s" if r.timeout else "-"] for r in routes]
        print_table(["Method", "API", "Body", "Time"], rows)

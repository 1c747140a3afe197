"""`kes status`: the state of a server."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

import click

from kes_core.cli._common import for_people, print_json, print_table, server_options
from kes_core.cli._terminal import clean, moment, print_facts, styled, when

if TYPE_CHECKING:
    from kes_core.client import APIRoute, ServerStatus

__all__ = ["command", "uptime"]


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
    warnings = _warnings(status)
    if not status.keystore_reachable:
        headline = f"{styled('●', fg='red')} The server runs, and its key store does not serve."
    elif warnings:
        headline = f"{styled('●', fg='yellow')} The server is ready, and something needs attention."
    else:
        headline = f"{styled('●', fg='green')} The server is ready."
    click.echo(headline)
    rows = [("Version", clean(status.version)), ("Uptime", uptime(status.uptime)), ("Latency", _ms(latency))]
    if not short:
        rows += [
            ("OS", clean(status.os)),
            ("CPUs", f"{status.usable_cpus} of {status.cpus} {clean(status.arch)}"),
            ("Memory", f"{status.heap_memory / 2**20:.0f} MiB heap, {status.stack_memory / 2**10:.0f} KiB stack"),
        ]
    if status.keystore_reachable:
        took = f", {_ms(status.keystore_latency / 1e9)}" if status.keystore_latency is not None else ""
        rows.append(("Key store", styled(f"reachable{took}", fg="green")))
    else:
        reason = f" ({clean(status.keystore_reason)})" if status.keystore_reason else ""
        rows.append(("Key store", styled(f"not available{reason}", fg="red", bold=True)))
    rows += [("Warning", styled(warning, fg="yellow")) for warning in warnings]
    print_facts(rows)
    if routes:
        click.echo()
        table = [[r.method, r.path, str(r.max_body), f"{r.timeout} s" if r.timeout else "-"] for r in routes]
        print_table(["Method", "API", "Body", "Time"], table)


def _warnings(status: ServerStatus) -> list[str]:
    found = []
    if status.certificate_expires_at:
        expiry = moment(status.certificate_expires_at)
        over = expiry is not None and expiry.timestamp() < time.time()
        verb = "has expired" if over else "expires"
        found.append(f"the server's certificate {verb}: {when(status.certificate_expires_at)}")
    count = status.client_certificates_expiring
    if count:
        clients = "the certificate of 1 client expires" if count == 1 else f"the certificates of {count} clients expire"
        found.append(f"{clients} within 14 days")
    return found


def uptime(seconds: float) -> str:
    """Return how long a server has been running: `2d 3h 4m 5s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hours}h {minutes}m {rest}s"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"

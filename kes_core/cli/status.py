"""`kes status`: the state of a server."""

from __future__ import annotations

import dataclasses
import functools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._command import Command
from kes_core.cli._common import json_option, print_json, print_table, server_options
from kes_core.cli._terminal import describe_time, escape_control, print_facts, styled
from kes_core.protocol import EXPIRY_NOTICE
from kes_core.units import format_latency, format_time, format_uptime

if TYPE_CHECKING:
    from kes_core.client import APIRoute, ServerStatus

__all__ = ["command"]

_GO_NAMES: Final = {
    "cpus": "num_cpu",
    "usable_cpus": "num_cpu_used",
    "heap_memory": "mem_heap_used",
    "stack_memory": "mem_stack_used",
}
"""The members of `/v1/status` with another name in the Python client."""
_READY: Final = "ready"
"""The state of a front end that works."""


@click.command("status", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--short", is_flag=True, help="Leave out the operating system, CPUs and memory.")
@click.option("--api", is_flag=True, help="List the APIs of the server too. With --json, list only the APIs.")
@json_option
@functools.partial(server_options, bare_server=" Without a value, -s is --short.")
def command(server: Any, short: bool, api: bool, as_json: bool) -> None:
    """Show the state of a server and its key store."""
    with server("get the status") as client:
        client.version()  # opens the connection, so that the latency below is one round trip
        started = time.perf_counter()
        status = client.status()
        latency = time.perf_counter() - started
        routes = client.apis() if api else []
        address = client.endpoint
    if not as_json:
        _print(status, address, latency, routes, short=short)
    elif api:
        print_json([_route(route) for route in routes])
    else:
        print_json(_facts(status) | {"latency": int(latency * 1e9)})


def _facts(status: ServerStatus) -> dict[str, Any]:
    """Return the status with the member names of the Go tool: the uptime in seconds, latencies in nanoseconds."""
    facts = {_GO_NAMES.get(name, name): value for name, value in dataclasses.asdict(status).items()}
    latency, expiry = status.keystore_latency, status.certificate_expires_at
    return facts | {
        "keystore_unreachable": not status.keystore_reachable,
        "keystore_unavailable": not status.keystore_reachable,
        "uptime": int(status.uptime.total_seconds()),
        "keystore_latency": round(latency.total_seconds() * 1e9) if latency is not None else None,
        "certificate_expires_at": format_time(expiry) if expiry is not None else "",
    }


def _route(route: APIRoute) -> dict[str, Any]:
    return dataclasses.asdict(route) | {"timeout": int(route.timeout.total_seconds()) if route.timeout else 0}


def _print(status: ServerStatus, address: str, latency: float, routes: list[APIRoute], *, short: bool) -> None:
    warnings = _warnings(status)
    if not status.keystore_reachable:
        headline = f"{styled('●', fg='red')} The server runs, but its key store does not work."
    elif any(state != _READY for state in status.frontends.values()):
        headline = f"{styled('●', fg='red')} The server runs, but a front end does not work."
    elif warnings:
        headline = f"{styled('●', fg='yellow')} The server is ready, but something needs attention."
    else:
        headline = f"{styled('●', fg='green')} The server is ready."
    click.echo(headline)
    rows = [
        ("Address", escape_control(address)),
        ("Version", escape_control(status.version)),
        ("Uptime", format_uptime(status.uptime)),
        ("Latency", format_latency(timedelta(seconds=latency))),
    ]
    if not short:
        rows += [
            ("OS", escape_control(status.os)),
            ("CPUs", f"{status.usable_cpus} of {status.cpus} {escape_control(status.arch)}"),
            ("Memory", f"{status.heap_memory / 2**20:.0f} MiB heap, {status.stack_memory / 2**10:.0f} KiB stack"),
        ]
    rows += _configuration(status)
    kind = f"{escape_control(status.keystore)}, " if status.keystore else ""
    if status.keystore_reachable:
        took = f", {format_latency(status.keystore_latency)}" if status.keystore_latency is not None else ""
        rows.append(("Key store", kind + styled(f"reachable{took}", fg="green")))
    else:
        reason = f" ({escape_control(status.keystore_reason)})" if status.keystore_reason else ""
        rows.append(("Key store", kind + styled(f"not available{reason}", fg="red", bold=True)))
    for name, state in status.frontends.items():
        shown = styled("ready", fg="green") if state == _READY else styled(escape_control(state), fg="red", bold=True)
        rows.append(("Front end", f"{escape_control(name)}, {shown}"))
    rows += [("Warning", styled(warning, fg="yellow")) for warning in warnings]
    print_facts(rows)
    if routes:
        click.echo()
        table = [
            [r.method, r.path, str(r.max_body), f"{r.timeout.total_seconds():.0f} s" if r.timeout else "-"]
            for r in routes
        ]
        print_table(["Method", "API", "Body", "Time"], table)


def _configuration(status: ServerStatus) -> list[tuple[str, str]]:
    """Return what the server says of its configuration. A server of another make says nothing."""
    rows = []
    if status.workers is not None:
        rows.append(("Workers", str(status.workers)))
    expiry = status.certificate_expires_at
    if expiry is not None:
        days = (expiry - datetime.now(UTC)).days
        left = f"{days} day{'s'[: days != 1]} left" if days >= 0 else "expired"
        rows.append(("Certificate", f"{left}, until {expiry.astimezone():%Y-%m-%d %H:%M %Z}"))
    if status.policies is not None:
        identities = _count(status.identities or 0, "identity", "identities")
        rows.append(("Policies", f"{_count(status.policies, 'policy', 'policies')} for {identities}"))
    return rows


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _warnings(status: ServerStatus) -> list[str]:
    found = []
    expiry = status.certificate_expires_at
    if expiry is not None and expiry - datetime.now(UTC) < EXPIRY_NOTICE:
        verb = "has expired" if expiry < datetime.now(UTC) else "expires"
        found.append(f"the server's certificate {verb}: {describe_time(expiry)}")
    count = status.client_certificates_expiring
    if count:
        clients = "the certificate of 1 client expires" if count == 1 else f"the certificates of {count} clients expire"
        found.append(f"{clients} within {EXPIRY_NOTICE.days} days")
    return found

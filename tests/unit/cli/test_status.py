"""What `kes status` and `kes log` show of front ends."""

from __future__ import annotations

from typing import Any

import click
import pytest

from kes_core.cli.log import _row
from kes_core.cli.status import _facts, _print
from kes_core.client.requests import audit_log, status

ANSWER: dict[str, Any] = {
    "version": "1",
    "os": "linux",
    "arch": "amd64",
    "uptime": 1,
    "num_cpu": 1,
    "num_cpu_used": 1,
    "mem_heap_used": 1,
    "mem_stack_used": 1,
    "keystore_latency": 1000,
}


@pytest.mark.parametrize(
    ("state", "headline"),
    [("ready", "The server is ready."), ("it is busy", "The server runs, but a front end does not work.")],
)
def test_status_shows_front_ends(capsys: pytest.CaptureFixture[str], state: str, headline: str) -> None:
    found = status().parse({**ANSWER, "frontends": {"json": state}})
    _print(found, "a:1", 0.1, [], short=True)
    shown = click.unstyle(capsys.readouterr().out)
    assert headline in shown
    assert f"json, {state}" in shown
    assert _facts(found)["frontends"] == {"json": state}


def test_server_without_front_ends_says_nothing_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    _print(status().parse(ANSWER), "a:1", 0.1, [], short=True)
    assert "Front end" not in capsys.readouterr().out


def test_log_names_the_front_end_where_there_is_no_address() -> None:
    request = {"ip": "", "path": "/v1/key/encrypt/k", "identity": "3e" * 32, "frontend": "json", "id": "u\x1b1"}
    event = audit_log().parse(
        {"time": "2026-01-02T03:04:05Z", "request": request, "response": {"code": 200, "time": 1}}
    )
    assert (event.frontend, event.request_id) == ("json", "u\x1b1")
    assert "json" in _row(event).split()
    assert "\x1b1" not in _row(event)

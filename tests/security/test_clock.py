"""The wall clock jumps by hours and years, forward and back, while the server runs.

Durations use a monotonic clock; points in time use the wall clock. Nothing hangs, and everything works again when the
clock is right again.
"""

from __future__ import annotations

import datetime as dt
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.programs import program
from tests.helpers.server import Server, start_server

pytestmark = pytest.mark.nightly

HOUR, DAY, YEAR = 3600, 86400, 31536000
TOKEN_SECONDS = 4


class Clock:
    """The wall clock of a server. Its error may change while the server runs."""

    def __init__(self, directory: Path) -> None:
        program("faketime", "faketime")
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self._file = directory / "clock"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock `seconds` ahead of the right time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)
        self.ahead = seconds

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.ahead)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def run(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(overrides: Any) -> Server:
        servers.append(start_server(tmp_path, overrides, environment=clock.environment))
        return servers[-1]

    yield start
    clock.set(0)
    for server in servers:
        assert server.stop() == 0
        assert not [line for line in server.errors if "internal error" in line or "Traceback" in line]


def next_record(server: Server, path: str) -> dict[str, Any]:
    """Return the next audit record of a path."""
    while True:
        record = server.next_audit_record()
        if record["request"]["path"] == path:
            return record


def test_requests_are_served_and_audited_with_the_time_of_the_clock(
    run: Callable[..., Server], clock: Clock, tmp_path: Path
) -> None:
    server = run({"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "log": {"audit": "on"}})
    with server.client() as client:
        for number, ahead in enumerate((0, HOUR, 10 * YEAR, -HOUR, -10 * YEAR, 0)):
            clock.set(ahead)
            path = f"/v1/key/create/k{number}"
            assert client.put(path).status_code == 200
            record = next_record(server, path)
            assert abs(dt.datetime.fromisoformat(record["time"]) - clock.now()) < dt.timedelta(minutes=2)
            assert 0 < record["response"]["time"] < 60e9
            created = client.get(f"/v1/key/describe/k{number}").json()["created_at"]
            assert abs(dt.datetime.fromisoformat(created) - clock.now()) < dt.timedelta(minutes=2)
            assert client.get("/v1/status").json()["uptime"] < HOUR
            with server.client() as newcomer:  # a new connection, with a handshake
                assert newcomer.get("/v1/ready").status_code == 200


def describe(client: httpx.Client) -> int:
    return client.get("/v1/key/describe/my-key").status_code


def test_cached_key_lasts_as_long_as_it_should(run: Callable[..., Server], clock: Clock, tmp_path: Path) -> None:
    """A clock that jumps ahead expires no key, and one that jumps back does not prolong its life."""
    keys = tmp_path / "keys"
    expiry = {"any": "4s", "unused": "4s"}
    server = run(
        {"keystore": {"fs": {"path": str(keys)}}, "cache": {"expiry": expiry}, "keys": [{"name": "my-key"}]},
    )
    stored = (keys / "my-key").read_bytes()
    with server.client() as client:
        for ahead in (10 * YEAR, -10 * YEAR):
            clock.set(0)
            (keys / "my-key").write_bytes(stored)
            wait_until(lambda: describe(client) == 200)
            read = time.monotonic()
            (keys / "my-key").unlink()
            clock.set(ahead)
            status = describe(client)
            if time.monotonic() - read < 2:  # the machine may be too busy
                assert status == 200
            wait_until(lambda: describe(client) == 404)


def test_warnings_of_certificates_come_again_when_the_clock_was_ahead(run: Callable[..., Server], clock: Clock) -> None:
    server = run({})

    def look() -> None:
        server.signal(signal.SIGHUP)

    clock.set(80 * DAY)  # the certificate is valid for 90 days
    look()
    server.wait_for_log("expires in")
    clock.set(9 * YEAR)
    look()
    server.wait_for_log("has expired")
    clock.set(81 * DAY)
    look()
    server.wait_for_log("expires in")
    clock.set(-9 * YEAR)
    look()
    server.wait_for_log("is not valid yet")
    with server.client() as client:
        assert client.get("/v1/ready").status_code == 200


def test_token_of_vault_is_kept_alive(run: Callable[..., Server], clock: Clock, bao: OpenBao) -> None:
    """Tokens last four seconds here, and the server renews its token whatever its clock says."""
    tenant = Tenant(bao, "v2", token_period=f"{TOKEN_SECONDS}s")
    server = run({"keystore": {"vault": tenant.section()}})
    with server.client() as client:
        for ahead in (0, HOUR, 10 * HOUR):
            clock.set(ahead)
            until = time.monotonic() + 1.5 * TOKEN_SECONDS
            number = 0
            while time.monotonic() < until:
                created = client.put(f"/v1/key/create/k{ahead}-{number}")
                assert created.status_code == 200, created.text + "\n".join(server.errors)
                number += 1
                time.sleep(0.2)
        # With a clock that is years off, Vault's certificate is not valid. That is an outage, and it ends.
        for ahead in (10 * YEAR, -10 * YEAR):
            clock.set(ahead)
            answers = [client.put(f"/v1/key/create/k{ahead}-{number}").status_code for number in range(3)]
            assert set(answers) <= {200, 502, 504}
            assert client.get("/version").status_code == 200
            clock.set(0)
            wait_until(lambda: client.put("/v1/key/create/again").status_code in {200, 400})

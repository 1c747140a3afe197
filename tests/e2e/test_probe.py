"""The listener for probes: what it serves, and that it takes no resources from the API."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.helpers.command import run_kes
from tests.helpers.server import Server, write_config

Run = Callable[..., Server]


def probe_address(server: Server) -> str:
    (line,) = [line for line in server.errors if "probes are answered on" in line] or [
        server.wait_for_log("probes are answered on")
    ]
    return str(json.loads(line)["message"].rpartition(" ")[2])


@pytest.mark.parametrize("workers", [1, 2])
def test_probes_need_no_certificate(run_server: Run, tmp_path: Path, workers: int) -> None:
    keys = tmp_path / "keys"
    store = {"keystore": {"fs": {"path": str(keys)}}, "workers": workers}
    server = run_server({**store, "probe": {"address": "127.0.0.1:0"}})
    with httpx.Client(base_url=probe_address(server)) as client:
        assert client.get("/live").json() == {"status": "live"}
        assert client.get("/ready").json() == {"status": "ready"}
        metrics = client.get("/metrics")
        assert "kes_http_request_active 0.0" in metrics.text
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        # It serves nothing else.
        for path in ("/", "/version", "/v1/status", "/v1/key/list/", "/metrics/", "//live"):
            assert client.get(path).status_code == 404, path
        for path in ("/live", "/ready", "/metrics"):
            assert client.post(path).status_code == 405
        assert client.head("/live").status_code == 200
        keys.rename(tmp_path / "elsewhere")
        answer = client.get("/ready")
        assert (answer.status_code // 100, set(answer.json()) - {"reason"}) == (5, {"message"})
        assert str(keys) not in answer.text
        assert client.get("/live").status_code == 200
    assert server.stop() == 0


@pytest.mark.parametrize(("probe", "address"), [({}, "127.0.0.1:7374"), ({"address": ":1234"}, "127.0.0.1:1234")])
def test_probes_are_for_this_machine_only_unless_said_otherwise(
    tmp_path: Path, probe: dict[str, str], address: str
) -> None:
    shown = run_kes("config", "show", write_config(tmp_path, "disabled", {"probe": probe}))
    assert yaml.safe_load(shown.stdout)["probe"] == {"address": address}


REPORT_BINDS = """
import sys
import kes_core.cli
sys.addaudithook(lambda event, args: event == "socket.bind" and print("bind", args[1], file=sys.stderr, flush=True))
kes_core.cli.main()
"""
"""The command `kes`, which reports each address that it binds a socket to."""


def test_no_listener_for_probes_unless_asked_for(run_server: Run) -> None:
    server = run_server(python=("-c", REPORT_BINDS))
    assert server.stop() == 0
    assert [line for line in server.errors if line.startswith("bind")] == ["bind ('127.0.0.1', 0)"]
    assert not [line for line in server.errors if "probe" in line]


def test_probe_address_that_is_taken(run_server: Run) -> None:
    server = run_server()
    address = f"127.0.0.1:{server.port}"
    config = server.config_path.read_text() + f"probe:\n  address: {address}\n"
    server.config_path.write_text(config)
    done = run_kes("server", "--config", server.config_path)
    assert done.returncode == 1
    assert f"can't listen on {address}: Address already in use" in done.stderr


# Limits

LIMIT = 32


@contextlib.contextmanager
def connected(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Open silent connections to the listener for probes."""
    address = httpx.URL(probe_address(server))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((address.host, address.port or 80), timeout=60))
            for _ in range(count)
        ]


def closed_of(connections: list[socket.socket], count: int) -> list[socket.socket]:
    """Wait until the server has closed this number of connections; return the others."""
    poll, deadline = select.poll(), time.monotonic() + 60
    for connection in connections:
        poll.register(connection, select.POLLIN)
    while len(found := poll.poll(0)) < count:
        assert time.monotonic() < deadline, len(found)
        time.sleep(0.01)
    numbers = {number for number, _event in found}
    return [connection for connection in connections if connection.fileno() in numbers]


def is_live(url: str) -> bool:
    try:
        return bool(httpx.get(url + "/live").json() == {"status": "live"})
    except httpx.TransportError:
        return False


def wait_until_live(server: Server, timeout: float = 60) -> None:
    """Wait until the server has noticed that clients are gone, and answers a probe."""
    deadline = time.monotonic() + timeout
    while not is_live(probe_address(server)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_connections_leave_the_api_its_own(run_server: Run) -> None:
    """The API keeps its room for 72 connections; the server closes surplus connections of probes at once."""
    server = run_server({"probe": {"address": "127.0.0.1:0"}}, limit_files=200)
    with connected(server, 100) as connections:
        assert len(closed_of(connections, 100 - LIMIT)) == 100 - LIMIT
        assert not is_live(probe_address(server))
        with contextlib.ExitStack() as stack:
            for _ in range(71):
                stack.enter_context(socket.create_connection((server.host, server.port)))
            with server.client() as client:
                assert client.put("/v1/key/create/k").status_code == 200
                assert client.get("/version").status_code == 200
    server.wait_for_log(f"turned away a probe: {LIMIT} connections for probes are open, which is the limit")
    wait_until_live(server)
    assert sum("turned away" in line for line in server.errors) == 1
    assert server.stop() == 0


def test_connections_that_ask_for_nothing_end(run_server: Run) -> None:
    """The server closes silent connections, and those whose request comes too slowly."""
    server = run_server({"probe": {"address": "127.0.0.1:0"}})
    with connected(server, LIMIT) as connections:
        idle, slow = connections[: LIMIT // 2], connections[LIMIT // 2 :]
        for connection in slow:
            connection.sendall(b"GET /live HTTP/1.1\r\n")
        deadline = time.monotonic() + 60
        while left := [connection for connection in slow if not select.select([connection], [], [], 0)[0]]:
            assert time.monotonic() < deadline, len(left)
            for connection in left:
                with contextlib.suppress(OSError):  # the server may close it at this moment
                    connection.sendall(b"x-more: 1\r\n")
            time.sleep(0.5)
        closed_of(idle, len(idle))
        wait_until_live(server)


def test_only_the_first_request_of_a_connection_is_answered(run_server: Run) -> None:
    """No client can hold a connection open with one request after another."""
    server = run_server({"probe": {"address": "127.0.0.1:0"}})
    with connected(server, 1) as (connection,):
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n" * 100)
        data = b""
        with contextlib.suppress(ConnectionError):  # the requests that the server did not read may reset the connection
            while chunk := connection.recv(65536):
                data += chunk
        assert data.count(b"HTTP/1.1 200") == 1
        assert b"connection: close" in data.partition(b"\r\n\r\n")[0].lower()


def test_clients_that_only_connect_take_no_room(run_server: Run) -> None:
    """Some programs connect only to check that a port is open."""
    server = run_server({"probe": {"address": "127.0.0.1:0"}})
    for _ in range(5):
        with connected(server, LIMIT - 1):
            pass
        wait_until_live(server)


@pytest.mark.parametrize("workers", [1, 2])
def test_open_connections_do_not_hold_up_the_end(run_server: Run, tmp_path: Path, workers: int) -> None:
    store = {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "workers": workers}
    server = run_server({**store, "probe": {"address": "127.0.0.1:0"}})
    with connected(server, 8) as connections:
        connections[0].sendall(b"GET /live HTTP/1.1\r\n")
        assert is_live(probe_address(server))  # so the server has accepted the earlier connections too
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 5
        closed_of(connections, len(connections))

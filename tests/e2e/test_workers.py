"""Several processes act as one server."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from kes_core.audit.chain import Verification
from tests.helpers.certificates import make_credentials
from tests.helpers.command import run_kes
from tests.helpers.observation import Reader, families
from tests.helpers.server import Server
from tests.helpers.workers import WORKERS, start_with_workers, workers_of

CONNECTIONS = 12
"""The same number for each worker."""

Run = Callable[..., Server]


@contextmanager
def only(worker: int, workers: list[int]) -> Iterator[None]:
    """Stop all other workers for a while: they accept no connections."""
    others = [other for other in workers if other != worker]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


@contextmanager
def connections(server: Server) -> Iterator[list[httpx.Client]]:
    """Yield clients with one open connection each: first those of the first worker, then those of the second, ..."""
    workers = workers_of(server)
    clients = [server.client(http2=False) for _ in range(CONNECTIONS)]
    share = CONNECTIONS // len(workers)
    try:
        for number, worker in enumerate(workers):
            with only(worker, workers):
                for client in clients[number * share : (number + 1) * share]:
                    client.get("/version")
        yield clients
    finally:
        for client in clients:
            client.close()


def statuses(clients: list[httpx.Client], method: str, path: str) -> set[int]:
    return {client.request(method, path).status_code for client in clients}


def test_all_serve_on_one_port_and_count_as_one(run_server: Run, tmp_path: Path) -> None:
    server = start_with_workers(run_server, tmp_path, {"keys": [{"name": "k"}]})
    with connections(server) as clients:
        assert statuses(clients, "PUT", "/v1/key/generate/k") == {200}
        assert statuses(clients, "PUT", "/v1/key/generate/nothing") == {404}
    for _ in range(5):  # whichever worker answers, the numbers are the same
        found = families(server)
        assert found["kes_http_request_success"][1]["200"] == CONNECTIONS
        assert found["kes_http_request_error"][1]["404"] == CONNECTIONS
        assert found["kes_workers"][1][""] == WORKERS
    assert server.stop() == 0
    assert sum("listening on" in line for line in server.errors) == 1


def test_each_has_connections_of_its_own(run_server: Run, tmp_path: Path) -> None:
    """When a worker dies, only its own connections close."""
    server = start_with_workers(run_server, tmp_path)
    with connections(server) as clients:
        streams = [client.get("/version").extensions["network_stream"] for client in clients]
        sockets = [stream.get_extra_info("socket") for stream in streams]
        for worker in workers_of(server):
            os.kill(worker, signal.SIGKILL)
            server.wait_for_log("has died, killed by signal 9, and is replaced")
            closed, _, _ = select.select(sockets, [], [], 0)
            assert closed == sockets[: CONNECTIONS // WORKERS]
            sockets = sockets[len(closed) :]


def closed_of(sockets: list[ssl.SSLSocket], server: Server, worker: int) -> list[ssl.SSLSocket]:
    """Kill a worker; return those of the connections that were its own."""
    os.kill(worker, signal.SIGKILL)
    server.wait_for_log("has died, killed by signal 9, and is replaced")
    poll = select.poll()
    for sock in sockets:
        poll.register(sock, select.POLLRDHUP)
    closed = {fileno for fileno, _events in poll.poll(0)}
    return [sock for sock in sockets if sock.fileno() in closed]


def test_new_connections_go_to_the_workers_with_the_fewest(run_server: Run, tmp_path: Path) -> None:
    """One after another, and also to a worker that replaces a dead one, until it has as many as the others.

    One that stands still does not hold them up: the others wait a few milliseconds for it. On a busy machine, one that
    serves may not be awake in time either, and then the next connections make up for it. If the kernel chose the
    worker, the new one would get a third of those that follow.
    """
    server = start_with_workers(run_server, tmp_path)
    workers = workers_of(server)
    times = []
    with ExitStack() as stack:
        sockets = []
        os.kill(workers[0], signal.SIGSTOP)
        for _ in range(8):
            began = time.monotonic()
            sockets.append(stack.enter_context(server.connection()))
            times.append(time.monotonic() - began)
        os.kill(workers[0], signal.SIGCONT)
        sockets += [stack.enter_context(server.connection()) for _ in range(16 * WORKERS - len(sockets))]
        first = closed_of(sockets, server, workers[0])
        wait_for_all_workers(server)
        (new,) = set(workers_of(server)) - set(workers)
        sockets = [sock for sock in sockets if sock not in first]
        sockets += [stack.enter_context(server.connection()) for _ in range(40)]
        second = closed_of(sockets, server, new)
    assert statistics.median(times) < 5  # a busy machine may need as much as one of these seconds
    assert 11 <= len(first) <= 21  # evenly: 16
    assert len(second) >= 18  # evenly: 24


def wait_for_all_workers(server: Server) -> None:
    deadline = time.monotonic() + 60
    while families(server)["kes_workers"][1][""] < WORKERS:
        assert time.monotonic() < deadline


def test_what_one_changes_no_other_still_believes(run_server: Run, tmp_path: Path) -> None:
    server = start_with_workers(run_server, tmp_path)
    with connections(server) as clients:
        for number in range(5):
            path = f"/v1/key/generate/k{number}"
            assert statuses(clients, "PUT", path) == {404}
            assert clients[number].put(f"/v1/key/create/k{number}").status_code == 200
            assert statuses(clients, "PUT", path) == {200}  # now every worker has the key in its cache
            assert clients[-number - 1].delete(f"/v1/key/delete/k{number}").status_code == 200
            assert statuses(clients, "PUT", path) == {404}


@pytest.mark.parametrize("path", ["/v1/log/audit", "/v1/log/error"])
def test_log_streams_have_the_events_of_all(run_server: Run, tmp_path: Path, path: str) -> None:
    server = start_with_workers(run_server, tmp_path)
    stranger = make_credentials(tmp_path, "stranger")
    with connections(server) as clients:
        readers = [Reader(server, path, http2=False) for _ in range(2)]
        # The other workers learn of a reader a moment later; until then, the reader may miss their events.
        deadline = time.monotonic() + 60
        with server.client(stranger) as refused:
            while not all(reader.events for reader in readers):
                assert time.monotonic() < deadline
                for client in clients:
                    client.get("/v1/key/describe/warm-up")
                refused.get("/v1/status")
        for number, client in enumerate(clients):
            client.get(f"/v1/key/describe/k{number}")
        for number in range(CONNECTIONS):
            with server.client(stranger, http2=False) as client:
                client.get(f"/v1/key/describe/x{number}")
        wanted = {f"/v1/key/describe/x{number}" for number in range(CONNECTIONS)}
        if path.endswith("audit"):
            wanted |= {f"/v1/key/describe/k{number}" for number in range(CONNECTIONS)}
        for reader in readers:
            reader.wait_until(lambda events: all(name in str(events) for name in wanted))
    # The error log also has the supervisor's lines.
    if path.endswith("error"):
        server.signal(signal.SIGHUP)
        server.wait_for_log("the configuration is reloaded")
        readers[0].wait_until(lambda events: "is reloaded" in str(events))
    assert server.stop() == 0
    for reader in readers:
        reader.close()


def test_dead_worker_is_replaced_and_what_it_counted_stays(run_server: Run, tmp_path: Path) -> None:
    server = start_with_workers(run_server, tmp_path, {"keys": [{"name": "k"}]})
    with connections(server) as clients:
        assert statuses(clients, "PUT", "/v1/key/generate/k") == {200}
    assert families(server)["kes_http_request_success"][1]["200"] == CONNECTIONS
    before = workers_of(server)
    uptime = families(server)["kes_system_up_time"][1][""]
    os.kill(before[0], signal.SIGKILL)
    server.wait_for_log("has died, killed by signal 9, and is replaced")
    wait_for_all_workers(server)
    assert len(set(workers_of(server)) - set(before)) == 1
    found = families(server)
    assert found["kes_worker_restarts_total"][1][""] == 1
    # The uptime is the server's, not that of the worker that answers.
    for _ in range(5):
        now = families(server)["kes_system_up_time"][1][""]
        assert now > uptime
        uptime = now
    assert found["kes_http_request_success"][1]["200"] == CONNECTIONS
    with connections(server) as clients:
        assert statuses(clients, "PUT", "/v1/key/generate/k") == {200}


def test_reload_applies_to_all_workers_or_to_none(run_server: Run, tmp_path: Path) -> None:
    someone = make_credentials(tmp_path, "someone")
    server = start_with_workers(run_server, tmp_path)
    original = server.config_path.read_text()
    changed = yaml.safe_load(original)
    changed["policy"] = {"p": {"allow": ["/v1/status"], "identities": [someone.identity]}}

    def allowed() -> set[int]:
        found = set()
        for _ in range(CONNECTIONS):
            with server.client(someone, http2=False) as client:
                found.add(client.get("/v1/status").status_code)
        return found

    assert allowed() == {403}
    server.config_path.write_text(yaml.safe_dump(changed))
    server.signal(signal.SIGHUP)
    server.wait_for_log("the configuration is reloaded")
    assert allowed() == {200}

    broken = tmp_path / "no-directory"
    broken.write_text("")
    for problem, text in (
        ("did you mean 'policy'", {**changed, "polcy": {}}),
        ("no-directory", {**changed, "keystore": {"fs": {"path": str(broken)}}, "policy": {}}),
    ):
        server.config_path.write_text(yaml.safe_dump(text))
        server.signal(signal.SIGHUP)
        assert problem in server.wait_for_log("the configuration is not reloaded")
        assert allowed() == {200}
    # A new worker starts with the configuration in use, not with the one in the file.
    os.kill(workers_of(server)[0], signal.SIGKILL)
    server.wait_for_log("is replaced")
    wait_for_all_workers(server)
    assert allowed() == {200}


def test_running_requests_are_finished(run_server: Run, tmp_path: Path) -> None:
    server = start_with_workers(run_server, tmp_path, {"keys": [{"name": "k"}]})
    workers = workers_of(server)
    with connections(server) as clients, ThreadPoolExecutor(CONNECTIONS) as pool:
        running = [pool.submit(client.put, "/v1/key/generate/k") for client in clients]
        assert server.stop() == 0
        for request in running:
            try:
                assert request.result().status_code == 200
            except httpx.TransportError:
                pass  # the request had not been sent yet
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_workers_end_with_their_supervisor(run_server: Run, tmp_path: Path) -> None:
    server = start_with_workers(run_server, tmp_path)
    workers = workers_of(server)
    server.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("chain", [False, True])
def test_audit_records_of_all_are_whole(run_server: Run, tmp_path: Path, chain: bool) -> None:
    path = tmp_path / "audit.log"
    audit = {"log": {"audit": "on"}, "audit": {"file": {"path": str(path), "chain": "on" if chain else "off"}}}
    server = start_with_workers(run_server, tmp_path, audit)
    long_name = "x" * 9000  # more than a pipe takes in one write
    with connections(server) as clients, ThreadPoolExecutor(CONNECTIONS) as pool:
        for client in clients:
            assert client.get("/version").status_code == 200

        def many(client: httpx.Client) -> None:
            for _ in range(20):
                client.get(f"/v1/key/describe/{long_name}")

        list(pool.map(many, clients))
    assert server.stop() == 0
    lines = path.read_text().splitlines()
    assert sum(long_name in json.loads(line)["request"]["path"] for line in lines) == 20 * CONNECTIONS
    printed = [json.loads(server.audit.get(timeout=60)) for _ in lines]
    assert sum(long_name in event["request"]["path"] for event in printed) == 20 * CONNECTIONS
    if chain:
        assert not list(Verification().check("audit.log", lines))


def test_refused_with_a_store_that_is_not_shared(run_server: Run) -> None:
    server = run_server()
    server.stop()
    done = run_kes("server", "--config", server.config_path, "--workers", "2")
    assert done.returncode == 2
    assert "2 processes would each have keys of their own in keystore.memory; use a key store" in done.stderr


@pytest.mark.parametrize("number", ["0", "many", "257", "1.5"])
def test_invalid_number_of_workers(number: str) -> None:
    done = run_kes("server", "--config", "/dev/null", "--workers", number)
    assert done.returncode == 1
    assert f"workers: {number!r} is not a number of processes; expected 1 to 256" in done.stderr


def test_start_fails_as_one(run_server: Run, tmp_path: Path) -> None:
    server = start_with_workers(run_server, tmp_path)
    server.stop()
    config = yaml.safe_load(server.config_path.read_text())
    config["audit"] = {"file": {"path": str(tmp_path / "no" / "audit.log")}}
    server.config_path.write_text(yaml.safe_dump(config))
    done = run_kes("server", "--config", server.config_path)
    assert done.returncode == 1
    assert done.stderr == f"Error: the audit log '{tmp_path}/no/audit.log' can't be opened: No such file or directory\n"


REPORT_ENVIRONMENTS = """
import json, sys
import kes_core.cli

def report(event, args):
    if event == "subprocess.Popen":
        print("environment", json.dumps(args[3]), file=sys.stderr, flush=True)

sys.addaudithook(report)
kes_core.cli.main()
"""
"""The command `kes`, which reports the environment of each process that it starts."""


def test_no_secret_in_arguments_and_environment(run_server: Run, tmp_path: Path) -> None:
    """Workers inherit only the server's own environment, with what the operator set."""
    environment = {"ADMIN": "a" * 64}
    options: dict[str, Any] = {"environment": environment, "python": ("-c", REPORT_ENVIRONMENTS)}
    server = start_with_workers(run_server, tmp_path, {"admin": {"identity": "${ADMIN}"}}, **options)
    for worker in workers_of(server):
        arguments = Path(f"/proc/{worker}/cmdline").read_text().split("\0")
        assert arguments[1:4] == ["-P", "-m", "kes_core.server.workers"]
        assert arguments[4].isdigit()
    lines = [line.partition(" ")[2] for line in server.errors if line.startswith("environment ")]
    assert len(lines) == WORKERS
    for line in lines:
        assert json.loads(line).items() <= (os.environ | environment).items()

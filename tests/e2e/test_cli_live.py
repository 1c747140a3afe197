"""`kes log` and `kes metric` while a server works: on a terminal, and piped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kes_core.cli._metrics import parse
from kes_core.client import Client, NotAllowedError
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.command import kes
from tests.helpers.server import Server, start_server
from tests.helpers.terminal import KES, Terminal, terminal

OnTerminal = Callable[..., AbstractContextManager[Terminal]]
Run = Callable[..., Server]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("user"), "user")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, user: Credentials) -> Iterator[Server]:
    policies = {"app": {"allow": ["/v1/status"], "identities": [user.identity]}}
    server = start_server(tmp_path_factory.mktemp("server"), {"policy": policies, "keys": [{"name": "my-key"}]})
    yield server
    assert server.stop() == 0


def environment(server: Server) -> dict[str, str]:
    return {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}


def client(server: Server, credentials: Credentials | None = None) -> Client:
    return Client(server.url, api_key=(credentials or server.admin).api_key, insecure=True)


@contextmanager
def piped(server: Server, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*KES, *arguments, "-k"],
        env=os.environ | environment(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_audit_log_on_a_terminal(server: Server, user: Credentials, tmp_path: Path) -> None:
    with terminal("log", "-k", cwd=tmp_path, environment=environment(server)) as running, client(server) as kms:
        screen = running.wait_for("Latency")
        assert screen.lines[0].split() == ["Time", "Identity", "Policy", "IP", "Status", "Latency", "API"]
        assert screen.is_bold("Time")
        kms.generate_data_key("my-key")
        running.wait_for("/v1/key/generate/my-key")
        with client(server, user) as other, pytest.raises(NotAllowedError):
            other.create_key("x" * 70)
        running.wait_for("matches")
        row, refused, reason = screen.lines[1:4]
        short = server.admin.identity[:10]
        columns = rf"\d\d:\d\d:\d\d  {short}…  -          127\.0\.0\.1        200     +\d+(\.\d+)? (µs|ms)  "
        pattern = columns + "/v1/key/generate/my-key"
        assert re.fullmatch(pattern, row)
        assert screen.column_of("API") == screen.column_of("/v1/key/generate/my-key")
        assert screen.column_of("Status") == row.index("  200 ") + 2 == refused.index("  403 ") + 2
        assert (screen.colour_of("200"), screen.colour_of("403")) == ("green", "yellow")
        assert refused.endswith("xx…")
        assert len(refused) <= 100
        assert refused.split()[2] == "app"
        assert reason.strip() == "policy: static: no allow rule of policy 'app' matches"
        running.interrupt()
        assert running.end() == 130
        assert "Traceback" not in running.sent
        assert "Aborted" not in running.sent


def test_audit_log_with_a_filter(server: Server, user: Credentials, tmp_path: Path) -> None:
    """A filter applies on a terminal and in a pipe."""
    filters = {
        "--status": "4xx",
        "--path": "/v1/key/create/*",
        "--policy": "app",
        "--ip": "127.0.0.1",
        "--identity": user.identity[:8],
    }
    options = [part for pair in filters.items() for part in pair]
    with (
        terminal("log", "-k", *options, cwd=tmp_path, environment=environment(server)) as running,
        piped(server, "log", *options) as process,
        client(server) as kms,
        client(server, user) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        running.wait_for("Latency")
        assert process.stdout is not None
        line = pool.submit(process.stdout.readline)
        while not line.done():  # the piped command may not read yet
            kms.version()
            other.status()
            with pytest.raises(NotAllowedError):
                other.create_key("refused")
            wait([line], timeout=0.2)
        screen = running.wait_for("/v1/key/create/refused")
        assert "/version" not in "".join(screen.lines)
        assert "/v1/status" not in "".join(screen.lines)
        record = json.loads(line.result())
        assert (record["request"]["path"], record["request"]["policy"]) == ("/v1/key/create/refused", "app")
        assert record["response"]["reason"].startswith("policy: static: ")
        running.interrupt()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--status", "6xx"], "'6xx' is neither a status (403) nor a class (4xx) nor 'failed'"),
        (["--error", "--ip", "127.0.0.1"], "are for requests, not for --error"),
    ],
)
def test_wrong_filters(tmp_path: Path, arguments: list[str], text: str) -> None:
    assert text in kes("log", *arguments, cwd=tmp_path, code=2).stderr


def test_error_log_on_a_terminal(server: Server, user: Credentials, tmp_path: Path) -> None:
    with (
        terminal("log", "--error", "-k", cwd=tmp_path, environment=environment(server)) as running,
        client(server, user) as other,
    ):
        running.wait_for("New errors of the server")
        with pytest.raises(NotAllowedError):
            other.create_key("refused")
        screen = running.wait_for("/v1/key/create/refused")
        assert re.match(r"\d{4}-\d\d-\d\dT\S+Z INFO refused '/v1/key/create/refused' to", screen.lines[1])
        running.interrupt()
        assert running.end() == 130


def test_a_piped_log_is_what_the_server_sends(server: Server) -> None:
    """Each event is one line and comes at once; after Ctrl-C the exit code is that of `tail -f`."""
    with piped(server, "log") as process, client(server) as kms, kms.audit_log() as events:
        assert process.stdout is not None
        lines = events.lines()
        while json.loads(next(lines))["request"]["path"] != "/v1/log/audit":
            pass  # after its own request the command has begun to read
        kms.version()
        line = process.stdout.readline()
        assert line == next(lines).decode() + "\n"
        assert json.loads(line)["request"]["path"] == "/version"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_server_that_stops_ends_the_log_with_a_message(run_server: Run, tmp_path: Path) -> None:
    server = run_server()
    with terminal("log", "-k", cwd=tmp_path, environment=environment(server)) as running:
        running.wait_for("Latency")
        server.signal(signal.SIGTERM)
        assert running.end() == 1
    last = "".join(running.screen.lines[1:])
    assert last.startswith(
        f"Error: failed to read the audit log: {server.url}: the server ended the log: the server is stopping, or"
    )
    assert server.process.wait(timeout=120) == 0


def test_a_broken_connection_ends_the_log_with_a_message(run_server: Run) -> None:
    server = run_server()
    with piped(server, "log", "--error") as process, client(server) as kms, kms.audit_log() as events:
        while next(events).path != "/v1/log/error":
            pass
        server.kill()
        assert process.wait(timeout=120) == 1
        assert process.stderr is not None
        assert "the connection broke in the middle of an answer" in process.stderr.read()


def test_log_ends_when_its_output_is_closed(server: Server) -> None:
    with piped(server, "log") as process, client(server) as kms, kms.audit_log() as events:
        assert process.stdout is not None
        while next(events).path != "/v1/log/audit":
            pass
        process.stdout.close()
        kms.version()
        assert process.wait(timeout=120) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_log_needs_a_policy(server: Server, user: Credentials, tmp_path: Path) -> None:
    settings = {"KES_SERVER": server.url, "KES_API_KEY": str(user.api_key)}
    done = kes("log", "-k", cwd=tmp_path, environment=settings, code=1)
    assert done.stderr == "Error: failed to read the audit log: not authorized: insufficient permissions\n"
    done = kes("log", "--audit", "--error", cwd=tmp_path, code=2)
    assert "--audit and --error exclude each other" in done.stderr


def test_metrics_on_a_terminal(server: Server, tmp_path: Path) -> None:
    with (
        client(server) as kms,
        terminal("metric", "--rate", "100ms", "-k", cwd=tmp_path, environment=environment(server)) as running,
    ):
        screen = running.wait_for("Certificate")
        before = dict(line.split()[:2] for line in screen.lines if line.startswith("Success"))
        for _ in range(5):
            kms.generate_data_key("my-key")
        wanted = int(before.get("Success", "0")) + 5
        running.wait_until(lambda shown: any(re.match(rf"Success +{wanted} +0\.0", line) for line in shown.lines))
        assert sum(line.startswith("Requests") for line in screen.lines) == 1  # drawn over, not below
        for name in ("Success", "Error", "Failure", "Active", "Latency", "Uptime", "CPUs", "Memory", "Log events"):
            assert any(line.startswith(name) for line in screen.lines), name
        assert (screen.colour_of("Success"), screen.colour_of("Failure")) == ("green", "red")
        assert screen.column_of("Success") == 0
        (cache,) = [line for line in screen.lines if line.startswith("Cache")]
        assert re.fullmatch(r"Cache +\d+\.\d% hits", cache)
        running.interrupt()
        assert running.end() == 130
        assert "Traceback" not in running.sent


def test_metrics_where_nothing_can_be_drawn_over(server: Server, tmp_path: Path) -> None:
    dumb = environment(server) | {"TERM": "dumb"}
    with terminal("metric", "--rate", "100ms", "-k", cwd=tmp_path, environment=dumb) as running:
        running.wait_until(lambda screen: sum(line.startswith("Certificate") for line in screen.lines) == 2)
        assert "\x1b" not in running.sent


def test_metrics_for_a_script(server: Server, tmp_path: Path) -> None:
    with client(server) as kms:
        kms.generate_data_key("my-key")
    facts = json.loads(kes("metric", "-k", cwd=tmp_path, environment=environment(server)).stdout)
    assert facts["kes_http_request_success"] >= 1
    assert facts["kes_http_response_time"]["10000000"] >= 1
    assert facts["latency"].keys() == {"mean", "p50", "p90", "p99"}
    assert facts["kes_system_mem_heap_objects"] > 0
    assert facts["kes_system_num_cpu"] >= facts["kes_system_num_cpu_used"] >= 1
    assert "rates" not in facts
    with piped(server, "metric", "--rate", "100ms") as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert "rates" not in first
        assert second["rates"].keys() == {"success", "error", "failure"}
        assert second["kes_system_up_time"] > first["kes_system_up_time"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130


@pytest.mark.parametrize(
    ("rate", "message"),
    [("5", "a number needs a unit"), ("0s", "the shortest interval is 100ms"), ("-1s", "is negative")],
)
def test_invalid_rates(rate: str, message: str, tmp_path: Path) -> None:
    assert message in kes("metric", "--rate", rate, cwd=tmp_path, code=2).stderr


GO_METRICS = """\
# HELP kes_http_request_active Number of active requests that are not finished, yet
# TYPE kes_http_request_active gauge
kes_http_request_active 0
# TYPE kes_http_request_success counter
kes_http_request_success{code="200"} 90
kes_http_request_success{code="204"} 10
# TYPE kes_http_response_time histogram
kes_http_response_time_bucket{le="0.01"} 60
kes_http_response_time_bucket{le="0.05"} 95
kes_http_response_time_bucket{le="10"} 99
kes_http_response_time_bucket{le="+Inf"} 100
kes_http_response_time_sum 2
kes_http_response_time_count 100
# TYPE kes_system_up_time gauge
kes_system_up_time 12.5
"""


def test_metrics_of_a_server_that_counts_less() -> None:
    """The Go server counts requests by code, knows no cache and key store, and omits failures until one happens."""
    snapshot = parse(GO_METRICS)
    facts: dict[str, Any] = snapshot.facts(None, 0.0)
    assert facts == {
        "kes_http_request_success": 100,
        "kes_http_request_error": 0,
        "kes_http_request_failure": 0,
        "kes_http_response_time": {"10000000": 60, "50000000": 95, "10000000000": 99},
        "latency": {"mean": 0.02, "p50": 0.01, "p90": 0.05, "p99": 10.0},
        "kes_http_request_active": 0,
        "kes_system_up_time": 12_500_000_000,
    }
    later = parse(GO_METRICS.replace('"200"} 90', '"200"} 110').replace("count 100", "count 120"))
    assert later.facts(snapshot, 2.0)["rates"] == {"success": 10.0, "error": 0.0, "failure": 0.0}
    assert snapshot.facts(later, 2.0)["rates"]["success"] == 50.0  # the counters began again at zero
    with pytest.raises(ValueError, match="holds no metrics of a KES server"):
        parse("other 1\n")


def test_help_imports_no_command() -> None:
    code = (
        "import sys; sys.argv = ['kes', '--help']; from kes_core.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "found = {'rich', 'httpx', 'prometheus_client', 'kes_core.client', 'kes_core.cli.log'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_completing_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['kes']; from kes_core.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "found = {'rich', 'httpx', 'prometheus_client', 'kes_core.client', 'cryptography', 'yaml'} & set(sys.modules)\n"
        "assert not found, found"
    )
    words = {"_KES_COMPLETE": "bash_complete", "COMP_WORDS": "kes ", "COMP_CWORD": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=os.environ | words)

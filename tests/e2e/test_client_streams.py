"""The logs that the Python client reads, and the examples of its page, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kes_core.client import (
    APIError,
    AsyncClient,
    AuditEvent,
    Client,
    ErrorEvent,
    KESConnectionError,
    NotAllowedError,
    StreamEndedError,
)
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.programs import free_port
from tests.helpers.server import Server, start_server

ROOT = Path(__file__).parents[2]
Run = Callable[..., Server]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("user"), "user")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, user: Credentials) -> Iterator[Server]:
    policies = {"app": {"allow": ["/v1/status"], "identities": [user.identity]}}
    server = start_server(tmp_path_factory.mktemp("server"), {"policy": policies})
    yield server
    assert server.stop() == 0


def client(server: Server, credentials: Credentials | None = None, **options: Any) -> Client:
    return Client(server.url, api_key=(credentials or server.admin).api_key, insecure=True, **options)


def async_client(server: Server, **options: Any) -> AsyncClient:
    return AsyncClient(server.url, api_key=server.admin.api_key, insecure=True, **options)


def handed_out(kms: Client) -> float:
    """Return how many audit events the server has handed to readers."""
    match = re.search(r"^kes_log_audit_events (\S+)$", kms.metrics(), re.MULTILINE)
    assert match is not None
    return float(match.group(1))


def wait_until_nobody_reads(kms: Client) -> None:
    deadline = time.monotonic() + 60
    while handed_out(kms) != handed_out(kms):
        assert time.monotonic() < deadline, "the server still sends events"


def test_audit_events(server: Server) -> None:
    with client(server) as kms, kms.audit_log() as events:
        kms.version()
        with pytest.raises(APIError):
            kms.describe_key("none")
        first, second = next(events), next(events)
    assert isinstance(first, AuditEvent)
    assert (first.ip, first.path, first.identity, first.code) == ("127.0.0.1", "/version", server.admin.identity, 200)
    assert timedelta(0) < first.response_time < timedelta(seconds=10)
    assert abs(datetime.now(UTC) - first.time) < timedelta(minutes=1)
    assert (second.path, second.code) == ("/v1/key/describe/none", 404)


def test_error_events(server: Server, user: Credentials) -> None:
    with client(server) as kms, kms.error_log() as events, client(server, user) as other:
        with pytest.raises(NotAllowedError):
            other.create_key("refused")
        event = next(events)
    assert isinstance(event, ErrorEvent)
    assert "/v1/key/create/refused" in event.message


def test_lines_are_those_of_the_server(server: Server) -> None:
    with client(server) as kms, kms.audit_log() as events:
        kms.version()
        line = next(events.lines())
    assert line.startswith(b'{"time":"')
    assert line.endswith(b"}}")


def test_both_logs_asynchronously(server: Server, user: Credentials) -> None:
    async def check() -> None:
        async with async_client(server) as kms, kms.audit_log() as events, kms.error_log() as errors:
            assert (await anext(events)).path == "/v1/log/error"
            other = AsyncClient(server.url, api_key=user.api_key, insecure=True)
            async with other:
                with pytest.raises(NotAllowedError):
                    await other.create_key("refused")
            assert "/v1/key/create/refused" in (await anext(errors)).message
            async for line in events.lines():
                assert line.startswith(b"{")
                break

    asyncio.run(check())


def test_a_log_needs_permission(server: Server, user: Credentials) -> None:
    with client(server, user) as kms, pytest.raises(NotAllowedError), kms.audit_log():
        pass
    with client(server, user) as kms, pytest.raises(NotAllowedError):
        next(kms.error_log())

    async def check() -> None:
        async with AsyncClient(server.url, api_key=user.api_key, insecure=True) as kms:
            with pytest.raises(NotAllowedError):
                await anext(kms.audit_log())

    asyncio.run(check())


def test_leaving_the_block_ends_the_log(server: Server) -> None:
    with client(server) as kms:
        with kms.audit_log() as events:
            kms.version()
            assert next(events).path == "/version"
        wait_until_nobody_reads(kms)
        assert list(events) == []
        assert list(events.lines()) == []


def test_closing_the_client_ends_its_logs(server: Server) -> None:
    kms = client(server)
    events = kms.audit_log()
    kms.version()
    with events:
        kms.close()
        assert list(events) == []

    async def check() -> None:
        kms = async_client(server)
        events = kms.audit_log()
        async with events:
            await kms.aclose()
            assert [event async for event in events] == []

    asyncio.run(check())
    with client(server) as kms:
        wait_until_nobody_reads(kms)


def test_another_thread_ends_the_log(server: Server) -> None:
    with client(server) as kms:
        events = kms.audit_log()
        got: list[AuditEvent] = []
        first = threading.Event()

        def read() -> None:
            with events:
                kms.version()
                for event in events:
                    got.append(event)
                    first.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert first.wait(60)
        events.close()  # while the thread waits for the next event
        thread.join(60)
        assert not thread.is_alive()
        assert [event.path for event in got] == ["/version"]
        wait_until_nobody_reads(kms)


def test_another_task_ends_the_log(server: Server) -> None:
    async def check() -> None:
        async with async_client(server) as kms, kms.audit_log() as events:
            reading = asyncio.create_task(anext(events, None))
            await asyncio.sleep(0)
            await kms.version()
            assert await reading is not None
            reading = asyncio.create_task(anext(events, None))
            await asyncio.sleep(0)
            await events.aclose()
            assert await asyncio.wait_for(reading, 10) is None

    asyncio.run(check())


def test_waiting_for_an_event_can_be_cancelled(server: Server) -> None:
    async def check() -> None:
        async with async_client(server) as kms:
            events = kms.audit_log()
            async with events:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await anext(events)
                assert [event async for event in events] == []  # an event may be lost, so the stream ended

    asyncio.run(check())
    with client(server) as kms:
        wait_until_nobody_reads(kms)


def test_a_log_waits_longer_than_a_request(server: Server) -> None:
    with client(server, timeout=2.0) as kms, kms.audit_log() as events, client(server) as other:
        later = threading.Timer(3.0, other.version)
        later.start()
        assert next(events).path == "/version"
        later.join()


def test_dead_endpoints_are_passed_over(server: Server) -> None:
    endpoints = [f"127.0.0.1:{free_port()}", server.url]
    with Client(endpoints, api_key=server.admin.api_key, insecure=True) as kms, kms.audit_log() as events:
        kms.version()
        assert next(events).path == "/version"
    with Client(endpoints[0], api_key=server.admin.api_key, insecure=True) as kms:
        with pytest.raises(KESConnectionError, match="refused"):
            next(kms.audit_log())

        async def check() -> None:
            async with AsyncClient(endpoints[0], api_key=server.admin.api_key, insecure=True) as kms:
                with pytest.raises(KESConnectionError, match="All connection attempts failed"):
                    await anext(kms.audit_log())

        asyncio.run(check())


def test_an_event_that_was_sent_is_not_lost_when_the_server_stops(run_server: Run) -> None:
    server = run_server()
    with client(server) as kms, kms.audit_log() as events:
        kms.version()
        server.signal(signal.SIGTERM)
        assert next(events).path == "/version"
        with pytest.raises(StreamEndedError, match="the server ended the log: the server is stopping, or"):
            next(events)
        assert list(events) == []
    assert server.process.wait(timeout=120) == 0


def test_a_server_that_stops_ends_asynchronous_logs(run_server: Run) -> None:
    server = run_server()

    async def check() -> None:
        async with async_client(server) as kms, kms.audit_log() as events:
            server.signal(signal.SIGTERM)
            with pytest.raises(StreamEndedError):
                await anext(events)

    asyncio.run(check())


def test_a_connection_that_breaks_is_an_error_of_its_own(run_server: Run) -> None:
    server = run_server()

    async def check(events: Any) -> None:
        async with async_client(server) as kms, kms.audit_log() as others:
            assert next(events).path == "/v1/log/audit"  # the request of `others`
            server.kill()
            with pytest.raises(KESConnectionError, match="the connection broke in the middle of an answer") as caught:
                await anext(others)
            assert not isinstance(caught.value, StreamEndedError)
        with pytest.raises(KESConnectionError, match="the connection broke in the middle of an answer") as caught:
            next(events)
        assert not isinstance(caught.value, StreamEndedError)

    with client(server) as kms, kms.audit_log() as events:
        asyncio.run(check(events))


def test_a_reader_that_does_not_keep_up_gets_an_error(run_server: Run) -> None:
    """The reader gets the events up to the first that it missed, and then the error."""
    server = run_server()
    with client(server) as kms, kms.audit_log() as events:
        count = 0
        with server.client(http2=False) as http:  # long events, or the connection is given up for its slowness first
            for count in range(2000):
                http.get(f"/v1/key/describe/{count}-{'x' * 28_000}")
                if count % 20 == 0 and handed_out(kms) < count:
                    break
        paths: list[str] = []
        with pytest.raises(StreamEndedError, match="did not keep up"):
            paths.extend(event.path for event in events)
    numbers = [int(path.split("/")[-1].partition("-")[0]) for path in paths if path.startswith("/v1/key/describe/")]
    assert numbers == list(range(len(numbers)))
    assert 30 < len(numbers) < count
    assert server.stop() == 0


def test_tcp_asks_whether_the_server_is_still_there(server: Server) -> None:
    """TCP keepalive is on: on the idle connection, the kernel runs a timer of kind 2."""
    with client(server) as kms, kms.audit_log():
        local = {
            line.split()[5].partition(":")[0]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if int(line.split()[2].rpartition(":")[2], 16) == server.port
        }
    assert "02" in local


# The documentation of the client


def example(number: int, server: Server) -> str:
    """Return the code of one example, for this server."""
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/client.md").read_text(), re.DOTALL | re.MULTILINE)[
        number
    ]
    return str(code.replace("https://127.0.0.1:7373", server.url).replace("kes:v1:...", str(server.admin.api_key)))


@pytest.mark.parametrize(
    ("number", "output"), [(0, "['my-key']"), (1, "my-key"), (2, ""), (4, "/version"), (5, "up for")]
)
def test_examples_of_the_clients_page(number: int, output: str, run_server: Run) -> None:
    server = run_server({"keys": [{"name": "my-key"}]})
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example(number, server)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert output in done.stdout


def test_example_that_reads_the_audit_log(run_server: Run, user: Credentials) -> None:
    server = run_server()
    seen = threading.Event()

    def ask() -> None:
        with client(server, user) as kms:
            while not seen.is_set():
                with contextlib.suppress(NotAllowedError):
                    kms.create_key("not-mine")

    asking = threading.Thread(target=ask, daemon=True)
    with subprocess.Popen([sys.executable, "-c", example(3, server)], stdout=subprocess.PIPE, text=True) as process:
        asking.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        seen.set()
        asking.join(60)
        assert server.stop() == 0
        rest = process.stdout.read()
    assert line.endswith(f"{user.identity} at 127.0.0.1 was refused '/v1/key/create/not-mine'\n")
    assert "events are missed from now on: " in rest
    assert process.returncode == 0

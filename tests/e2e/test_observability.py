"""Metrics, and the streams of log events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.http2 import Http2Client
from tests.helpers.observation import METRICS, Reader, families
from tests.helpers.server import Server, read_response, start_server


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("stranger"), "stranger")


def test_metrics_of_the_vectors(run_server: Callable[..., Server], stranger: Credentials) -> None:
    server = run_server({"keys": [{"name": "k"}]})
    before = families(server)
    expected = {case["name"]: case for case in METRICS["cases"]}
    for name, case in expected.items():
        assert (name in before) == case["shown_before_first_event"], name
    with server.client() as client:
        for _ in range(3):
            client.put("/v1/key/generate/k")
        client.get("/v1/key/describe/nothing")
        client.get("/v1/status")
        client.get("/v1/ready")
        client.get("/nowhere")
        client.get("/v1/key/create/k")
    with server.client(stranger) as client:
        client.put("/v1/key/generate/k")
    after = families(server)
    for name, case in expected.items():
        if name in after:
            kind, samples = after[name]
            assert kind == case["type"]
            assert samples
    # Refused requests, unknown routes and requests about the server itself do not count.
    assert after["kes_http_request_success"][1] == {"200": 3.0}
    assert after["kes_http_request_error"][1] == {"404": 1.0}
    assert "kes_http_request_failure" not in after
    times = after["kes_http_response_time"][1]
    assert [name.removeprefix("_bucket") for name in times if "_bucket" in name] == METRICS["bucket_labels"]
    assert times["_count"] == times["_bucket+Inf"] == 4.0
    fine = after["kes_http_request_duration_seconds"][1]
    assert next(name for name in fine if "_bucket" in name) == "_bucket0.00025"
    assert all(fine[f"_bucket{bound}"] == times[f"_bucket{bound}"] for bound in METRICS["bucket_labels"])
    assert list(after["kes_build_info"][1].values()) == [1.0]
    assert after["kes_audit_records_lost_total"][1] == {"file": 0.0, "plugin": 0.0, "syslog": 0.0}
    assert after["kes_http_request_active"][1] == {"": 0.0}
    assert after["kes_system_num_cpu"][1][""] >= 1


@pytest.fixture(params=[False, True], ids=["h1", "h2"])
def streaming(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, bool]]:
    server = start_server(tmp_path_factory.mktemp("streams"))
    yield server, request.param
    if server.process.poll() is None:
        server.kill()


def test_audit_events_reach_all_readers_at_once(streaming: tuple[Server, bool], stranger: Credentials) -> None:
    """This also holds if the server writes no audit log to standard output."""
    server, http2 = streaming
    readers = [Reader(server, "/v1/log/audit", http2=http2) for _ in range(3)]
    with server.client() as client:
        client.put("/v1/key/create/my-key")
    with server.client(stranger) as client:
        client.get("/v1/status")
    for number, reader in enumerate(readers):
        # Each reader also has the events of the readers that began after it.
        events = reader.wait_for(2 - number + 2)[-2:]
        assert [(e["request"]["path"], e["response"]["code"]) for e in events] == [
            ("/v1/key/create/my-key", 200),
            ("/v1/status", 403),
        ]
        assert events[1]["request"]["identity"] == stranger.identity
    counted = families(server)["kes_log_audit_events"][1][""]
    assert counted >= 6
    assert server.stop() == 0  # a stream does not hold up a stop
    for reader in readers:
        assert reader.ended.wait(60)
        reader.close()
    assert server.audit.empty()


def test_error_events_reach_readers(streaming: tuple[Server, bool], stranger: Credentials) -> None:
    server, http2 = streaming
    reader = Reader(server, "/v1/log/error", http2=http2)
    with server.client(stranger) as client:
        client.get("/v1/status")
    (event,) = reader.wait_for(1)
    assert list(event) == ["message"]
    assert f"refused '/v1/status' to {stranger.identity}" in event["message"]
    assert families(server)["kes_log_error_events"][1] == {"": 1.0}
    server.stop()
    reader.close()


def test_a_hundred_readers_and_no_more(run_server: Callable[..., Server]) -> None:
    server = run_server()
    ask = b"GET /v1/log/audit HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(100):
            reader = stack.enter_context(server.connection())
            reader.sendall(ask)
            assert reader.recv(65536).startswith(b"HTTP/1.1 200 ")
            readers.append(reader)
        with server.connection() as another:
            another.sendall(ask)
            status, _headers, body = read_response(another)
        assert (status, json.loads(body)) == (503, {"message": "too many clients read this log"})
        with server.client() as client:
            client.put("/v1/key/create/seen-by-all")
        for reader in readers:
            while b"/v1/key/create/seen-by-all" not in reader.recv(65536):
                pass
    with server.client() as client:
        status = 503
        while status == 503:  # until the server has seen that they are gone
            with client.stream("GET", "/v1/log/audit") as again:
                status = again.status_code
        assert status == 200


def test_reader_that_reads_nothing_is_cut_off(streaming: tuple[Server, bool]) -> None:
    """The idle reader delays no other request."""
    server, http2 = streaming
    with (
        server.client(http2=http2) as idle,
        idle.stream("GET", "/v1/log/audit", timeout=None),
        server.connection(alpn=["h2"]) as connection,
    ):
        busy = Http2Client(connection)
        # Short to send and long to log: the log writes each of these characters as six.
        assert busy.run("GET", "/v1/key/describe/" + "%01" * 1000, count=3000, at_once=50) == 0
        counted = families(server)["kes_log_audit_events"][1][""]
        assert counted < 3000  # the reader missed some events and now gets none

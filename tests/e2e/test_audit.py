"""Where audit records go, and that no client can forge one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from kes_core.audit.log import AuditLog, open_audit_log
from tests.helpers.audit_log import HOSTILE, change
from tests.helpers.certificates import make_credentials
from tests.helpers.command import run_kes
from tests.helpers.doctor import PLUGINS, config
from tests.helpers.server import Server, read_response, send_raw

Run = Callable[..., Server]


def verify(*files: Path, key: str = "") -> tuple[int, dict[str, Any]]:
    done = run_kes("audit", "verify", "--json", *files, KES_AUDIT_KEY=key)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def records(path: Path) -> list[dict[str, Any]]:
    """Parse every line as JSON; only a line feed ends a line."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.removesuffix(b"\n").split(b"\n")]


@pytest.mark.parametrize("chain", ["off", "on"])
def test_records_cannot_be_forged(run_server: Run, tmp_path: Path, chain: str) -> None:
    path = tmp_path / "audit.log"
    server = run_server({"audit": {"file": {"path": str(path), "chain": chain}}})
    with server.client() as client:
        for target in HOSTILE:
            assert send_raw(client, "PUT", target).status_code == 400
        send_raw(
            client, "GET", "/version", headers={"x-forwarded-for": '1.1.1.1\t","code":1', "x-tls-client-cert": "a"}
        )
    assert server.stop() == 0
    found = records(path)
    assert len(found) == len(HOSTILE) + 1
    for record, target in zip(found, HOSTILE, strict=False):
        assert set(record) - {"chain"} == {"time", "request", "response"}
        assert record["response"]["code"] == 400
        assert record["request"]["path"] == httpx.URL("https://h" + target.replace("%ff%fe", "")).path + (
            "\ufffd\ufffd" if "%ff" in target else ""
        )
        assert record["request"]["ip"] == "127.0.0.1"
    assert path.stat().st_mode & 0o777 == 0o600
    if chain == "on":
        assert verify(path)[0] == 0


@pytest.mark.parametrize("path", ["generate", "describe"])
def test_record_is_in_the_file_before_its_answer_is_sent(run_server: Run, tmp_path: Path, path: str) -> None:
    """Also if many requests come at once, whose records are written together."""
    file = tmp_path / "audit.log"
    server = run_server({"audit": {"file": {"path": str(file)}}})
    method, length = (b"PUT", 2) if path == "generate" else (b"GET", 0)
    head = b"%b /v1/key/%b/my-key HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    request = head % (method, path.encode(), length) + b"{}"[:length]
    with server.client() as client, contextlib.ExitStack() as stack, file.open() as log:
        client.put("/v1/key/create/my-key")  # over HTTP/2
        recorded, answered = log.read().count("\n"), 1
        assert recorded == 1
        connections = [stack.enter_context(server.connection()) for _ in range(8)]
        for _round in range(40):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                assert read_response(connection)[0] == 200
                answered += 1
                recorded += log.read().count("\n")
                assert recorded >= answered
        assert recorded == answered


@pytest.mark.parametrize("signalled", [True, False])
@pytest.mark.parametrize("chain", ["off", "on"])
def test_rotation_loses_no_line(run_server: Run, tmp_path: Path, chain: str, signalled: bool) -> None:
    """Requests go on while the file is moved away again and again, with or without SIGHUP."""
    path = tmp_path / "audit.log"
    server = run_server({"audit": {"file": {"path": str(path), "chain": chain}}})
    stop, sent = threading.Event(), []

    def send(number: int) -> None:
        with server.client() as client:
            count = 0
            while not stop.is_set():
                client.get(f"/v1/key/describe/k{number}-{count}")
                count += 1
            sent.append(count)

    files = []
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(send, number) for number in range(4)]
        for number in range(5):
            while not (path.exists() and path.stat().st_size):
                pass
            rotated = tmp_path / f"audit.log.{number}"
            path.rename(rotated)
            files.append(rotated)
            if signalled:
                server.signal(signal.SIGHUP)
                server.wait_for_log("the configuration is reloaded")
        stop.set()
        for thread in running:
            thread.result()
    assert server.stop() == 0
    files += [path] if path.exists() else []
    found = [record["request"]["path"] for file in files for record in records(file)]
    assert len(found) == len(set(found)) == sum(sent)
    if chain == "on":
        code, result = verify(*files)
        assert (code, result["last"], result["problems"]) == (0, sum(sent), [])


def test_chain_goes_on_after_a_restart_and_tells_what_was_done(run_server: Run, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    overrides = {"audit": {"file": {"path": str(path), "chain": "on", "key": "${AUDIT_KEY}"}}}
    for _ in range(2):
        server = run_server(overrides, environment={"AUDIT_KEY": "s3cret"})
        with server.client() as client:
            for number in range(5):
                client.get(f"/v1/key/describe/k{number}")
        assert server.stop() == 0
        assert "s3cret" not in "\n".join(server.errors)
    assert verify(path, key="s3cret") == (
        0,
        {
            "ok": True,
            "records": 10,
            "first": 1,
            "last": 10,
            "hash": records(path)[-1]["chain"]["hash"],
            "end_checked": True,
            "problems": [],
        },
    )
    done = run_kes("audit", "verify", path, KES_AUDIT_KEY="another")
    assert (done.returncode, "is this the key that the chain was made with" in done.stderr) == (1, True)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7] + lines[8:]))
    code, result = verify(path, key="s3cret")
    assert code == 1
    assert [problem["message"] for problem in result["problems"]] == ["record 8 is missing"]
    path.write_text("".join(lines[:7]))
    code, result = verify(path, key="s3cret")
    assert [problem["message"] for problem in result["problems"]] == ["the records 8 to 10 are missing at the end"]
    # The server reports it too.
    server = run_server(overrides, environment={"AUDIT_KEY": "s3cret"})
    assert any("the records 8 to 10 are missing at the end of the audit log" in line for line in server.errors)


def test_chain_goes_on_where_a_worker_died_before_it_took_note(run_server: Run, tmp_path: Path) -> None:
    """The worker wrote a record and died before it updated the note, which still describes the record before."""
    path, note = tmp_path / "audit.log", tmp_path / "audit.log.chain"
    server = run_server({"audit": {"file": {"path": str(path), "chain": "on"}}})
    with server.client() as client:
        client.get("/version")
        older = note.read_bytes()
        client.get("/version")
        note.write_bytes(older)
        client.get("/version")
    assert server.stop() == 0
    code, result = verify(path)
    assert (code, result["last"], result["problems"]) == (0, 3, [])


def test_file_that_cannot_be_written_for_a_while_loses_nothing(run_server: Run, tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk."""
    path = tmp_path / "audit.log"
    server = run_server({"audit": {"file": {"path": str(path), "chain": "on"}}})
    hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
    with server.client() as client:
        client.get("/v1/key/describe/before")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        for number in range(10):
            assert client.get(f"/v1/key/describe/k{number}").status_code == 404
        server.wait_for_log("can't be written: File too large; records wait in memory")
        assert len(records(path)) == 1
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        client.get("/v1/key/describe/after")
        server.wait_for_log("can be written again; 0 records are lost")
    assert len(records(path)) == 12
    assert verify(path)[0] == 0


def test_file_is_tried_again_without_a_request(run_server: Run, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    server = run_server({"audit": {"file": {"path": str(path)}}})
    hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    with server.client() as client:
        client.get("/version")
    server.wait_for_log("can't be written: File too large; records wait in memory")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    server.wait_for_log("can be written again; 0 records are lost")
    assert len(records(path)) == 1


@pytest.mark.parametrize("by", ["stop", "reload"])
def test_records_that_can_no_longer_be_written_are_counted(run_server: Run, by: str) -> None:
    server = run_server({"audit": {"file": {"path": "/dev/full"}}})
    with server.client() as client:
        for _ in range(5):
            client.get("/version")
    server.wait_for_log("can't be written: No space left on device; records wait in memory")
    if by == "stop":
        assert server.stop() == 0
    else:
        change(server, audit={})
        server.signal(signal.SIGHUP)
    server.wait_for_log("the audit log '/dev/full' is closed; 5 records are lost")


def test_records_that_wait_go_to_the_file_in_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.log"

    def record(log: AuditLog, number: int) -> None:
        log.record(ip="127.0.0.1", path=f"/{number}", identity="", code=200, seconds=0)

    async def run() -> None:
        sections = ({"audit": {"file": {"path": file}}} for file in ("/dev/full", str(path)))
        old, new = [await open_audit_log(config(tmp_path, **section), PLUGINS) for section in sections]
        for number in range(5):
            record(old, number)
        new.replace(old)
        record(new, 5)
        await new.close()
        await old.close()

    asyncio.run(run())
    assert [found["request"]["path"] for found in records(path)] == [f"/{number}" for number in range(6)]
    assert "records are lost" not in caplog.text.replace("0 records are lost", "")


STDOUT_TO = """\
import os, runpy
os.dup2(os.open({!r}, os.O_WRONLY), 1)
runpy.run_module("kes_core.cli", run_name="__main__")
"""
"""Runs the command with standard output to a file or a named pipe."""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("problem", ["Broken pipe", "No space left on device"])
def test_server_that_cannot_write_to_standard_output_ends(
    run_server: Run, tmp_path: Path, problem: str, workers: int
) -> None:
    path, reader = Path("/dev/full"), -1
    if problem == "Broken pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    kept = tmp_path / "audit.log"
    server = run_server(
        {
            "workers": workers,
            "keystore": {"fs": {"path": str(tmp_path / "keys")}},
            "log": {"audit": "on"},
            "audit": {"file": {"path": str(kept)}},
        },
        python=("-c", STDOUT_TO.format(str(path))),
    )
    if reader >= 0:
        with server.client() as client:
            assert client.get("/version").status_code == 200
        os.close(reader)
    answered = 0
    while server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError), server.client(http2=False) as client:
            answered += client.get("/version").status_code == 200
    # Requests came one at a time, so each process answered at most one without writing its record.
    assert answered <= workers
    message = f"the audit log on standard output can't be written: {problem}; the server stops"
    assert json.loads(server.wait_for_log(message))["level"] == "CRITICAL"
    assert not any("Traceback" in line or "is replaced" in line for line in server.errors)
    assert server.process.returncode == 1
    # The other sink has the record that standard output did not take.
    assert len(records(kept)) >= answered + (reader >= 0)


BAD = [
    ({"file": {"path": "{tmp}/none/audit.log"}}, "the audit log '{tmp}/none/audit.log' can't be opened: No such file"),
    ({"file": {"path": ""}}, "audit.file.path: '' is empty, but required"),
    ({"file": {"path": "a", "key": "k3y"}}, "audit.file: 'key' is the key of the chain: set chain: on"),
    ({"file": {"path": "a", "chain": "maybe"}}, "audit.file.chain: 'maybe' is not a truth value"),
    ({"syslog": {"address": "{tmp}/nobody"}}, "syslog at '{tmp}/nobody' can't be reached: No such file"),
    (
        {"syslog": {"address": "localhost"}},
        "audit.syslog.address: 'localhost' is not the address of a log; expected",
    ),
    (
        {"syslog": {"address": "udp://h:x"}},
        "audit.syslog.address: 'udp://h:x' is not the address of a log; expected",
    ),
    (
        {"syslog": {"facility": "kern"}},
        "audit.syslog.facility: 'kern' is not a syslog facility; allowed: auth",
    ),
]


@pytest.mark.parametrize(("section", "message"), BAD)
def test_place_that_cannot_be_used(run_server: Run, tmp_path: Path, section: dict[str, Any], message: str) -> None:
    """The server does not start, or the reload fails and changes nothing."""
    server = run_server()
    config = yaml.safe_load(server.config_path.read_text())
    config["audit"] = section
    server.config_path.write_text(yaml.safe_dump(config).replace("{tmp}", str(tmp_path)))
    server.signal(signal.SIGHUP)
    expected = message.replace("{tmp}", str(tmp_path))
    assert expected in json.loads(server.wait_for_log("the configuration is not reloaded"))["message"]
    done = run_kes("server", "--config", server.config_path)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "k3y" not in done.stderr


def test_verify_of_what_is_no_chain(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = run_kes("audit", "verify", *arguments)
        return done.returncode, done.stderr + done.stdout

    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.write_text("")
    other.write_bytes(b'{"a":1}\n\xff\xfe\n')
    assert run(str(empty)) == (1, "Error: the files contain no records\n")
    assert run(str(tmp_path / "none")) == (1, f"Error: '{tmp_path}/none' can't be read: No such file or directory\n")
    code, text = run(str(other), "--json")
    assert code == 1
    assert len(json.loads(text)["problems"]) == 2
    assert run()[0] == 2


def test_identity_and_address_are_the_clients_own(run_server: Run, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    stranger = make_credentials(tmp_path, "stranger")
    server = run_server({"audit": {"file": {"path": str(path)}}})
    with server.client(stranger) as client:
        assert client.get("/v1/status", headers={"x-forwarded-for": "8.8.8.8"}).status_code == 403
    assert server.stop() == 0
    (record,) = records(path)
    assert record["request"] == {"ip": "127.0.0.1", "path": "/v1/status", "identity": stranger.identity}

"""A front end of a plugin in a real server: another protocol, with the policies, audit log and keys of the server."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.helpers.certificates import make_credentials
from tests.helpers.json_frontend import ask
from tests.helpers.packages import install_module
from tests.helpers.server import Server, start_server

PLUGIN = Path(__file__).parents[1] / "helpers" / "json_frontend.py"
TEXT = base64.b64encode(b"some text").decode()

SLOW_ENGINE = """
import kes_core

class Slow(kes_core.PolicyEngine):
    def __init__(self, logger):
        self.logger = logger

    async def authorize(self, request):
        self.logger.warning("asked for something slow")
        await asyncio.sleep(0.5)
        return kes_core.Verdict(kes_core.Decision.ALLOW, "all is fine")

async def connect_slow(settings, context):
    return Slow(context.logger)

@hookimpl
def kes_policy_engines():
    return [kes_core.PolicyEngineType(name="slow", config=Section, connect=connect_slow)]
"""


class Running:
    """A server with a front end, and its client."""

    def __init__(self, directory: Path, **overrides: Any) -> None:
        self.directory = directory
        self.app = make_credentials(directory, "app")
        self.environment = install_module(directory, PLUGIN)
        self.server: Server = start_server(directory, self.sections(**overrides), environment=self.environment)

    def sections(self, **overrides: Any) -> dict[str, Any]:
        allow = ["/v1/key/generate/*", "/v1/key/encrypt/*", "/v1/key/decrypt/*", "/v1/key/describe/*"]
        return {
            "keys": [{"name": "my-key"}],
            "log": {"audit": "info"},
            "policy": {
                "apps": {"allow": allow, "deny": ["/v1/key/encrypt/secret*"], "identities": [self.app.identity]}
            },
            "frontends": {"json": self.section()},
            **overrides,
        }

    def section(self, **fields: Any) -> dict[str, Any]:
        return {"socket": "json.sock", "identity": self.app.identity, "busy_file": "busy", **fields}

    def ask(self, do: str, name: str = "my-key", *, socket: str = "json.sock", **request: Any) -> dict[str, Any]:
        return asyncio.run(ask(self.directory / socket, do=do, name=name, **request))

    def reload(self, **overrides: Any) -> str:
        """Let the server use other sections; return the line of the log that says how that went."""
        config = yaml.safe_load(self.server.config_path.read_text()) | self.sections(**overrides)
        self.server.config_path.write_text(yaml.safe_dump(config))
        self.server.signal(signal.SIGHUP)
        return self.server.wait_for_log("the configuration is")

    def record_of(self, path: str) -> dict[str, Any]:
        while (record := self.server.next_audit_record())["request"]["path"] != path:
            pass
        return record


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("frontends"))
    yield found
    assert found.server.stop() == 0
    assert any("the front end 'json' has started" in line for line in found.server.errors)


def wait_until_ready(client: httpx.Client, status: int = 200) -> httpx.Response:
    ends = time.monotonic() + 60
    while (answer := client.get("/v1/ready")).status_code != status:
        assert time.monotonic() < ends, answer.text
        time.sleep(0.1)
    return answer


def test_front_end_and_http_use_the_same_keys(running: Running) -> None:
    sealed = running.ask("encrypt", data=TEXT, associated=TEXT)
    with running.server.client(running.app) as client:
        body = {"ciphertext": sealed["data"], "context": TEXT}
        assert client.put("/v1/key/decrypt/my-key", json=body).json() == {"plaintext": TEXT}
        made = client.put("/v1/key/generate/my-key", json={}).json()
    assert running.ask("decrypt", data=made["ciphertext"])["data"] == made["plaintext"]
    assert len(base64.b64decode(running.ask("generate")["plain"])) == 32


def test_denial_and_its_record_are_those_of_http(running: Running) -> None:
    denied = running.ask("encrypt", "secret-key", data=TEXT, id="17", address="192.0.2.1")
    assert denied == {
        "error": "KeyUseDeniedError",
        "message": "not authorized: insufficient permissions",
        "status": 403,
    }
    mine = running.record_of("/v1/key/encrypt/secret-key")
    with running.server.client(running.app) as client:
        assert client.put("/v1/key/encrypt/secret-key", json={"plaintext": TEXT}).status_code == 403
    other = running.record_of("/v1/key/encrypt/secret-key")
    assert mine["request"] == {**other["request"], "ip": "192.0.2.1", "frontend": "json", "id": "17"}
    assert mine["response"]["code"] == other["response"]["code"] == 403
    assert mine["response"]["reason"] == other["response"]["reason"]
    assert running.ask("encrypt", "secret-key", data=TEXT, identity=running.server.admin.identity)["status"] == 404


def test_rotation_is_seen(running: Running) -> None:
    before = running.ask("describe")
    sealed = running.ask("encrypt", data=TEXT)
    with running.server.client() as client:
        assert client.put("/v1/key/rotate/my-key").status_code == 200
    after = running.ask("describe")
    assert (after["version"], after["created_at"]) == (before["version"] + 1, before["created_at"])
    assert running.ask("encrypt", data=TEXT)["version"] == after["version"]
    assert running.ask("decrypt", data=sealed["data"])["data"] == TEXT


def test_metrics_and_status_show_it(running: Running) -> None:
    running.ask("encrypt", data=TEXT)
    with running.server.client() as client:
        metrics = client.get("/v1/metrics", headers={"Accept": "*/*"}).text
        assert 'kes_frontend_ready{frontend="json"} 1.0' in metrics
        labels = 'name="json",operation="encrypt",package="kes-hostile",section="frontends"'
        assert f"kes_plugin_response_time_count{{{labels}}}" in metrics
        assert client.get("/v1/status").json()["frontends"] == {"json": "ready"}
        assert client.get("/v1/ready").status_code == 200


def test_reload(running: Running) -> None:
    """An unchanged section keeps its clients, a changed one starts again, and one that can't start changes nothing."""
    before = starts_of(running)
    with running.server.client() as client:
        # The policies are new for an open connection too; the section is the same.
        assert "is reloaded" in running.reload(policy={})
        assert running.ask("encrypt", data=TEXT)["status"] == 403
        assert "is reloaded" in running.reload()
        assert "data" in running.ask("encrypt", data=TEXT)
        assert starts_of(running) == before

        line = running.reload(frontends={"json": running.section(socket="none/json.sock")})
        assert "not reloaded" in line
        assert "frontends.json: the socket " in line
        assert "can't be opened: no such file or directory" in line
        assert "data" in running.ask("encrypt", data=TEXT)
        assert client.get("/v1/ready").status_code == 200

        assert "is reloaded" in running.reload(frontends={"json": running.section(socket="new.sock")})
        assert "data" in running.ask("encrypt", data=TEXT, socket="new.sock")
        assert not (running.directory / "json.sock").exists()

        assert "is reloaded" in running.reload(frontends={})
        assert not (running.directory / "new.sock").exists()
        assert "frontends" not in client.get("/v1/status").json()
        assert "is reloaded" in running.reload()


def starts_of(running: Running) -> int:
    return sum("the front end 'json' has started" in line for line in running.server.errors)


def test_crash_is_logged_once_and_the_server_starts_it_again(running: Running) -> None:
    with running.server.client() as client:
        running.ask("crash", "canary-91c2")
        answer = wait_until_ready(client, 503)
        assert answer.json() == {"message": "front end 'json' is not ready"}
        assert "failed in a task: RuntimeError" in client.get("/v1/status").json()["frontends"]["json"]
        metrics = client.get("/v1/metrics", headers={"Accept": "*/*"}).text
        assert 'kes_frontend_ready{frontend="json"} 0.0' in metrics
        assert client.put("/v1/key/generate/my-key", json={}).status_code == 200
        running.server.wait_for_log("the front end 'json' has started again")
        wait_until_ready(client)
    assert "data" in running.ask("encrypt", data=TEXT)
    crashes = [line for line in running.server.errors if "failed in a task" in line]
    assert len(crashes) == 1
    assert "the front end 'json' (plugin 'hostile' of kes-hostile 1.0)" in crashes[0]
    assert not any("canary" in line for line in running.server.errors)


def test_stop_finishes_calls_under_way(tmp_path: Path) -> None:
    module = tmp_path / "plugin.py"
    module.write_text(PLUGIN.read_text() + SLOW_ENGINE)
    found = Running.__new__(Running)
    found.directory, found.app = tmp_path, make_credentials(tmp_path, "app")
    sections = found.sections(policy_engines={"slow": {}}, keys=[{"name": "slow"}])
    server = start_server(tmp_path, sections, environment=install_module(tmp_path, module))

    async def calling() -> dict[str, Any]:
        call = asyncio.ensure_future(ask(tmp_path / "json.sock", do="encrypt", name="slow", data=TEXT))
        await asyncio.to_thread(server.wait_for_log, "asked for something slow")
        server.signal(signal.SIGTERM)
        return await call

    try:
        assert asyncio.run(calling())["version"] == 1
        assert server.process.wait(40) == 0
        assert not (tmp_path / "json.sock").exists()
    finally:
        server.kill()


def test_front_end_that_can_not_start_keeps_the_server_from_starting(tmp_path: Path) -> None:
    (tmp_path / "json.sock").write_text("a folder is needed here")
    section = {"socket": "json.sock/a", "identity": "3e" * 32}
    environment = install_module(tmp_path, PLUGIN)
    with pytest.raises(Exception, match=r"Error: frontends.json: the socket .* can't be opened: not a directory"):
        start_server(tmp_path, {"frontends": {"json": section}}, environment=environment)


@pytest.mark.slow
def test_front_end_that_can_not_start_ends_all_workers(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    section = {"socket": "none/json.sock", "identity": "3e" * 32}
    overrides = {"workers": 2, "keystore": {"fs": {"path": str(keys)}}, "frontends": {"json": section}}
    with pytest.raises(Exception, match=r"Error: worker 1 can't serve: frontends.json: the socket .* can't be opened"):
        start_server(tmp_path, overrides, environment=install_module(tmp_path, PLUGIN))


@pytest.mark.slow
def test_one_worker_runs_it_and_so_does_its_replacement(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    store: Mapping[str, Any] = {"fs": {"path": str(keys)}}
    own = Running(tmp_path, workers=2, keystore=store)
    try:
        assert own.ask("encrypt", data=TEXT)["version"] == 1
        with own.server.client() as client:
            wait_until_ready(client)
            assert "is reloaded" in own.reload(workers=2, keystore=store, policy={})
            assert own.ask("encrypt", data=TEXT)["status"] == 403
            line = own.reload(workers=2, keystore=store, frontends={"json": own.section(socket="none/a.sock")})
            assert "not reloaded" in line
            assert own.ask("encrypt", data=TEXT)["status"] == 403
            assert "is reloaded" in own.reload(workers=2, keystore=store)
            first = own.ask("describe")["process"]
            os.kill(first, signal.SIGKILL)
            own.server.wait_for_log("the front end 'json' has started")
        with own.server.client() as client:
            wait_until_ready(client)
        assert own.ask("encrypt", data=TEXT)["version"] == 1
        assert own.server.stop() == 0
    finally:
        own.server.kill()

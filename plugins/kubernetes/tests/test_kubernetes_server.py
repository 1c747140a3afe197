"""The plugin in a real server: its policies, its audit records, rotations and reloads, and `kes kubernetes check`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import kes
from tests.helpers.kms import IDENTITY, Client, connected
from tests.helpers.server import Server, change_config, reload, start_failing, start_server

RunServer = Callable[..., Server]
DATA_KEY = "a data encryption key"
ALLOWED = ["/v1/key/encrypt/my-key", "/v1/key/decrypt/my-key"]


def config(**changes: Any) -> dict[str, Any]:
    return {
        "frontends": {"kubernetes": {"socket": "run/s", "key": "my-key", "identity": IDENTITY}},
        "policy": {"kubernetes": {"allow": ALLOWED, "identities": [IDENTITY]}},
        "keys": [{"name": "my-key"}],
        "keystore": {"fs": {"path": "keys"}},
        "cache": {"expiry": {"any": "1s", "unused": "1s"}},
        "log": {"audit": "on", "error": "debug"},
    } | changes


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Client]]:
    """A server with the plugin, and a client of it."""
    directory = tmp_path_factory.mktemp("kms")
    directory.chmod(0o700)
    server = start_server(directory, config())
    with connected(directory / "run" / "s") as client:
        yield server, client
    assert server.stop() == 0, "\n".join(server.errors)
    assert not (directory / "run" / "s").exists()
    assert all(line.startswith("{") for line in server.errors), "gRPC writes to the log by itself"
    assert DATA_KEY not in "\n".join(server.errors)


def records(server: Server, path: str) -> Iterator[dict[str, Any]]:
    """Yield the next audit records of a path."""
    while True:
        record = server.next_audit_record()
        if record["request"]["path"] == path:
            yield record


def test_calls_are_audited_as_requests_of_the_identity(plugin: tuple[Server, Client]) -> None:
    server, client = plugin
    sealed = client.encrypt(DATA_KEY.encode(), uid="7f3c")
    assert client.decrypt(sealed.ciphertext, sealed.key_id, uid="7f3d") == DATA_KEY.encode()
    for path, uid in zip(ALLOWED, ("7f3c", "7f3d"), strict=True):
        found = next(record for record in records(server, path) if record["request"].get("id") == uid)
        assert found["request"]["identity"] == IDENTITY
        assert found["response"]["code"] == 200


def test_rotation_changes_the_key_id_at_once(plugin: tuple[Server, Client]) -> None:
    server, client = plugin
    old = client.encrypt(bytes(32))
    with server.client() as admin:
        rotated = admin.put("/v1/key/rotate/my-key")
    version = rotated.json()["version"]
    assert client.status().key_id == client.encrypt(bytes(32)).key_id
    assert client.status().key_id.split("/")[1] == f"v{version}"
    assert client.decrypt(old.ciphertext, old.key_id) == bytes(32)


def test_key_that_is_disabled(plugin: tuple[Server, Client]) -> None:
    server, client = plugin
    with server.client() as admin:
        admin.put("/v1/key/disable/my-key")
        assert client.error("status") == ("FAILED_PRECONDITION", "key 'my-key': key is disabled")
        admin.put("/v1/key/disable/my-key", json={"allow_decrypt": True})
        assert client.error("encrypt", b"x") == ("FAILED_PRECONDITION", "key 'my-key': key is disabled for encryption")
        admin.put("/v1/key/enable/my-key")
    assert client.status().healthz == "ok"


def test_outage_of_the_key_store(plugin: tuple[Server, Client]) -> None:
    server, client = plugin
    keys = server.config_path.parent / "keys"
    known = client.status().key_id
    keys.rename(keys.with_name("away"))
    try:
        while (status := client.status()).healthz == "ok":  # for a second the key is in memory
            pass
        assert status.key_id == known
        assert status.healthz.startswith("key 'my-key': failed to ")
    finally:
        keys.with_name("away").rename(keys)
    while client.status().healthz != "ok":
        pass
    assert client.status().key_id == known


def test_command_asks_what_the_api_server_asks(plugin: tuple[Server, Client]) -> None:
    server, client = plugin
    shown = kes("kubernetes", "check", "run/s", cwd=server.config_path.parent).stdout
    assert shown.splitlines()[:2] == ["health  ok", f"key_id  {client.status().key_id}"]


def test_doctor(plugin: tuple[Server, Client]) -> None:
    server, _client = plugin
    done = kes("doctor", "--config", "config.yml", cwd=server.config_path.parent)
    assert "the plugin encrypts and decrypts; its key_id is my-key/v" in done.stdout


def test_reload_changes_rights_and_socket(run_server: RunServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = run_server(config())
    with connected(tmp_path / "run" / "s") as client:
        known = client.status().key_id
        change_config(server, {"policy": {"kubernetes": {"allow": ALLOWED[:1], "identities": [IDENTITY]}}})
        reload(server)
        assert client.error("status")[0] == "PERMISSION_DENIED"
    change_config(server, config(frontends={"kubernetes": config()["frontends"]["kubernetes"] | {"socket": "run/t"}}))
    reload(server)
    with connected(tmp_path / "run" / "t") as client:
        assert client.status().key_id == known
    change_config(server, config(frontends={"kubernetes": config()["frontends"]["kubernetes"] | {"mode": "0666"}}))
    server.signal(signal.SIGHUP)
    server.wait_for_log("lets every user of the machine decrypt secrets")
    with connected(tmp_path / "run" / "t") as client:
        assert client.status().key_id == known
    assert server.stop() == 0
    assert not list((tmp_path / "run").iterdir())


def test_server_does_not_start_beside_another_one(plugin: tuple[Server, Client], tmp_path: Path) -> None:
    server, client = plugin
    socket = server.config_path.parent / "run" / "s"
    second = config(frontends={"kubernetes": config()["frontends"]["kubernetes"] | {"socket": str(socket)}})
    code, said = start_failing(tmp_path, second)
    assert code == 1
    assert f"another process listens on '{socket}': stop it, or use another path" in said
    assert client.status().healthz == "ok"

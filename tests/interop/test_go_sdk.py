"""The official Go SDK, unchanged, against a running server. Needs Go; the module comes through its module proxy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kes_core.identity import APIKey
from tests.helpers.certificates import make_credentials
from tests.helpers.programs import free_port
from tests.helpers.server import start_server

MODULE = Path(__file__).parent / "go"
GO = shutil.which("go")

pytestmark = pytest.mark.skipif(GO is None, reason="Go is not installed: the official SDK is not driven")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with 3,000 keys, one whose store is gone, and an address where nothing listens."""
    directory, down_directory = tmp_path_factory.mktemp("up"), tmp_path_factory.mktemp("down")
    admin = make_credentials(directory, "admin")
    user = APIKey.generate()
    policies = {
        "go-user": {"allow": ["/v1/key/*", "/v1/status"], "deny": ["/v1/key/delete/*"], "identities": [user.identity]},
        "empty": {},
    }
    keys = [{"name": f"page-{number:04}"} for number in range(3000)]
    server = start_server(directory, {"policy": policies, "keys": keys}, admin=admin)
    down = start_server(down_directory, {"keystore": {"fs": {"path": str(down_directory / "keys")}}}, admin=admin)
    (down_directory / "keys").rmdir()
    dead = f"https://127.0.0.1:{free_port()}"
    yield os.environ | {
        "KES_TEST_SERVER": server.url,
        "KES_TEST_DOWN": down.url,
        "KES_TEST_DEAD": dead,
        "KES_TEST_ADMIN": str(admin.api_key),
        "KES_TEST_USER": str(user),
    }
    assert server.stop() == 0
    assert down.stop() == 0


def go_tests() -> list[str]:
    text = (MODULE / "interop_test.go").read_text()
    return [line.split("(")[0].removeprefix("func ") for line in text.splitlines() if line.startswith("func Test")]


def run_go_tests(environment: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Run all Go tests; return each one's result and output."""
    assert GO is not None
    done = subprocess.run(
        # Compiling takes most of the time: without inlining, vet and C, and with less garbage collection, half as long.
        [GO, "test", "-count=1", "-vet=off", "-gcflags=all=-l", "-json", "-timeout=300s", "./..."],
        cwd=MODULE,
        env=environment | {"CGO_ENABLED": "0", "GOGC": "400"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    outputs: dict[str, str] = {}
    actions: dict[str, str] = {}
    for line in done.stdout.splitlines():
        event = json.loads(line)
        name = event.get("Test", "")
        outputs[name] = outputs.get(name, "") + event.get("Output", "")
        if event["Action"] in {"pass", "fail", "skip"}:
            actions[name] = event["Action"]
    assert actions, done.stdout + done.stderr
    return {name: (actions.get(name, "missing"), outputs.get(name, "")) for name in go_tests()}


@pytest.mark.timeout(900)  # compiling the SDK takes minutes on a busy machine
def test_go_sdk(environment: dict[str, str]) -> None:
    """All Go tests pass. They are one test here, so that only one process compiles the SDK."""
    results = run_go_tests(environment)
    failed = {name: output for name, (action, output) in results.items() if action != "pass"}
    assert not failed, "\n".join(failed.values())

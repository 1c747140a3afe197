"""What a plugin gets to know of the process that it runs in, and what it may count, in a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.certificates import make_credentials
from tests.helpers.packages import install_module
from tests.helpers.server import start_server

PLUGIN = """
import asyncio

from kes_core import Decision, KeyStoreBackend, KeyStoreError, PolicyEngine, PolicyEngineType, Verdict, hookimpl
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import Section

kes_hookspec_version = 1


class Settings(Section):
    file: str = "hello.txt"


async def connect(settings, context):
    file = context.path(settings.file)
    if not file.is_file():
        raise KeyStoreError(f"{file} is missing")
    context.logger.warning("worker %d read %s", context.worker, file.read_text())
    context.metrics.gauge("pool-size".replace("-", "_"), "Open connections.")(3 + context.worker)
    context.metrics.counter("connects", "Connections made.")()
    return MemoryKeyStore()


class Slow(PolicyEngine):
    async def authorize(self, request):
        await asyncio.sleep(0.3 if request.resource == "slow" else 0)
        return Verdict(Decision.ALLOW, "all is fine")


async def connect_engine(settings, context):
    return Slow()


@hookimpl
def kes_keystore_backends():
    return [KeyStoreBackend(name="my-store", config=Settings, connect=connect)]


@hookimpl
def kes_policy_engines():
    return [PolicyEngineType(name="slow", config=Section, connect=connect_engine)]
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_context_and_metrics(workers: int, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "hello.txt").write_text("its file beside the configuration")
    overrides = {
        "workers": workers,
        "keystore": {"my-store": {}},
        "policy_engines": {"slow": {}},
        "plugins": {"authorize_timeout": "100ms"},
    }
    server = start_server(tmp_path, overrides, environment=install_module(tmp_path, tmp_path / "plugin.py"))
    try:
        with server.client() as client:
            assert client.put("/v1/key/create/k").status_code == 200
            metrics = client.get("/v1/metrics", headers={"Accept": "*/*"}).text
        numbers = range(1, workers + 1) if workers > 1 else [0]
        for number in numbers:
            assert f'kes_plugin_my_store_pool_size{{worker="{number}"}} {3.0 + number}' in metrics
        assert f"kes_plugin_my_store_connects_total {float(workers)}" in metrics
        labels = 'name="my-store",operation="create",package="kes-hostile",section="keystore"'
        assert re.search(rf"kes_plugin_response_time_count{{{labels}}} 1\.0", metrics)
    finally:
        server.stop()
    for number in numbers:
        assert any(f"worker {number} read its file beside the configuration" in line for line in server.errors)


def test_time_of_a_policy_engine_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    client_of = make_credentials(tmp_path, "client")
    overrides = {
        "policy_engines": {"slow": {}},
        "plugins": {"authorize_timeout": "100ms"},
        "keys": [{"name": "slow"}, {"name": "fast"}],
    }
    server = start_server(tmp_path, overrides, environment=install_module(tmp_path, tmp_path / "plugin.py"))
    try:
        with server.client(client_of) as client:
            assert client.get("/v1/key/describe/fast").status_code == 200
            assert client.get("/v1/key/describe/slow").status_code == 403
    finally:
        server.stop()
    assert any("the policy engine 'slow'" in line and "within 0.1 s" in line for line in server.errors)

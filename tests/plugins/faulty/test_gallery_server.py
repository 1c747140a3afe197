"""What needs a process: a plugin that prints, and one that ends nothing that it began."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.helpers.command import kes
from tests.helpers.server import start_server
from tests.plugins.faulty.noisy import NOISE

ROOT = Path(__file__).parents[3]
SECTIONS = {
    "keystore": {"faulty": {}},
    "audit_sinks": {"faulty": {}},
    "log": {"audit": "on"},
    "api": {"/v1/key/create/": {"timeout": "1s"}},
}


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """Install the plugin; return the environment in which Python finds it."""
    info = tmp_path / "site" / "kes_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kes-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kes]\nfaulty = tests.plugins.faulty.noisy:Noisy\n")
    return {"PYTHONPATH": f"{info.parent}:{ROOT}"}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_plugin_prints_is_among_no_audit_records(workers: int, site: dict[str, str], tmp_path: Path) -> None:
    sections = SECTIONS | {"workers": workers}
    server = start_server(tmp_path, sections, environment=site)
    try:
        with server.client() as client:
            assert client.put("/v1/key/create/my-key").status_code == 200
            assert server.next_audit_record()["response"]["code"] == 200
            assert client.get("/v1/ready").status_code == 200
            assert server.next_audit_record()["response"]["code"] == 200
        assert server.stop() == 0
    finally:
        server.kill()
    assert server.audit.empty()
    assert server.errors.count(NOISE) >= 5


def test_what_a_plugin_prints_is_not_in_the_output_of_commands(site: dict[str, str], tmp_path: Path) -> None:
    found = json.loads(kes("plugins", "--json", cwd=tmp_path, environment=site, noise=NOISE).stdout)
    assert ["faulty"] in [each["backends"] for each in found]


@pytest.mark.slow
def test_command_ends_in_spite_of_the_threads_of_a_plugin(site: dict[str, str], tmp_path: Path) -> None:
    environment = site | {"KES_TEST_HANGS": "yes"}
    assert "faulty" in kes("plugins", cwd=tmp_path, environment=environment, noise=NOISE).stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_server_stops_though_nothing_of_a_plugin_does(workers: int, site: dict[str, str], tmp_path: Path) -> None:
    """Calls that ignore each cancellation, a hook that does not return, and a thread that does not end."""
    sections = SECTIONS | {"workers": workers}
    server = start_server(tmp_path, sections, environment=site | {"KES_TEST_HANGS": "yes"})
    try:
        with server.client() as client:
            try:
                assert client.put("/v1/key/create/my-key").status_code == 504
            except httpx.ReadTimeout:
                pytest.fail("a call that ignores its cancellation keeps its client waiting")
        assert server.stop() == 0
    finally:
        server.kill()
    log = "\n".join(server.errors)
    assert "the plugin 'faulty' of kes-faulty did not return from kes_server_stopping within 5 s" in log
    assert "tasks did not end within 5 s and are abandoned" in log
    assert (
        "the key store 'faulty' (plugin 'faulty' of kes-faulty 1.0) did not close within 5 s and is left as it is"
        in log
    )

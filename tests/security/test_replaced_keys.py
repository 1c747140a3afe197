"""A key is deleted on one server and created again on another: a third server stops using the old key in time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from kes_fs.store import FileKeyStore
from kes_vault.store import VaultKeyStore
from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.server import Server, start_server

HURRIED = """
from kes_core import cli
from kes_vault.store import VaultKeyStore

VaultKeyStore.check_interval = 2.0
cli.main()
"""
"""Runs a server that checks each of Vault's keys every 2 seconds instead of 10."""
SLACK = 10.0
"""Extra seconds for the store and a busy machine."""


@contextmanager
def _servers(directory: Path, keystore: Mapping[str, Any], **options: Any) -> Iterator[list[Server]]:
    """Run three servers on one key store. In their caches, keys expire after an hour."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            (directory / str(number)).mkdir()
            overrides = {"keystore": keystore, "cache": {"expiry": {"any": "1h", "unused": "1h"}}}
            servers.append(start_server(directory / str(number), overrides, **options))
            stack.callback(servers[-1].kill)
        yield servers


def _data_key(client: httpx.Client) -> tuple[float, str] | None:
    """Generate a data key; return the time of the request and the ciphertext, or None if the key does not exist."""
    asked_at = time.monotonic()
    answer = client.put("/v1/key/generate/k", json={})
    assert answer.status_code in {200, 404}, answer.text
    return (asked_at, answer.json()["ciphertext"]) if answer.status_code == 200 else None


def _check(servers: list[Server], interval: float, *, hot: bool) -> None:
    """Replace the key, and check which one the third server uses; with `hot`, requests to it never stop."""
    with servers[0].client() as first, servers[1].client() as second, servers[2].client() as third:
        assert first.put("/v1/key/create/k").status_code == 200
        assert _data_key(third) is not None
        assert first.delete("/v1/key/delete/k").status_code == 200
        assert second.put("/v1/key/create/k").status_code == 200
        replaced = time.monotonic()
        limit = 2 * interval
        if not hot:
            time.sleep(limit)
        while not _is_of_the_new_key(second, asked_at_and_made := _data_key(third)):
            assert asked_at_and_made is None or asked_at_and_made[0] < replaced + limit + SLACK, "the key is deleted"
            time.sleep(0.02)
        for _ in range(10):
            assert _is_of_the_new_key(second, _data_key(third))


def _is_of_the_new_key(client: httpx.Client, data_key: tuple[float, str] | None) -> bool:
    return data_key is not None and client.put("/v1/key/decrypt/k", json={"ciphertext": data_key[1]}).status_code == 200


@pytest.mark.parametrize("hot", [True, False], ids=["in use", "not in use"])
def test_on_one_directory(tmp_path: Path, hot: bool) -> None:
    with _servers(tmp_path, {"fs": {"path": str(tmp_path / "keys")}}) as servers:
        _check(servers, FileKeyStore.check_interval, hot=hot)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_on_one_vault(bao: OpenBao, tmp_path: Path, version: str) -> None:
    with _servers(tmp_path, {"vault": Tenant(bao, version).section()}, python=("-c", HURRIED)) as servers:
        _check(servers, 2.0, hot=True)


@pytest.mark.slow
def test_on_one_vault_with_its_own_interval(bao: OpenBao, tmp_path: Path) -> None:
    with _servers(tmp_path, {"vault": Tenant(bao, "v2").section()}) as servers:
        _check(servers, VaultKeyStore.check_interval, hot=True)

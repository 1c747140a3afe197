"""Several servers rotate keys of one store at once: no version is lost, and what one encrypts, all decrypt."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.server import Server, start_server

ROTATIONS = 16


@contextmanager
def _servers(directory: Path, keystore: Mapping[str, Any], **sections: Any) -> Iterator[list[Server]]:
    """Run three servers on one key store, in whose caches keys stay for an hour."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            (directory / str(number)).mkdir()
            overrides = {"keystore": keystore, "cache": {"expiry": {"any": "1h", "unused": "1h"}}, **sections}
            servers.append(start_server(directory / str(number), overrides))
            stack.callback(servers[-1].kill)
        yield servers


def _rotate(server: Server) -> tuple[str, str]:
    """Rotate the key, and encrypt; return the new version, or nothing if another server was faster."""
    with server.client() as client:
        answer = client.put("/v1/key/rotate/k")
        if answer.status_code != 200:
            assert answer.status_code == 409, answer.text
            assert answer.json()["message"].endswith(" of the key was just created by another rotation")
        made = client.put("/v1/key/encrypt/k", json={"plaintext": base64.b64encode(b"text").decode()})
        assert made.status_code == 200, made.text
        return answer.json().get("version", ""), made.json()["ciphertext"]


def _check(servers: list[Server]) -> None:
    with servers[0].client() as client:
        assert client.put("/v1/key/create/k").status_code == 200
    for server in servers:
        with server.client() as client:
            assert client.put("/v1/key/generate/k").status_code == 200  # it is in every cache
    with ThreadPoolExecutor(ROTATIONS) as pool:
        results = list(pool.map(_rotate, (servers * ROTATIONS)[:ROTATIONS]))
    won = [int(version) for version, _ciphertext in results if version]
    newest = 1 + len(won)
    assert sorted(won) == list(range(2, newest + 1))  # each version has one winner, and none is missing
    for server in servers:
        with server.client() as client:
            for _version, ciphertext in results:
                answer = client.put("/v1/key/decrypt/k", json={"ciphertext": ciphertext})
                assert answer.status_code == 200, answer.text
            _see(client, newest)


def _see(client: httpx.Client, newest: int) -> None:
    """All versions are there, in their order."""
    listed = client.get("/v1/key/versions/k").json()["versions"]
    known = [int(version["version"]) for version in listed]
    assert known == list(range(1, len(known) + 1))
    assert len(known) <= newest


def test_on_one_directory(tmp_path: Path) -> None:
    with _servers(tmp_path, {"fs": {"path": str(tmp_path / "keys")}}) as servers:
        _check(servers)


def test_on_one_vault(bao: OpenBao, tmp_path: Path) -> None:
    with _servers(tmp_path, {"vault": Tenant(bao, "v2").section()}) as servers:
        _check(servers)


@pytest.mark.slow
def test_one_after_the_other_on_kv_v1(bao: OpenBao, tmp_path: Path) -> None:
    with _servers(tmp_path, {"vault": Tenant(bao, "v1").section()}) as servers:
        with servers[0].client() as client:
            assert client.put("/v1/key/create/k").status_code == 200
        results = [_rotate(servers[number % 3]) for number in range(3)]
        assert [version for version, _ciphertext in results] == ["2", "3", "4"]
        with servers[0].client() as client:
            for _version, ciphertext in results:
                assert client.put("/v1/key/decrypt/k", json={"ciphertext": ciphertext}).status_code == 200
            assert client.delete("/v1/key/delete/k").status_code == 200


def test_all_workers_use_a_new_version_at_once(tmp_path: Path) -> None:
    keystore = {"fs": {"path": str(tmp_path / "keys")}}
    cache = {"expiry": {"any": "1h", "unused": "1h"}}
    server = start_server(tmp_path, {"keystore": keystore, "workers": 2, "cache": cache, "keys": [{"name": "k"}]})
    try:
        for version in range(2, 6):
            with server.client() as client:
                assert client.put("/v1/key/rotate/k").json()["version"] == str(version)
            for _ in range(10):  # each connection may be another worker's
                with server.client() as client:
                    assert client.put("/v1/key/generate/k").json()["version"] == str(version)
    finally:
        server.kill()

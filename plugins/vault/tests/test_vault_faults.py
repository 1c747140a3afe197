"""What clients of a real server see while its Vault has a fault, and that the server recovers by itself."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kes_core import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreReason,
    KeyStoreUnreachableError,
)
from kes_core.keys.stored import KeyVersion
from kes_vault.store import connect
from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.proxy import Proxy
from tests.helpers.server import Server, start_server
from tests.helpers.traffic import Answer, Traffic

PING = 5.0
WITHIN = 2 * PING
Start = Callable[..., Server]


@pytest.fixture
def bao(mortal_bao: OpenBao) -> OpenBao:
    return mortal_bao


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers = []

    def start(section: dict[str, Any], cache: dict[str, Any] | None = None) -> Server:
        section = {**section, "status": {"ping": f"{PING:g}s"}}
        overrides = {"keystore": {"vault": section}, **({"cache": {"expiry": cache}} if cache else {})}
        servers.append(start_server(tmp_path, overrides))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def stored_in(tenant: Tenant) -> Callable[[], list[str]]:
    def names() -> list[str]:
        answer = tenant.bao.root.secrets.kv.v2.list_secrets("", mount_point=tenant.engine)
        return list(answer["data"]["keys"])

    return names


def failed(answer: Answer) -> bool:
    return answer.kind == "cold" and answer.status >= 500


def reason_is(reason: str) -> Callable[[Answer], bool]:
    return lambda answer: failed(answer) and answer.body.get("reason") == reason


def check_state(server: Server, status: int, reason: str) -> None:
    """Check that readiness and status agree with the failed requests."""
    with server.client() as client:
        ready, state = client.get("/v1/ready"), client.get("/v1/status").json()
        assert (ready.status_code, ready.json().get("reason")) == (status, reason)
        assert state["keystore_reason"] == reason
        assert state["keystore_unreachable"] is state["keystore_unavailable"] is True


def complaints(server: Server) -> list[str]:
    """Return the log's messages about the key store's state, one for each change."""
    found = [re.search(r'"message":"(the key store is [^"]*)"', line) for line in server.errors]
    return [match.group(1) for match in found if match]


def check_changes(server: Server, first: str) -> list[str]:
    """Check that the log has the first cause and the end, and repeats nothing; return its messages."""
    changes = complaints(server)
    assert first in changes[0]
    assert changes[-1] == "the key store is reachable again"
    assert all(one != other for one, other in itertools.pairwise(changes))
    assert len(changes) < 10  # of more than a hundred requests
    return changes


def test_killed_and_restarted(bao: OpenBao, start: Start) -> None:
    tenant = Tenant(bao, "v2")
    server = start(tenant.section())
    traffic = Traffic(server)
    with traffic.flowing():
        traffic.wait_until_healthy(within=30)
        bao.kill()
        traffic.wait_for(reason_is("unreachable"))
        check_state(server, 504, "unreachable")
        traffic.wait_for(lambda answer: answer.kind == "create" and answer.status == 502)
        bao.start()
        traffic.wait_for(reason_is("locked"))
        check_state(server, 504, "locked")
        bao.unseal()
        traffic.wait_until_healthy(within=WITHIN)
    assert {answer.status for answer in traffic.of("cached")} == {200}
    traffic.check_keys(stored_in(tenant))
    assert any("is sealed: unseal it" in change for change in check_changes(server, "can't be reached"))


def test_sealed_and_unsealed(bao: OpenBao, start: Start) -> None:
    tenant = Tenant(bao, "v2")
    server = start(tenant.section())
    traffic = Traffic(server)
    with traffic.flowing():
        bao.seal()
        traffic.wait_for(reason_is("locked"))
        check_state(server, 504, "locked")
        bao.unseal()
        traffic.wait_until_healthy(within=WITHIN)
    assert {answer.status for answer in traffic.of("cached")} == {200}
    traffic.check_keys(stored_in(tenant))
    check_changes(server, "is sealed: unseal it")


def test_revoked_token_fails_no_request(bao: OpenBao, start: Start) -> None:
    tenant = Tenant(bao, "v2")
    server = start(tenant.section())
    traffic = Traffic(server)
    with traffic.flowing():
        for _ in range(3):
            traffic.wait_until_healthy(within=30)
            bao.root.sys.revoke_prefix("auth/approle/login")
        traffic.wait_until_healthy(within=WITHIN)
    assert {answer.status for answer in traffic.answers} == {200, 404}
    traffic.check_keys(stored_in(tenant))


@pytest.mark.slow
def test_nothing_is_renewed_while_sealed(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2", token_period="2s")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        await store.create("k", b"v")
        await asyncio.to_thread(bao.seal)
        proxy.requests.clear()
        # Once when the renewal of the token is due, and once more.
        await asyncio.to_thread(proxy.wait_for, "GET", "/v1/sys/health", 2)
        assert {path for _method, path in proxy.requests} == {"/v1/sys/health"}
        await asyncio.to_thread(bao.unseal)
        assert await store.get("k") == b"v"
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(asyncio.wait_for(check(proxy), 60))


def test_secret_destroyed_and_replaced_in_its_file(bao: OpenBao, start: Start, tmp_path: Path) -> None:
    tenant = Tenant(bao, "v2")
    file = tmp_path / "secret"
    file.write_text(tenant.secret)
    approle = {"id": tenant.role_id, "secret_file": str(file), "retry": "1s"}
    server = start(tenant.section(approle=approle))
    traffic = Traffic(server)
    with traffic.flowing():
        traffic.wait_until_healthy(within=30)
        bao.root.auth.approle.destroy_secret_id(tenant.role, tenant.secret)
        bao.root.sys.revoke_prefix("auth/approle/login")
        traffic.wait_for(reason_is("forbidden"))
        check_state(server, 502, "forbidden")
        file.write_text(bao.root.auth.approle.generate_secret_id(tenant.role)["data"]["secret_id"])
        traffic.wait_until_healthy(within=WITHIN)
    assert {answer.status for answer in traffic.of("cached")} == {200}
    traffic.check_keys(stored_in(tenant))
    text = "\n".join(server.errors)
    assert "login to Vault failed: invalid role or secret ID" in text
    assert tenant.secret not in text


def test_stalled_network(bao: OpenBao, start: Start) -> None:
    tenant = Tenant(bao, "v2")
    with Proxy(bao).running() as proxy:
        server = start(tenant.section(endpoint=proxy.url, timeout="1s"))
        traffic = Traffic(server)
        with traffic.flowing():
            traffic.wait_until_healthy(within=30)
            proxy.fault = "stall"
            traffic.wait_for(reason_is("unreachable"))
            check_state(server, 504, "unreachable")
            proxy.fault = None
            proxy.release.set()
            traffic.wait_until_healthy(within=WITHIN)
        assert {answer.status for answer in traffic.of("cached")} == {200}
        traffic.check_keys(stored_in(tenant))


@pytest.mark.slow
def test_slow_answers_fail_nothing_and_hold_up_no_cached_key(bao: OpenBao, start: Start) -> None:
    tenant = Tenant(bao, "v2")
    with Proxy(bao).running() as proxy:
        server = start(tenant.section(endpoint=proxy.url))
        traffic = Traffic(server)
        with traffic.flowing():
            proxy.fault = 2.0
            for _ in range(2):
                traffic.wait_for(lambda answer: answer.kind == "create" and answer.status == 200)
            slow = traffic.of("create")[-2].at
            proxy.fault = None
            traffic.wait_until_healthy(within=WITHIN)
            assert len(traffic.of("cached", since=slow)) > 20
        assert {answer.status for answer in traffic.answers} == {200, 404}
        traffic.check_keys(stored_in(tenant))
        assert complaints(server) == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_errors_of_vault_or_a_proxy(bao: OpenBao, start: Start, status: int) -> None:
    tenant = Tenant(bao, "v2")
    with Proxy(bao).running() as proxy:
        server = start(tenant.section(endpoint=proxy.url))
        traffic = Traffic(server)
        with traffic.flowing():
            traffic.wait_until_healthy(within=30)
            proxy.fault = status
            traffic.wait_for(failed if status == 500 else reason_is("unreachable"))
            traffic.wait_for(lambda answer: answer.kind == "create" and answer.status == 502)
            check_state(server, 504, "unreachable")
            proxy.fault = None
            traffic.wait_until_healthy(within=WITHIN)
        assert {answer.status for answer in traffic.of("cached")} == {200}
        traffic.check_keys(stored_in(tenant))


def test_certificate_replaced(bao: OpenBao, start: Start, tmp_path: Path) -> None:
    """First Vault gets a new certificate, and only later the server's trusted CA changes."""
    tenant = Tenant(bao, "v2")
    ca = tmp_path / "ca.crt"
    shutil.copy(bao.ca, ca)
    server = start(tenant.section(tls={"ca": str(ca)}))
    traffic = Traffic(server)
    with traffic.flowing():
        traffic.wait_until_healthy(within=30)
        bao.kill()
        bao.make_certificate()
        bao.start()
        bao.unseal()
        traffic.wait_for(reason_is("misconfigured"))
        with server.client() as client:
            assert client.get("/v1/ready").status_code == 502
        shutil.copy(bao.ca, ca)
        traffic.wait_until_healthy(within=WITHIN)
    assert {answer.status for answer in traffic.of("cached")} == {200}
    traffic.check_keys(stored_in(tenant))
    assert "is not trusted: set tls.ca to its CA" in "\n".join(server.errors)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[OpenBao]]:
    """Three nodes; the first is active."""
    leader = OpenBao(tmp_path_factory.mktemp("leader"))
    nodes = [leader, *(OpenBao(tmp_path_factory.mktemp("node"), leader=leader) for _ in range(2))]
    try:
        leader.start()
        leader.initialize()
        for node in nodes[1:]:
            node.unseal_key, node.root.token = leader.unseal_key, leader.root.token
            node.join()
        leader.wait_for_peers(3)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


@pytest.mark.slow
def test_key_is_seen_by_its_maker_though_a_standby_is_behind(cluster: list[OpenBao]) -> None:
    """Standbys answer reads themselves, and may not have the active node's last write yet."""
    leader, node, _other = cluster
    tenant = Tenant(leader, "v2")
    node.wait_for_engine(tenant.engine)

    config = tenant.config(endpoint=node.url, tls={"ca": str(node.ca)})

    async def check() -> None:
        store, other = await connect(config), await connect(config)
        try:
            for number in range(200):
                await store.create(f"k{number}", b"v")
                assert await store.get(f"k{number}") == b"v"
                with pytest.raises(EntryExistsError):
                    await other.create(f"k{number}", b"of another server")
                await store.delete(f"k{number}")
                with pytest.raises(EntryNotFoundError):
                    await store.get(f"k{number}")
        finally:
            await store.close()
            await other.close()

    asyncio.run(check())


@pytest.mark.slow
def test_cluster_loses_its_leader(cluster: list[OpenBao], start: Start) -> None:
    leader, node, other = cluster
    tenant = Tenant(leader, "v2")
    node.wait_for_engine(tenant.engine)
    server = start(tenant.section(endpoint=node.url, tls={"ca": str(node.ca)}))
    traffic = Traffic(server)
    with traffic.flowing():
        traffic.wait_until_healthy(within=30)
        leader.kill()
        # The standbys notice after some seconds, and elect a leader.
        tenant.bao = node.wait_for_active_node(cluster[1:])
        traffic.wait_until_healthy(within=WITHIN)
        # One node of three is not a majority: it still reads, but can't store.
        other.kill()
        traffic.wait_for(lambda answer: answer.kind == "create" and answer.status == 502)
        other.start()
        other.unseal()
        tenant.bao = node.wait_for_active_node(cluster[1:])
        traffic.wait_until_healthy(within=WITHIN)
    assert {answer.status for answer in traffic.of("cached")} == {200}
    traffic.check_keys(stored_in(tenant))


def test_offline_mode_serves_cached_keys_until_its_time_is_up(bao: OpenBao, start: Start) -> None:
    tenant = Tenant(bao, "v2")
    server = start(tenant.section(), {"any": "1s", "unused": "1s", "offline": "8s"})
    traffic = Traffic(server)
    with traffic.flowing():
        traffic.wait_until_healthy(within=30)
        bao.kill()
        lost = traffic.wait_for(failed).at
        refused = traffic.wait_for(lambda answer: answer.kind == "cached" and answer.status == 502)
        assert 5 < refused.at - lost < 20
        bao.start()
        bao.unseal()
        traffic.wait_until_healthy(within=WITHIN)
        traffic.wait_for(lambda answer: answer.kind == "cached" and answer.status == 200)
    traffic.check_keys(stored_in(tenant))


def test_calls_to_vault_are_counted(bao: OpenBao, start: Start) -> None:
    """Data keys of a cached key need no call to Vault; concurrent requests for a cold key share its reads."""
    tenant = Tenant(bao, "v2")
    tenant.write("cold", {"cold": KeyVersion.generate("me").encode().decode()})
    with Proxy(bao).running() as proxy:
        server = start(tenant.section(endpoint=proxy.url))
        with server.client(http2=False) as client, ThreadPoolExecutor(20) as pool:

            def data_key(name: str) -> int:
                return client.put(f"/v1/key/generate/{name}", json={}).status_code

            assert client.put("/v1/key/create/cached").status_code == 200
            assert data_key("cached") == 200
            proxy.requests.clear()
            assert set(pool.map(data_key, ["cached"] * 1000)) == {200}
            assert proxy.count("GET", f"/v1/{tenant.engine}/") == proxy.count("POST", "/") == 0
            proxy.fault = 0.5  # all requests arrive while the first waits
            assert set(pool.map(data_key, ["cold"] * 20)) == {200}
            # One read for the key, and one that finds no later version of it.
            assert proxy.count("GET", f"/v1/{tenant.engine}/") == 2


def test_standby_without_an_active_node_is_named(bao: OpenBao) -> None:
    """Health checks and other requests report the standby. The proxy simulates it, as OpenBao may still read then."""
    tenant = Tenant(bao, "v2")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        proxy.message = "local node not active but active cluster node not found"
        calls = ((429, store.status), (500, lambda: store.get("k")), (500, lambda: store.create("k", b"v")))
        for fault, call in calls:
            proxy.fault = fault
            with pytest.raises(KeyStoreUnreachableError, match="is a standby without an active node") as caught:
                await call()
            assert caught.value.reason is KeyStoreReason.UNREACHABLE
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))

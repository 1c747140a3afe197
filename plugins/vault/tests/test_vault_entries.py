"""Entries that exist but contain no key, and engines that are not at the configured path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kes_core import EntryExistsError, EntryNotFoundError, KeyStoreError
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.keys.migration import Migration
from kes_core.keys.stored import KeyVersion
from kes_core.keys.writing import OnConflict
from kes_vault.config import VaultConfig
from kes_vault.store import VaultKeyStore
from tests.helpers.openbao import KV2_POLICY, WIDE, OpenBao, Tenant, diagnose, failure, run_store
from tests.helpers.server import Server, start_server

GONE = "has no version 1 any more, but its metadata remains"


def deleted(tenant: Tenant) -> None:
    """Leave the entry as `bao kv delete` does."""
    tenant.write("k", {"k": "v"})
    tenant.bao.root.secrets.kv.v2.delete_latest_version_of_secret("k", mount_point=tenant.engine)


def destroyed(tenant: Tenant) -> None:
    tenant.write("k", {"k": "v"})
    tenant.bao.root.secrets.kv.v2.destroy_secret_versions("k", [1], mount_point=tenant.engine)


def trimmed(tenant: Tenant) -> None:
    """Make Vault drop the first version, by writing many, as another program could."""
    for _ in range(12):
        tenant.write("k", {"k": "v"})


def later_version_deleted(tenant: Tenant) -> None:
    trimmed(tenant)
    tenant.bao.root.secrets.kv.v2.delete_latest_version_of_secret("k", mount_point=tenant.engine)


def metadata_alone(tenant: Tenant) -> None:
    tenant.bao.root.secrets.kv.v2.update_metadata("k", cas_required=True, mount_point=tenant.engine)


Breaker = Callable[[Tenant], None]
WITHOUT_FIRST = [deleted, destroyed, trimmed, later_version_deleted]
BROKEN = [*((broken, GONE) for broken in WITHOUT_FIRST), (metadata_alone, "metadata without a version")]


@contextmanager
def server_on(tenant: Tenant, directory: Path, **overrides: Any) -> Iterator[Server]:
    server = start_server(directory, {"keystore": {"vault": tenant.section()}, **overrides})
    try:
        yield server
    finally:
        server.kill()


@pytest.mark.parametrize("broken", WITHOUT_FIRST)
@pytest.mark.parametrize("policy", [KV2_POLICY, WIDE], ids=["narrow", "wide"])
def test_entry_without_its_first_version_is_an_error(bao: OpenBao, broken: Breaker, policy: str) -> None:
    tenant = Tenant(bao, "v2", policy)
    broken(tenant)

    async def check(store: VaultKeyStore) -> None:
        for call in (store.get("k"), store.create("k", b"v")):
            with pytest.raises(KeyStoreError, match=GONE) as caught:
                await call
            assert type(caught.value) is KeyStoreError
        await store.delete("k")
        await store.create("k", b"new")
        assert await store.get("k") == b"new"

    run_store(tenant.config(), check)


def test_entry_without_any_version_is_no_key_that_exists(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")
    metadata_alone(tenant)

    async def check(store: VaultKeyStore) -> None:
        with pytest.raises(EntryNotFoundError):
            await store.get("k")
        with pytest.raises(KeyStoreError, match="metadata without a version, which has to be removed") as caught:
            await store.create("k", b"v")
        assert not isinstance(caught.value, EntryExistsError)

    run_store(tenant.config(), check)


def test_key_below_later_versions_is_still_read(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"first")
        tenant.write("k", {"k": "of somebody else"})
        assert await store.get("k") == b"first"
        with pytest.raises(EntryExistsError):
            await store.create("k", b"other")
        bao.root.secrets.kv.v2.delete_latest_version_of_secret("k", mount_point=tenant.engine)
        assert await store.get("k") == b"first"

    run_store(tenant.config(), check)


@pytest.mark.parametrize("rule", ['denied_parameters = {{ "*" = [] }}', 'allowed_parameters = {{ "x" = [] }}'])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_parameter_rule_of_a_policy_is_no_key_that_exists(bao: OpenBao, version: str, rule: str) -> None:
    path = "{engine}/*" if version == "v1" else "{engine}/data/*"
    tenant = Tenant(bao, version, f'path "{path}" {{{{ capabilities = ["create", "read"]\n {rule} }}}}')

    async def check(store: VaultKeyStore) -> None:
        with pytest.raises(KeyStoreError, match="the reason may be its rules for parameters") as caught:
            await store.create("k", b"v")
        assert not isinstance(caught.value, EntryExistsError)

    run_store(tenant.config(), check)


@pytest.mark.parametrize("rule", ['required_parameters = ["x"]', 'min_wrapping_ttl = "1s"'])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_refusal_by_a_rule_of_the_policy_names_the_call(bao: OpenBao, version: str, rule: str) -> None:
    """The message does not report a granted capability as missing."""
    data, metadata = ("{engine}/data/*", "{engine}/metadata/*") if version == "v2" else ("{engine}/*", "{engine}/")
    policy = f'path "{data}" {{{{ capabilities = ["create", "read", "delete"]\n {rule} }}}}\n'
    tenant = Tenant(bao, version, policy + f'path "{metadata}" {{{{ capabilities = ["list", "delete"] }}}}')
    tenant.write("k", {"k": "v"})
    path = f"{tenant.engine}/data/k" if version == "v2" else f"{tenant.engine}/k"

    async def check(store: VaultKeyStore) -> None:
        for capability, call in (("read", store.get("k")), ("create", store.create("k", b"v"))):
            with pytest.raises(KeyStoreError) as caught:
                await call
            assert not isinstance(caught.value, EntryExistsError | EntryNotFoundError)
            if version == "v1":
                capability = "read"  # noqa: PLW2901 # on K/V v1, a create begins with a read
            expected = f"Vault refuses to {capability} {path!r}: the policy grants '{capability}', so the reason may be"
            assert str(caught.value).startswith(expected)

    run_store(tenant.config(), check)


def test_refused_listing_is_logged_as_what_it_is(bao: OpenBao, tmp_path: Path) -> None:
    """The guide's policy for K/V v1 does not grant *list*; everything else works."""
    tenant = Tenant(bao, "v1")
    with server_on(tenant, tmp_path) as server, server.client() as client:
        answer = client.get("/v1/key/list/")
        assert (answer.status_code, answer.json()["reason"]) == (502, "forbidden")
        server.wait_for_log("the key store can't list keys: the policy of Vault's token lacks the capability 'list' on")
        assert client.get("/v1/ready").status_code == 200
        assert not any("unavailable" in line for line in server.errors)


def test_clients_are_answered_502_and_the_log_says_why(bao: OpenBao, tmp_path: Path) -> None:
    tenant = Tenant(bao, "v2")
    deleted(tenant)
    with server_on(tenant, tmp_path) as server, server.client() as client:
        for path in ("create/k", "generate/k"):
            assert client.put(f"/v1/key/{path}", json={}).status_code == 502
            server.wait_for_log(GONE)
        assert client.put("/v1/key/generate/other", json={}).status_code == 404


@pytest.mark.parametrize(("broken", "text"), BROKEN)
def test_server_that_shall_create_such_a_key_does_not_start(
    bao: OpenBao, tmp_path: Path, broken: Breaker, text: str
) -> None:
    tenant = Tenant(bao, "v2")
    broken(tenant)
    with pytest.raises(AssertionError, match=text), server_on(tenant, tmp_path, keys=[{"name": "k"}]):
        pass


@pytest.mark.parametrize(("broken", "text"), BROKEN)
@pytest.mark.parametrize("existing", list(OnConflict))
def test_migration_does_not_count_an_entry_that_can_not_be_read(
    bao: OpenBao, broken: Breaker, text: str, existing: OnConflict
) -> None:
    tenant = Tenant(bao, "v2")
    broken(tenant)

    async def check(store: VaultKeyStore) -> None:
        source = MemoryKeyStore()
        await source.create("k", KeyVersion.generate("me").encode())
        migration = Migration(source, store, on_conflict=existing)
        await migration.run(["k"])
        assert text in migration.summary.failures["k"]

    run_store(tenant.config(), check)


def problems(config: VaultConfig) -> list[str]:
    return [finding.message for finding in diagnose(config) if finding.level != "ok"]


@pytest.mark.parametrize("broken", [*WITHOUT_FIRST, metadata_alone])
def test_doctor_finds_entries_without_a_key(bao: OpenBao, broken: Breaker) -> None:
    tenant = Tenant(bao, "v2")
    tenant.write("good", {"good": "v"})
    broken(tenant)
    (found,) = problems(tenant.config())
    assert f"'{tenant.engine}/data/k'" in found
    assert "vault kv metadata delete" in found


# Engines


@pytest.mark.parametrize(("prefix", "proposed"), [("", "data"), ("team", "data/team")])
def test_path_below_a_mount_is_no_engine_of_v2(bao: OpenBao, prefix: str, proposed: str) -> None:
    tenant = Tenant(bao, "v2", WIDE)
    message = failure(tenant.config(engine=f"{tenant.engine}/data", prefix=prefix))
    assert message == f"the K/V engine is mounted at {tenant.engine!r}: set engine: {tenant.engine}, prefix: {proposed}"


def test_folder_below_a_mount_of_v1(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v1", WIDE)

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        assert (await store.list()).names == ["k"]

    run_store(tenant.config(engine=f"{tenant.engine}/folder"), check)
    assert tenant.read("folder/k") == {"k": "v"}


def test_engine_that_deletes_keys_after_a_while(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2", KV2_POLICY + '\npath "{engine}/config" {{ capabilities = ["read"] }}')
    bao.root.secrets.kv.v2.configure(delete_version_after="1h", mount_point=tenant.engine)

    async def check(store: VaultKeyStore) -> None:
        with pytest.raises(KeyStoreError, match=r"Vault would delete the key 'k' at \d{4}-.*delete_version_after=0s"):
            await store.create("k", b"v")
        assert (await store.list()).names == []

    run_store(tenant.config(), check)
    bao.root.secrets.kv.v2.configure(delete_version_after="0s", mount_point=tenant.engine)
    wide = Tenant(bao, "v2", WIDE)
    bao.root.secrets.kv.v2.update_metadata("k", delete_version_after="1h", mount_point=wide.engine)
    run_store(wide.config(), check)  # an entry whose metadata was written first
    bao.root.secrets.kv.v2.configure(delete_version_after="1h", mount_point=tenant.engine)
    tenant.write("old", {"old": "v"})
    found = problems(tenant.config())
    assert f"the engine {tenant.engine!r} deletes keys after 1h" in found[0]
    assert "Vault deletes the key 'old' at " in found[1]

"""The Vault key store on a real OpenBao."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kes_core import EntryExistsError, EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from kes_core.keys.stored import KeyVersion, StoredKeyError
from kes_vault.store import VaultKeyStore, connect
from tests.helpers.openbao import POLICIES, WIDE, OpenBao, Tenant, failure, nothing, run_store
from tests.helpers.vectors import vectors

VERSIONS = ["v1", "v2"]


@pytest.mark.parametrize("version", VERSIONS)
def test_contract(bao: OpenBao, version: str) -> None:
    tenant = Tenant(bao, version, None if version == "v2" else WIDE)

    async def check(store: VaultKeyStore) -> None:
        assert await store.list() == ([], "")
        values = {"a": b"text", "b": b"\0\xff", "empty": b"", "large": b"x" * 65536, "marked": b"vault:v1:x"}
        for name, value in values.items():
            await store.create(name, value)
        assert {name: await store.get(name) for name in values} == values
        with pytest.raises(EntryExistsError):
            await store.create("a", b"other")
        assert await store.get("a") == b"text"
        assert await store.list(limit=2) == (["a", "b"], "empty")
        assert await store.list("l") == (["large"], "")
        await store.delete("a")
        await store.delete("a")  # Vault does not report absence
        with pytest.raises(EntryNotFoundError):
            await store.get("a")
        await store.create("a", b"again")
        assert await store.get("a") == b"again"
        await store.status()
        assert tenant.secret not in repr(store)
        await store.close()

    run_store(tenant.config(), check)
    assert tenant.read("a") == {"a": "again"}


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_of_the_other_server_are_read_and_ours_are_its(bao: OpenBao, version: str) -> None:
    tenant = Tenant(bao, version)
    cases = [case for case in vectors("key_encoding")["cases"] if case["raw"]]
    for number, case in enumerate(cases):
        tenant.write(f"key-{number}", {f"key-{number}": case["raw"]})
    ours = KeyVersion.generate("me")

    async def check(store: VaultKeyStore) -> None:
        for number, case in enumerate(cases):
            value = await store.get(f"key-{number}")
            assert value == case["raw"].encode()
            if not case.get("should_fail"):
                assert KeyVersion.decode(value).created_by == case["created_by"]
            elif case["name"] != "protobuf, no HMAC key":
                with pytest.raises(StoredKeyError):
                    KeyVersion.decode(value)
        await store.create("ours", ours.encode())

    run_store(tenant.config(), check)
    assert tenant.read("ours") == {"ours": ours.encode().decode()}


@pytest.mark.parametrize("version", VERSIONS)
def test_prefixes_keep_tenants_apart(bao: OpenBao, version: str) -> None:
    tenant = Tenant(bao, version, WIDE)

    async def check_first(store: VaultKeyStore) -> None:
        await store.create("k", b"first")
        assert (await store.list()).names == ["k"]

    async def check_second(store: VaultKeyStore) -> None:
        with pytest.raises(EntryNotFoundError):
            await store.get("k")
        await store.create("k", b"second")
        await store.create("first", b"named like a folder")
        assert (await store.list()).names == ["first", "k"]

    run_store(tenant.config(prefix="first"), check_first)
    run_store(tenant.config(prefix="/"), check_second)
    assert tenant.read("first/k") == {"k": "first"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("width", ["narrow", "wide"])
def test_of_eight_servers_that_create_one_key_one_wins(bao: OpenBao, version: str, width: str) -> None:
    """On K/V v1 with *update* in the policy, several may win, but the stored key is a winner's."""
    tenant = Tenant(bao, version, WIDE if width == "wide" else None)

    async def race() -> None:
        stores = [await connect(tenant.config()) for _ in range(8)]
        try:
            for number in range(5):
                name = f"key-{number}"
                results = await asyncio.gather(
                    *(store.create(name, b"of server %d" % index) for index, store in enumerate(stores)),
                    return_exceptions=True,
                )
                winners = [index for index, result in enumerate(results) if result is None]
                losers = [result for result in results if result is not None]
                assert all(isinstance(loser, EntryExistsError) for loser in losers), losers
                stored = await stores[0].get(name)
                assert stored in {b"of server %d" % index for index in winners}
                if (version, width) != ("v1", "wide"):
                    assert len(winners) == 1
        finally:
            for store in stores:
                await store.close()

    asyncio.run(race())


def test_wide_policy_over_v1_is_warned_of(bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    run_store(Tenant(bao, "v1", WIDE).config(), nothing)
    assert "grants 'update'" in caplog.text
    caplog.clear()
    run_store(Tenant(bao, "v2", WIDE).config(), nothing)
    assert caplog.text == ""


def test_listing_without_the_capability_says_so(bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    """The guide's policy for K/V v1 does not grant *list*."""
    tenant = Tenant(bao, "v1")

    async def check(store: VaultKeyStore) -> None:
        with pytest.raises(KeyStoreError, match=f"lacks the capability 'list' on '{tenant.engine}/': grant it"):
            await store.list()

    run_store(tenant.config(), check)
    assert "without it keys can't be listed" in caplog.text


@pytest.mark.slow
def test_ten_thousand_keys_in_pages(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v1", WIDE)

    async def check(store: VaultKeyStore) -> None:
        names = [f"key-{number:05}" for number in range(10_000)]
        waiting = iter(names)

        async def create() -> None:
            for name in waiting:
                await store._write(name, "x")

        await asyncio.gather(*(create() for _ in range(16)))
        seen: list[str] = []
        start = ""
        while True:
            page = await store.list("key", start=start)
            assert len(page.names) <= 1024
            seen += page.names
            if not page.next:
                break
            start = page.next
        assert seen == names

    run_store(tenant.config(), check)


def test_a_thousand_keys_created_at_once(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")

    async def check(store: VaultKeyStore) -> None:
        values = {f"key-{number}": b"%d" % number for number in range(1000)}
        await asyncio.gather(*(store.create(name, value) for name, value in values.items()))
        assert (await store.list(limit=2000)).names == sorted(values)
        found = await asyncio.gather(*(store.get(name) for name in values))
        assert found == list(values.values())

    run_store(tenant.config(), check)


@pytest.mark.parametrize("version", VERSIONS)
def test_transit(bao: OpenBao, version: str) -> None:
    transit = bao.unique("transit")
    bao.root.sys.enable_secrets_engine("transit", path=transit)
    bao.root.secrets.transit.create_key("sealing", mount_point=transit)
    policy = POLICIES[version] + f'\npath "{transit}/*" {{{{ capabilities = ["create", "update"] }}}}'
    tenant = Tenant(bao, version, policy)
    key = KeyVersion.generate("me")

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", key.encode())
        assert KeyVersion.decode(await store.get("k")) == key
        tenant.write("plain", {"plain": "not encrypted"})
        assert await store.get("plain") == b"not encrypted"

    run_store(tenant.config(transit={"engine": transit, "key": "sealing"}), check)
    assert tenant.read("k")["k"].startswith("vault:v1:")

    async def check_without(store: VaultKeyStore) -> None:
        with pytest.raises(KeyStoreError, match=r"encrypted by Vault's transit engine: set keystore\.vault\.transit"):
            await store.get("k")

    run_store(tenant.config(), check_without)


def test_namespaces(bao: OpenBao) -> None:
    """Engine and login share a namespace, or the login is in the root namespace and the engine in another."""
    namespace = bao.unique("ns")
    bao.root.adapter.post(f"/v1/sys/namespaces/{namespace}")
    bao.root.adapter.namespace = namespace
    try:
        tenant = Tenant(bao, "v2")
    finally:
        bao.root.adapter.namespace = None

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        assert (await store.list()).names == ["k"]
        await store.status()

    run_store(tenant.config(namespace=namespace), check)
    assert "login to Vault failed" in failure(tenant.config())
    inside = f'path "{namespace}/{tenant.engine}/*" {{ capabilities = ["create", "read", "list", "delete"] }}'
    inside += f'\npath "{namespace}/sys/*" {{ capabilities = ["read", "update"] }}'
    _role, role_id, secret = bao.role(inside)
    approle = {"id": role_id, "secret": secret, "namespace": "/"}

    async def check_read(store: VaultKeyStore) -> None:
        assert await store.get("k") == b"v"

    run_store(tenant.config(namespace=namespace, approle=approle), check_read)


def test_secret_and_token_from_files(bao: OpenBao, tmp_path: Path) -> None:
    tenant = Tenant(bao, "v2")
    secret_file, token_file = tmp_path / "secret", tmp_path / "token"
    secret_file.write_text(tenant.secret + "\n")
    token = bao.root.auth.token.create(policies=[tenant.role], ttl="1h")["auth"]["client_token"]
    token_file.write_text(token + "\n")
    for options in (
        {"approle": {"id": tenant.role_id, "secret_file": str(secret_file)}},
        {"approle": None, "token_file": str(token_file)},
        {"approle": None, "token": token},
    ):
        run_store(tenant.config(**options), nothing)


def test_secret_file_is_read_again_at_each_login(
    bao: OpenBao, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret is destroyed and then replaced in its file."""
    tenant = Tenant(bao, "v2")
    secret_file = tmp_path / "secret"
    secret_file.write_text(tenant.secret)
    approle = bao.root.auth.approle

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        approle.destroy_secret_id(tenant.role, tenant.secret)
        bao.root.auth.token.revoke(store._session.client.token)
        with pytest.raises(KeyStoreError, match="login to Vault failed") as caught:
            await store.get("k")
        assert caught.value.reason == "forbidden"
        for call in (store.get("k"), store.status()):  # fails at once, without another login
            with pytest.raises(KeyStoreError, match="login to Vault failed"):
                await call
        assert store._session._failures == 1
        secret_file.write_text(approle.generate_secret_id(tenant.role)["data"]["secret_id"])
        store._session._wake.clear()
        while store._session._problem is not None:  # the session retries by itself
            await store._session._wake.wait()
        assert await store.get("k") == b"v"
        await store.status()

    approle_section = {"id": tenant.role_id, "secret_file": str(secret_file), "retry": "1s"}
    run_store(tenant.config(approle=approle_section, status={"ping": "1s"}), check)
    assert caplog.text.count("login to Vault failed") == 1
    assert "logged in to Vault again" in caplog.text


def test_response_wrapped_secret_is_unwrapped_once(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")
    wrapping = bao.root.auth.approle.generate_secret_id(tenant.role, wrap_ttl="1m")["wrap_info"]["token"]
    approle = {"id": tenant.role_id, "secret": wrapping, "secret_wrapped": "on"}

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        bao.root.auth.token.revoke(store._session.client.token)
        assert await store.get("k") == b"v"  # another login with the unwrapped secret

    run_store(tenant.config(approle=approle), check)
    assert "login to Vault failed: wrapping token is not valid" in failure(tenant.config(approle=approle))


# Tokens


def test_revoked_token_is_replaced_at_once(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        session = store._session
        bao.root.auth.token.revoke(session.client.token)
        assert await asyncio.gather(*(store.get("k") for _ in range(50))) == [b"v"] * 50
        assert session._logins == 2  # one login for all calls

    run_store(tenant.config(), check)


def test_token_is_used_to_its_end_though_the_next_login_is_refused(
    bao: OpenBao, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = Tenant(bao, "v2", token_period=0, token_ttl="1m", token_max_ttl="1m", token_type="service")

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        bao.root.auth.approle.destroy_secret_id(tenant.role, tenant.secret)
        session = store._session
        assert session._token is not None
        session._token = session._token._replace(renewable=False)
        with pytest.raises(KeyStoreError, match="login to Vault failed"):
            await session._renew()
        assert await store.get("k") == b"v"
        await store.status()
        bao.root.auth.token.revoke(session.client.token)
        for call in (store.get("k"), store.status()):
            with pytest.raises(KeyStoreError, match="login to Vault failed"):
                await call

    run_store(tenant.config(), check)
    assert caplog.text.count("login to Vault failed") == 1


@pytest.mark.parametrize("renewable", [True, False], ids=["renewed", "replaced"])
def test_token_is_kept_alive(bao: OpenBao, renewable: bool) -> None:
    lifetime = {"token_period": "2s"} if renewable else {"token_period": 0, "token_ttl": "2s", "token_max_ttl": "2s"}
    tenant = Tenant(bao, "v2", **lifetime)

    async def check(store: VaultKeyStore) -> None:
        first = store._session.client.token
        end = asyncio.get_running_loop().time() + 5
        while asyncio.get_running_loop().time() < end:
            with pytest.raises(EntryNotFoundError):
                await store.get("k")
        assert (store._session.client.token == first) is renewable

    run_store(tenant.config(), check)


# Vault comes and goes


def test_sealed_killed_and_back(mortal_bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    tenant = Tenant(mortal_bao, "v2")

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        await asyncio.to_thread(mortal_bao.seal)
        for call in (store.status(), store.get("k"), store.create("x", b""), store.list(), store.delete("k")):
            with pytest.raises(KeyStoreUnreachableError, match="is sealed") as caught:
                await call
            assert caught.value.reason == "locked"
        await asyncio.to_thread(mortal_bao.unseal)
        assert await store.get("k") == b"v"
        await asyncio.to_thread(mortal_bao.kill)
        for call in (store.status(), store.get("k")):
            with pytest.raises(KeyStoreUnreachableError, match="can't be reached"):
                await call
        await asyncio.to_thread(mortal_bao.start)
        await asyncio.to_thread(mortal_bao.unseal)
        await store.status()
        assert await store.get("k") == b"v"

    run_store(tenant.config(), check)
    assert tenant.secret not in caplog.text


def test_server_waits_for_vault_at_its_start(mortal_bao: OpenBao) -> None:
    tenant = Tenant(mortal_bao, "v2")
    mortal_bao.seal()
    assert "is sealed: unseal it" in failure(tenant.config(), KeyStoreUnreachableError)

    async def check() -> None:
        connecting = asyncio.create_task(connect(tenant.config(start_timeout="60s")))
        await asyncio.to_thread(mortal_bao.unseal)
        store = await connecting
        await store.create("k", b"v")
        await store.close()

    asyncio.run(check())

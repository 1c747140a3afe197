"""The doctor finds each fault in a real Vault, and the policy that it prints works."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from hvac.exceptions import Forbidden, InvalidPath

from kes_core import Finding
from kes_vault import doctor
from kes_vault.config import VaultConfig
from kes_vault.policy import access_policy
from kes_vault.store import VaultKeyStore
from tests.helpers.openbao import WIDE, OpenBao, Tenant, diagnose, run_store
from tests.helpers.server import write_config


def problem(config: VaultConfig, text: str) -> Finding:
    """Return the only finding that is not ok; it must contain `text`."""
    found = diagnose(config)
    bad = [finding for finding in found if finding.level != "ok"]
    assert len(bad) == 1, found
    assert text in bad[0].message
    return bad[0]


def tokens(bao: OpenBao) -> int:
    return len(bao.root.adapter.list("/v1/auth/token/accessors")["data"]["keys"])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_vault_that_is_set_up_as_it_should_be(bao: OpenBao, version: str) -> None:
    tenant = Tenant(bao, version)
    bao.root.sys.create_or_update_policy(tenant.role, access_policy(tenant.config()))
    before = tokens(bao)
    found = diagnose(tenant.config())
    assert {finding.level for finding in found} == {"ok"}
    messages = [finding.message for finding in found]
    assert messages[:3] == [
        f"{bao.url} answers, its certificate is trusted; it is initialized and unsealed",
        "it works; the token lives 5 min",
        f"a K/V engine of version {version} is mounted at {tenant.engine!r}",
    ]
    data = f"{tenant.engine}/data" if version == "v2" else tenant.engine
    metadata = f"{tenant.engine}/metadata" if version == "v2" else tenant.engine
    paths = {"read": f"{data}/*", "create": f"{data}/*", "delete": f"{metadata}/*", "list": metadata}
    assert messages[3:] == [f"{capability} on {path}" for capability, path in paths.items()]
    assert tokens(bao) == before  # the doctor has revoked its own


def test_vault_that_does_not_answer(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")
    found = problem(tenant.config(endpoint="https://127.0.0.1:1"), "can't be reached")
    assert found.level == "error"
    assert found.cure == f"see what is in the way: curl --cacert {bao.ca} https://127.0.0.1:1/v1/sys/health"
    assert "tls.ca" in problem(tenant.config(tls=None), "is not trusted").message


def test_vault_that_is_sealed(mortal_bao: OpenBao) -> None:
    tenant = Tenant(mortal_bao, "v2")
    mortal_bao.seal()
    try:
        found = problem(tenant.config(), "is sealed")
        assert found.cure.startswith(f"VAULT_ADDR={mortal_bao.url} vault operator unseal")
    finally:
        mortal_bao.unseal()


def test_vault_that_has_never_been_initialized(tmp_path: Path) -> None:
    bao = OpenBao(tmp_path)
    bao.start()
    try:
        config = VaultConfig.model_validate({"endpoint": bao.url, "token": "t", "tls": {"ca": str(bao.ca)}})
        found = problem(config, "is not initialized")
        assert found.cure == f"VAULT_ADDR={bao.url} vault operator init"
    finally:
        bao.stop()


def test_logins_that_fail(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")
    role = {"id": tenant.role_id, "secret": "wrong-secret"}
    found = problem(tenant.config(approle=role), "login to Vault failed: invalid role or secret ID")
    assert (found.level, found.subject) == ("error", "Vault login")
    assert found.cure.startswith("vault read auth/approle/role/<role>/role-id; vault write -f auth/approle/role/")
    assert "wrong-secret" not in str(found)
    found = problem(tenant.config(approle=None, token="wrong-token"), "login to Vault failed")
    assert "vault token create -period=24h" in found.cure
    assert "wrong-token" not in str(found)
    jwt = {"role": "r", "jwt": "a.b.c"}
    assert "auth/jwt/role/r" in problem(tenant.config(approle=None, jwt=jwt), "login to Vault failed").cure
    tls = {"ca": str(bao.ca), "cert": str(bao.ca), "key": str(bao.directory / "vault.key")}
    found = problem(tenant.config(approle=None, certificate={}, tls=tls), "login to Vault failed")
    assert "vault list auth/cert/certs" in found.cure


def test_wrapped_secret_is_left_to_the_server(bao: OpenBao) -> None:
    """The secret can be unwrapped once. If the doctor did that, the server could not start."""
    tenant = Tenant(bao, "v2")
    answer = bao.root.adapter.post(f"/v1/auth/approle/role/{tenant.role}/secret-id", headers={"X-Vault-Wrap-TTL": "5m"})
    approle = {"id": tenant.role_id, "secret": answer["wrap_info"]["token"], "secret_wrapped": "on"}
    assert problem(tenant.config(approle=approle), "can be unwrapped once").level == "note"

    async def works(store: VaultKeyStore) -> None:
        await store.create("k", b"v")

    run_store(tenant.config(approle=approle), works)


def test_secret_that_may_be_counted_is_left_to_the_server(bao: OpenBao) -> None:
    """The secret ID may allow only one login. If the doctor used it, the server could not start."""
    tenant = Tenant(bao, "v2", secret_id_num_uses=1)
    found = diagnose(tenant.config(), login=False)
    assert [(finding.level, finding.subject) for finding in found] == [("ok", "Vault"), ("note", "Vault login")]
    assert "kes doctor --login" in found[-1].cure
    run_store(tenant.config(), lifecycle)


def own_token(bao: OpenBao, **options: Any) -> str:
    token: str = bao.root.auth.token.create(**options)["auth"]["client_token"]
    return token


def test_tokens_that_will_not_last(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")
    fixed = own_token(bao, policies=[tenant.role], ttl="1h", renewable=False)
    found = problem(
        tenant.config(approle=None, token=fixed), "the token can't be renewed: the server loses it in 60 min"
    )
    assert (found.level, "vault token create" in found.cure) == ("warning", True)
    assert bao.root.auth.token.lookup(fixed)["data"]["ttl"] > 0  # the doctor must not revoke the operator's token
    few = Tenant(bao, "v2", token_num_uses=20)
    found = problem(few.config(), "more times, and the server uses it for each key")
    assert (found.level, found.cure) == ("warning", "set token_num_uses=0 in the role")
    short = Tenant(bao, "v2", token_period="30s")
    assert problem(short.config(), "needs a new token every 30 s").level == "note"
    blind = Tenant(bao, "v2", token_no_default_policy=True)
    found = diagnose(blind.config())[2]
    assert (found.level, "may not look itself up" in found.message) == ("warning", True)
    root = problem(tenant.config(approle=None, token=bao.root.token), "is a root token")
    assert root.level == "warning"


def test_engines_that_are_not_as_configured(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")
    found = problem(tenant.config(version="v1"), "is v2, but version: v1 is configured: set version: v2")
    assert (found.level, found.subject) == ("error", "Vault engine")
    assert "vault secrets enable" in problem(tenant.config(engine="nowhere"), "no K/V engine is mounted").message


def test_capabilities_that_are_missing(bao: OpenBao) -> None:
    reader = Tenant(bao, "v2", 'path "{engine}/data/*" {{ capabilities = ["read"] }}')
    exception = ", unless the policy grants it for certain names"
    found = [finding for finding in diagnose(reader.config()) if finding.level != "ok"]
    assert [(finding.level, finding.message) for finding in found] == [
        ("warning", f"create on {reader.engine}/data/* is not granted: no key can be created{exception}"),
        ("warning", f"delete on {reader.engine}/metadata/* is not granted: no key can be deleted{exception}"),
        ("warning", f"list on {reader.engine}/metadata is not granted: keys can't be listed"),
    ]
    assert all("kes doctor store-policy | vault policy write" in finding.cure for finding in found)
    blind = Tenant(bao, "v1", 'path "{engine}/*" {{ capabilities = ["create", "delete", "list"] }}')
    assert problem(blind.config(), "no key can be used, unless the policy").level == "warning"


def test_capabilities_that_are_too_many(bao: OpenBao) -> None:
    wide = Tenant(bao, "v1", WIDE)
    assert problem(wide.config(), "one may overwrite the other's").level == "warning"
    wide = Tenant(bao, "v2", WIDE)
    assert problem(wide.config(), "can overwrite keys").level == "note"


def test_transit(bao: OpenBao) -> None:
    transit = bao.unique("transit")
    bao.root.sys.enable_secrets_engine("transit", path=transit)
    tenant = Tenant(bao, "v2")
    config = tenant.config(transit={"engine": transit, "key": "kes"})
    found = [finding for finding in diagnose(config) if finding.subject == "Vault transit"]
    assert [(finding.level, finding.message) for finding in found] == [
        ("error", f"update on {transit}/encrypt/kes is not granted: no key can be created"),
        ("error", f"update on {transit}/decrypt/kes is not granted: no key can be used"),
    ]
    bao.root.sys.create_or_update_policy(tenant.role, access_policy(config))
    found = [finding for finding in diagnose(config) if finding.level == "error"]
    assert ["the key 'kes' of" in finding.message for finding in found] == [True]
    assert found[0].cure.endswith(f"vault write -f {transit}/keys/kes")
    with pytest.raises(InvalidPath):  # the trial did not create it
        bao.root.secrets.transit.read_key("kes", mount_point=transit)
    bao.root.secrets.transit.create_key("kes", mount_point=transit)
    assert {finding.level for finding in diagnose(config)} == {"ok"}
    run_store(config, lifecycle)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_keys_that_the_go_server_cannot_read(bao: OpenBao, version: str) -> None:
    transit = bao.unique("transit")
    bao.root.sys.enable_secrets_engine("transit", path=transit)
    bao.root.secrets.transit.create_key("kes", mount_point=transit)
    tenant = Tenant(bao, version)
    config = tenant.config(transit={"engine": transit, "key": "kes"})
    bao.root.sys.create_or_update_policy(tenant.role, access_policy(config))

    async def create(store: VaultKeyStore, name: str) -> None:
        await store.create(name, b"value")
        assert await store.get(name) == b"value"

    run_store(config, lambda store: create(store, "before"))
    assert {finding.level for finding in diagnose(config)} == {"ok"}
    bao.root.secrets.transit.rotate_key("kes", mount_point=transit)
    run_store(config, lambda store: create(store, "after"))
    found = [finding for finding in diagnose(config) if finding.level != "ok"]
    assert [(finding.level, finding.subject) for finding in found] == [
        ("note", "Vault transit"),
        ("note", "Vault entries"),
    ]
    assert "1 of 2 keys are encrypted under a later version" in found[1].message


def test_token_that_may_not_look_up_its_capabilities(bao: OpenBao) -> None:
    policy = 'path "{engine}/*" {{ capabilities = ["read", "list"] }}'
    tenant = Tenant(bao, "v2", policy, token_no_default_policy=True)
    tenant.bao.root.secrets.kv.v2.update_metadata("bare", mount_point=tenant.engine)
    found = {finding.subject: finding for finding in diagnose(tenant.config()) if finding.level != "ok"}
    assert "grant 'update' on 'sys/capabilities-self'" in found["Vault policy"].message
    assert "has metadata, but no version" in found["Vault entries"].message  # the doctor still examines the rest


def test_entries_of_others_are_not_problems(bao: OpenBao) -> None:
    policy = (
        'path "{engine}/data/minio-*" {{ capabilities = ["create", "read"] }}\n'
        'path "{engine}/metadata/*" {{ capabilities = ["list", "delete"] }}'
    )
    tenant = Tenant(bao, "v2", policy)
    tenant.write("other", {"other": "v"})
    assert {finding.level for finding in diagnose(tenant.config())} == {"ok", "warning"}


def test_clocks_that_differ() -> None:
    def clock_findings(difference: float) -> list[Finding]:
        now = time.time()
        answer = requests.Response()
        answer._content = json.dumps({"server_time_utc": int(now)}).encode()
        return list(doctor._clock(answer, now + difference))

    assert clock_findings(50) == []
    (ahead,) = clock_findings(90)
    assert (ahead.level, ahead.subject, "s ahead of Vault's" in ahead.message) == ("warning", "clock", True)
    assert "s behind Vault's" in clock_findings(-3600)[0].message
    assert list(doctor._clock(requests.Response(), 0.0)) == []  # another server answers, which another finding reports


def test_endpoint_without_tls() -> None:
    def endpoint_findings(endpoint: str) -> list[Finding]:
        return list(doctor._encryption(VaultConfig.model_validate({"endpoint": endpoint, "token": "t"})))

    assert [finding.level for finding in endpoint_findings("http://vault.example.com:8200")] == ["warning"]
    assert endpoint_findings("http://127.0.0.1:8200") == endpoint_findings("https://vault.example.com:8200") == []


# The policy that it prints


async def lifecycle(store: VaultKeyStore) -> None:
    """Do everything that a server does."""
    await store.create("my-key", b"value")
    assert await store.get("my-key") == b"value"
    assert (await store.list()).names == ["my-key"]
    await store.delete("my-key")
    assert (await store.list()).names == []


@pytest.mark.parametrize("prefix", ["", "tenant", "a/tenant"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_policy_is_the_least_that_works(bao: OpenBao, version: str, prefix: str) -> None:
    tenant = Tenant(bao, version)
    config = tenant.config(prefix=prefix)
    bao.root.sys.create_or_update_policy(tenant.role, access_policy(config))
    run_store(config, lifecycle)
    client = bao.root.__class__(bao.url, verify=str(bao.ca))
    client.token = own_token(bao, policies=[tenant.role])
    data = f"{tenant.engine}/data" if version == "v2" else tenant.engine
    metadata = f"{tenant.engine}/metadata" if version == "v2" else tenant.engine
    folder = "/".join(part for part in (data, prefix) if part)
    body = {"data": {"k": "v"}} if version == "v2" else {"k": "v"}
    client.adapter.post(f"/v1/{folder}/k", json=body)
    for method, path in (
        ("post", f"{folder}/k"),  # overwrites it
        ("post", f"{folder}/deeper/k"),
        ("get", f"{folder}/deeper/k"),
        ("list", f"{metadata}/{prefix}/deeper" if prefix else f"{metadata}/deeper"),
        ("get", f"{data}/other-tenant/k"),
        ("get", "sys/policies/acl"),
        ("post", f"sys/mounts/{tenant.engine}/tune"),
    ):
        with pytest.raises(Forbidden):
            getattr(client.adapter, method)(f"/v1/{path}", **({"json": body} if method == "post" else {}))


@pytest.mark.parametrize(("login", "where"), [("", "-namespace=team "), ("/", ""), ("/team", "-namespace=team ")])
def test_policy_of_a_namespace(login: str, where: str) -> None:
    """The policy belongs to the namespace of the login, and its paths lead from there to the keys."""
    approle = {"id": "i", "secret": "s", "namespace": login}
    section = {"endpoint": "https://127.0.0.1:8200", "version": "v2", "namespace": "team", "approle": approle}
    text = access_policy(VaultConfig.model_validate(section))
    assert f"vault policy write {where}kes-policy -" in text
    assert f'path "{"team/" if not where else ""}kv/data/+" {{' in text


def test_policy_works_across_namespaces(bao: OpenBao) -> None:
    """The login is in the root namespace, and the keys are in another."""
    namespace = bao.unique("team")
    bao.root.adapter.post(f"/v1/sys/namespaces/{namespace}")
    inner = bao.root.__class__(bao.url, verify=str(bao.ca), namespace=namespace, token=bao.root.token)
    inner.sys.enable_secrets_engine("kv", path="kv", options={"version": "1"})
    tenant = Tenant(bao, "v1")
    approle = {"id": tenant.role_id, "secret": tenant.secret, "namespace": "/"}
    config = tenant.config(engine="kv", namespace=namespace, approle=approle)
    bao.root.sys.create_or_update_policy(tenant.role, access_policy(config))
    run_store(config, lifecycle)
    assert {finding.level for finding in diagnose(config)} == {"ok"}


def test_commands(bao: OpenBao, tmp_path: Path) -> None:
    """The commands work together: with the policy that one prints, the other finds nothing wrong."""
    tenant = Tenant(bao, "v2", 'path "{engine}/data/*" {{ capabilities = ["read"] }}')
    write_config(tmp_path, "disabled", {"keystore": {"vault": tenant.section()}})

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "kes_core.cli", "doctor", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        assert tenant.secret not in done.stdout
        return done.stdout

    def levels() -> set[str]:
        findings = json.loads(run("--login", "--json"))["findings"]
        return {finding["level"] for finding in findings if finding["subject"].startswith("Vault")}

    assert levels() == {"ok", "warning"}
    bao.root.sys.create_or_update_policy(tenant.role, run("store-policy"))
    assert levels() == {"ok"}

"""What can be wrong when the server starts: each with one line that says what to do."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest

from kes_core import KeyStoreError, KeyStoreUnreachableError
from kes_core.cli.identity import write_certificate
from kes_vault.config import VaultConfig
from kes_vault.store import VaultKeyStore, connect
from tests.helpers.openbao import OpenBao, Tenant, failure, nothing, run_store
from tests.helpers.server import make_credentials


def test_vault_that_has_never_been_initialized(tmp_path: Path) -> None:
    bao = OpenBao(tmp_path)
    bao.start()
    try:
        section = {"endpoint": bao.url, "token": "t", "tls": {"ca": str(bao.ca)}, "start_timeout": "0s"}
        with pytest.raises(KeyStoreUnreachableError, match="is not initialized: run 'vault operator init'") as caught:
            run_store(VaultConfig.model_validate(section), nothing)
        assert caught.value.reason == "uninitialized"
    finally:
        bao.stop()


def test_certificate_of_vault_that_has_expired(tmp_path: Path) -> None:
    key, cert = tmp_path / "vault.key", tmp_path / "vault.crt"
    host = [ipaddress.ip_address("127.0.0.1")]
    write_certificate(key, cert, subject="vault", dns=[], ips=host, valid_for=dt.timedelta(seconds=-1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def check() -> None:
        async with await asyncio.start_server(
            lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context
        ) as vault:
            url = f"https://127.0.0.1:{vault.sockets[0].getsockname()[1]}"
            section = {"endpoint": url, "token": "t", "tls": {"ca": str(cert)}}
            with pytest.raises(KeyStoreError) as caught:
                await connect(VaultConfig.model_validate(section))
        text = f"the certificate of Vault at {url} has expired: renew it, or its CA in tls.ca"
        assert str(caught.value) == text

    asyncio.run(check())


def test_messages_at_the_start(bao: OpenBao) -> None:
    tenant, other = Tenant(bao, "v2"), Tenant(bao, "v1")
    approle = {"id": tenant.role_id, "secret": "wrong"}
    assert failure(tenant.config(approle=approle)) == (
        "login to Vault failed: invalid role or secret ID; check role, credentials and namespace"
    )
    assert "role or secret ID" in failure(tenant.config(approle={"id": "wrong", "secret": tenant.secret}))
    for method in (
        {"approle": {**approle, "engine": "elsewhere"}},
        {"approle": None, "kubernetes": {"role": "r", "jwt": "a.b.c"}},
        {"approle": None, "token": "wrong"},
        {
            "approle": None,
            "certificate": {"role": "r"},
            "tls": {"ca": str(bao.ca), "cert": str(bao.ca), "key": str(bao.directory / "vault.key")},
        },
    ):
        assert "login to Vault failed" in failure(tenant.config(**method))
    assert failure(tenant.config(version="v1")) == (
        f"the K/V engine at {tenant.engine!r} is v2, but version: v1 is configured: set version: v2"
    )
    assert "is v1, but version: v2 is configured: set version: v1" in failure(other.config(version="v2"))
    assert failure(tenant.config(engine="nowhere")).startswith(
        "no K/V engine is mounted at 'nowhere', or the token's policy grants nothing below it: run 'vault secrets "
    )
    assert "is not trusted: set tls.ca to its CA" in failure(tenant.config(tls=None))
    assert "can't be reached" in failure(tenant.config(endpoint="https://127.0.0.1:1"), KeyStoreUnreachableError)
    blind = Tenant(bao, "v2", 'path "{engine}/data/*" {{ capabilities = ["create"] }}')
    assert f"lacks the capability 'read' on '{blind.engine}/data/*': grant it" in failure(blind.config())


def test_directory_of_cas(bao: OpenBao, tmp_path: Path) -> None:
    """Plain files, as operators put them there; and again, when they have changed."""
    tenant = Tenant(bao, "v2")
    cas = tmp_path / "cas"
    cas.mkdir()
    section = {"ca": str(cas)}
    assert "there is no certificate in" in failure(tenant.config(tls=section))
    (cas / "README").write_text("The CAs of this site.")
    (cas / "other.pem").write_bytes(make_credentials(tmp_path).cert.read_bytes())
    assert "is not trusted: set tls.ca to its CA" in failure(tenant.config(tls=section))

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        (cas / "vault.pem").unlink()
        store._session._http.adapters["https://"].close()  # the next call needs a new connection
        with pytest.raises(KeyStoreError, match="is not trusted"):
            await store.status()
        (cas / "renamed.pem").write_bytes(bao.ca.read_bytes())
        await store.status()
        assert await store.get("k") == b"v"

    (cas / "vault.pem").write_bytes(bao.ca.read_bytes())
    run_store(tenant.config(tls=section), check)


def test_missing_capabilities_are_told_at_the_start(bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    reader = Tenant(bao, "v2", 'path "{engine}/data/*" {{ capabilities = ["read"] }}')
    run_store(reader.config(), nothing)
    for capability, kind in (("create", "data/*"), ("delete", "metadata/*"), ("list", "metadata")):
        assert f"lacks the capability '{capability}' on '{reader.engine}/{kind}'" in caplog.text

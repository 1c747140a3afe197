"""Faults that the server finds at its start: each has one line that says what to do."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import itertools
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from OpenSSL.crypto import FILETYPE_PEM, load_certificate

from kes_core import EntryExistsError, KeyStoreError, KeyStoreUnreachableError
from kes_core.cli.identity import write_certificate
from kes_vault.config import VaultConfig
from kes_vault.session import Session
from kes_vault.store import VaultKeyStore, connect
from tests.helpers.certificates import make_credentials
from tests.helpers.openbao import OpenBao, Tenant, failure, nothing, run_store
from tests.helpers.proxy import Proxy


def test_vault_that_has_never_been_initialized(tmp_path: Path) -> None:
    bao = OpenBao(tmp_path)
    bao.start()
    try:
        section = {"endpoint": bao.url, "token": "t", "tls": {"ca": str(bao.ca)}, "start_timeout": "0s"}
        with pytest.raises(KeyStoreUnreachableError, match="is not initialized: run 'vault operator init'") as caught:
            run_store(VaultConfig.model_validate(section), nothing)
        assert caught.value.reason == "locked"
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
        "login to Vault failed: invalid role or secret ID: the secret ID has expired, is used up, or belongs to "
        "another role or namespace; see 'vault write auth/approle/role/ROLE/secret-id/lookup secret_id=...'"
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


def test_directory_of_cas(bao: OpenBao, tmp_path: Path) -> None:
    """The server trusts plain files without hashed names, and reads them again after a change."""
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


@contextmanager
def mute_listener() -> Iterator[int]:
    """Accept connections and stay silent; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_cause_of_a_vault_that_cannot_be_reached(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")

    def unreachable(endpoint: str) -> str:
        return failure(tenant.config(endpoint=endpoint, timeout="1s"), KeyStoreUnreachableError)

    assert "can't be reached: connection refused (tried to" in unreachable("https://127.0.0.1:1")
    assert "can't be reached: its host name can't be resolved" in unreachable("https://vault.invalid:8200")
    with mute_listener() as port:
        assert "does not answer in time" in unreachable(f"https://127.0.0.1:{port}")
    with plain_http() as port:
        assert "can't be reached: it answers without TLS" in unreachable(f"https://127.0.0.1:{port}")
    plain = bao.url.replace("https:", "http:")
    assert failure(tenant.config(endpoint=plain)) == f"Vault at {plain} expects TLS: let endpoint begin with https://"


@contextmanager
def plain_http() -> Iterator[int]:
    """Serve HTTP without TLS; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_waiting_for_vault_is_logged_once_a_cause(mortal_bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    tenant = Tenant(mortal_bao, "v2")
    mortal_bao.kill()

    async def check() -> None:
        connecting = asyncio.create_task(connect(tenant.config(start_timeout="60s")))
        await enough.wait()
        await asyncio.to_thread(mortal_bao.start)
        await asyncio.to_thread(mortal_bao.unseal)
        await (await connecting).close()

    enough, attempts, look = asyncio.Event(), itertools.count(1), Session.look

    async def counted(session: Session) -> requests.Response:
        if next(attempts) == 4:
            enough.set()
        return await look(session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "look", counted)
        asyncio.run(check())
    causes = [record.getMessage() for record in caplog.records if record.getMessage().startswith("waiting for Vault")]
    assert "connection refused" in causes[0]
    assert len(causes) == len(set(causes))


def test_system_roots_are_trusted_without_a_ca_in_the_configuration(
    bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not trust the CAs of the package certifi, as the HTTP library would."""
    tenant = Tenant(bao, "v2")
    nobody = make_credentials(tmp_path).cert
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_FILE", str(nobody))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(bao.ca))
    assert "is not trusted: set tls.ca to its CA" in failure(tenant.config(tls=None))
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CERT_FILE", str(bao.ca))
    run_store(tenant.config(tls=None), nothing)
    hashed = tmp_path / "hashed"
    hashed.mkdir()
    number = load_certificate(FILETYPE_PEM, bao.ca.read_bytes()).subject_name_hash()
    shutil.copy(bao.ca, hashed / f"{number:08x}.0")
    monkeypatch.setenv("SSL_CERT_FILE", str(nobody))
    monkeypatch.setenv("SSL_CERT_DIR", str(hashed))
    run_store(tenant.config(tls=None), nothing)


class BelowPath(Proxy):
    """Serves Vault below a path, as a site's proxy does."""

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> requests.Response:
        assert path.startswith("/tools/vault/v1/"), path
        return super().forward(method, path.removeprefix("/tools/vault"), headers, body)


@pytest.mark.parametrize("end", ["", "/"])
def test_endpoint_with_a_path(bao: OpenBao, end: str) -> None:
    tenant = Tenant(bao, "v2")

    async def check(store: VaultKeyStore) -> None:
        await store.status()
        await store.create("k", b"v")
        assert await store.get("k") == b"v"
        assert (await store.list()).names == ["k"]
        await store.delete("k")

    with BelowPath(bao).running() as proxy:
        run_store(tenant.config(endpoint=f"{proxy.url}/tools/vault{end}"), check)


BLIND = (
    'path "{engine}/data/*" {{ capabilities = ["create", "read"] }}\n'
    'path "{engine}/metadata/*" {{ capabilities = ["list"] }}'
)


@pytest.mark.parametrize("uses", [0, 1])
def test_token_that_may_not_look_up_its_capabilities(bao: OpenBao, caplog: pytest.LogCaptureFixture, uses: int) -> None:
    """The server serves, with one warning, even if the secret ID allows only this login."""
    tenant = Tenant(bao, "v2", BLIND, token_no_default_policy=True, secret_id_num_uses=uses)

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        assert await store.get("k") == b"v"
        with pytest.raises(EntryExistsError):
            await store.create("k", b"other")
        with pytest.raises(
            KeyStoreError, match=f"refuses to delete '{tenant.engine}/metadata/k': the policy lacks 'delete' there, or"
        ):
            await store.delete("k")
        await store.status()

    run_store(tenant.config(), check)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (warning,) = warnings
    assert warning == (
        "the token for Vault may not look up its own capabilities, so the server can't check its policy: grant "
        "'update' on 'sys/capabilities-self'"
    )


def test_paths_to_grant_to_a_login_in_another_namespace(bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    namespace = bao.unique("ns")
    bao.root.adapter.post(f"/v1/sys/namespaces/{namespace}")
    bao.root.adapter.namespace = namespace
    try:
        engine = bao.mount("v2")
    finally:
        bao.root.adapter.namespace = None
    read_only = f'path "{namespace}/{engine}/data/*" {{ capabilities = ["read"] }}'
    _role, role_id, secret = bao.role(read_only)
    approle = {"id": role_id, "secret": secret, "namespace": "/"}
    config = Tenant(bao, "v2").config(engine=engine, namespace=namespace, approle=approle)
    run_store(config, nothing)
    assert f"grant 'update' on '{namespace}/sys/capabilities-self'" in caplog.text
    caplog.clear()
    bao.root.sys.create_or_update_policy(
        _role, f'{read_only}\npath "{namespace}/sys/capabilities-self" {{ capabilities = ["update"] }}'
    )
    run_store(config, nothing)
    assert f"lacks the capability 'create' on '{namespace}/{engine}/data/*'" in caplog.text


def test_policy_for_certain_names_does_not_keep_the_server_from_starting(
    bao: OpenBao, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = Tenant(bao, "v2", 'path "{engine}/data/minio-*" {{ capabilities = ["create", "read"] }}')

    async def check(store: VaultKeyStore) -> None:
        await store.create("minio-key", b"v")
        assert await store.get("minio-key") == b"v"
        with pytest.raises(KeyStoreError, match=f"lacks the capability 'read' on '{tenant.engine}/data/other'"):
            await store.get("other")

    run_store(tenant.config(), check)
    assert f"lacks the capability 'read' on '{tenant.engine}/data/*'" in caplog.text
    assert "keys can't be used, unless the policy grants it for their names" in caplog.text


def test_missing_capabilities_are_told_at_the_start(bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    reader = Tenant(bao, "v2", 'path "{engine}/data/*" {{ capabilities = ["read"] }}')
    run_store(reader.config(), nothing)
    for capability, kind in (("create", "data/*"), ("delete", "metadata/*"), ("list", "metadata")):
        assert f"lacks the capability '{capability}' on '{reader.engine}/{kind}'" in caplog.text

"""Logins with what a machine has instead of a secret, and how many logins the refusals of Vault cost."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kes_core import KeyStoreError
from kes_core.cli.identity import write_certificate
from kes_vault.config import VaultConfig
from kes_vault.store import VaultKeyStore, connect
from tests.helpers.openbao import KV2_POLICY, OpenBao, Tenant
from tests.helpers.proxy import Proxy


def serve(config: VaultConfig) -> None:
    """Log in and use the role; then revoke the token and use the role again."""

    async def start() -> None:
        store = await connect(config)
        try:
            await store.create("k", b"v")
            await asyncio.to_thread(store._session.client.auth.token.revoke_self)
            assert await store.get("k") == b"v"
        finally:
            await store.close()

    asyncio.run(start())


def refusal(config: VaultConfig) -> str:
    with pytest.raises(KeyStoreError) as caught:
        asyncio.run(connect(config))
    return str(caught.value)


def signed_token(key: ec.EllipticCurvePrivateKey, claims: dict[str, Any]) -> str:
    """Return a JSON web token (RFC 7519) signed with ES256."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = ".".join(part(json.dumps(data).encode()) for data in ({"alg": "ES256", "typ": "JWT"}, claims))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def lifetime(**claims: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iat": now, "nbf": now - 60, "exp": now + 600, **claims}


def test_jwt(bao: OpenBao, tmp_path: Path) -> None:
    """The server logs in with a token from a file, which it reads again at each login. Vault knows the signing key."""
    tenant = Tenant(bao, "v2")
    engine = bao.unique("jwt")
    bao.root.sys.enable_auth_method("jwt", path=engine)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    bao.root.adapter.post(f"/v1/auth/{engine}/config", json={"jwt_validation_pubkeys": [public]})
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": [tenant.role]}
    bao.root.adapter.post(f"/v1/auth/{engine}/role/kes", json=role)
    file = tmp_path / "jwt"
    file.write_text(signed_token(key, lifetime(sub="kes", aud="vault")) + "\n")
    section = {"engine": engine, "role": "kes", "jwt": str(file)}
    serve(tenant.config(approle=None, jwt=section))
    file.write_text(signed_token(key, lifetime(sub="kes", aud="another")))
    assert "login to Vault failed" in refusal(tenant.config(approle=None, jwt=section))


def test_client_certificate(bao: OpenBao, tmp_path: Path) -> None:
    tenant = Tenant(bao, "v2")
    engine = bao.unique("cert")
    bao.root.sys.enable_auth_method("cert", path=engine)
    key, cert = tmp_path / "client.key", tmp_path / "client.crt"
    write_certificate(key, cert, subject="kes", dns=[], ips=[], valid_for=dt.timedelta(days=1))
    entry = {"certificate": cert.read_text(), "token_policies": [tenant.role]}
    bao.root.adapter.post(f"/v1/auth/{engine}/certs/kes", json=entry)
    tls = {"ca": str(bao.ca), "key": str(key), "cert": str(cert)}
    for role in ("kes", ""):
        serve(tenant.config(approle=None, certificate={"engine": engine, "role": role}, tls=tls))
        bao.root.adapter.delete(f"/v1/{tenant.engine}/metadata/k")
    stranger = {**tls, "key": str(tmp_path / "other.key"), "cert": str(tmp_path / "other.crt")}
    write_certificate(
        tmp_path / "other.key", tmp_path / "other.crt", subject="kes", dns=[], ips=[], valid_for=dt.timedelta(days=1)
    )
    section = {"engine": engine, "role": "kes"}
    assert "login to Vault failed" in refusal(tenant.config(approle=None, certificate=section, tls=stranger))


@contextmanager
def token_review(bao: OpenBao, accounts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Answer TokenReviews like the API server of Kubernetes, which is too large to run here.

    https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            user = accounts.get(review["spec"]["token"])
            audiences = review["spec"].get("audiences", [])
            accepted = {"authenticated": True, "user": user, "audiences": audiences}
            status = accepted if user else {"error": "unknown token"}
            answer = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}
            body = json.dumps(answer).encode()
            self.send_response(201)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bao.ca, bao.directory / "vault.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_kubernetes_service_account(bao: OpenBao, tmp_path: Path) -> None:
    """The login uses Vault's real method, which asks Kubernetes to review the token."""
    tenant = Tenant(bao, "v2")
    engine = bao.unique("kubernetes")
    bao.root.sys.enable_auth_method("kubernetes", path=engine)
    name = {"namespace": "default", "serviceaccount": {"name": "kes", "uid": "1"}}
    key = ec.generate_private_key(ec.SECP256R1())
    subject = "system:serviceaccount:default:kes"
    token = signed_token(key, lifetime(sub=subject, aud=["vault"], **{"kubernetes.io": name}))
    other = signed_token(key, lifetime(sub=subject, aud=["vault"], jti="other", **{"kubernetes.io": name}))
    user = {"username": subject, "uid": "1", "groups": ["system:serviceaccounts"]}
    with token_review(bao, {token: user}) as url:
        bao.root.adapter.post(
            f"/v1/auth/{engine}/config",
            json={
                "kubernetes_host": url,
                "kubernetes_ca_cert": bao.ca.read_text(),
                "token_reviewer_jwt": "reviewer",
                "disable_local_ca_jwt": True,
            },
        )
        role = {
            "bound_service_account_names": ["kes"],
            "bound_service_account_namespaces": ["default"],
            "token_policies": [tenant.role],
        }
        bao.root.adapter.post(f"/v1/auth/{engine}/role/kes", json=role)
        file = tmp_path / "token"
        file.write_text(token)
        section = {"engine": engine, "role": "kes", "jwt": str(file)}
        serve(tenant.config(approle=None, kubernetes=section))
        bao.root.adapter.delete(f"/v1/{tenant.engine}/metadata/k")
        serve(tenant.config(approle=None, kubernetes={**section, "jwt": token}))
        file.write_text(other)  # the same key signed it, but Kubernetes does not know it
        assert "login to Vault failed" in refusal(tenant.config(approle=None, kubernetes=section))
        wrong = {**section, "jwt": token, "role": "other"}
        assert "login to Vault failed" in refusal(tenant.config(approle=None, kubernetes=wrong))


# Refused calls


async def refused_calls(store: VaultKeyStore, rounds: int) -> None:
    """Make calls of every kind, which Vault refuses."""
    for number in range(rounds):
        name = f"k{number}"
        for call in (store.create(name, b"v"), store.get(name), store.delete(name), store.list()):
            with pytest.raises(KeyStoreError, match=r"refuses to|lacks the capability"):
                await call


@pytest.mark.parametrize("transit", [None, {"key": "missing"}], ids=["kv", "transit"])
def test_refused_calls_cost_no_login(bao: OpenBao, transit: dict[str, str] | None) -> None:
    """The token may not look itself up, nor its capabilities. Its policy grants one key."""
    tenant = Tenant(bao, "v2", 'path "{engine}/data/there" {{ capabilities = ["read"] }}', token_no_default_policy=True)
    tenant.write("there", {"there": "v"})

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url, transit=transit))
        before = proxy.count("POST", "/login")
        await refused_calls(store, 3)
        await asyncio.gather(*(refused_calls(store, 1) for _ in range(3)))
        assert proxy.count("POST", "/login") == before
        for _ in range(2):  # a token that is really gone is replaced, whatever call Vault refuses
            bao.root.sys.revoke_prefix("auth/approle/login")
            await refused_calls(store, 1)
            assert await store.get("there") == b"v"
            bao.root.sys.revoke_prefix("auth/approle/login")
            assert await store.get("there") == b"v"
        assert proxy.count("POST", "/login") == before + 4
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


def test_token_whose_policy_is_taken_away_costs_one_login(bao: OpenBao) -> None:
    """Then a refused token looks like one that is gone. When the policy is back, the server recovers by itself."""
    tenant = Tenant(bao, "v2", token_no_default_policy=True)

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        await store.create("k", b"v")
        for _ in range(2):
            before = proxy.count("POST", "/login")
            bao.root.sys.create_or_update_policy(tenant.role, 'path "elsewhere" { capabilities = ["read"] }')
            await refused_calls(store, 3)
            await asyncio.gather(*(refused_calls(store, 1) for _ in range(3)))
            assert proxy.count("POST", "/login") == before + 1
            bao.root.sys.create_or_update_policy(tenant.role, KV2_POLICY.format(engine=tenant.engine))
            assert await store.get("k") == b"v"
            bao.root.sys.revoke_prefix("auth/approle/login")
            assert await store.get("k") == b"v"
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))

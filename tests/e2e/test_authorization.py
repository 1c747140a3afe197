"""Authorization: every route with every kind of client, and paths that try to look like others."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kes_core.identity import identity_of_certificate
from kes_core.protocol import ROUTES, Argument, Auth, Route
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.server import Server, send_raw, start_server
from tests.helpers.wrapping import put

REFUSED = {"message": "not authorized: insufficient permissions"}
# The routes that answer at once; test_observability covers the streams.
SERVED = [route for route in ROUTES if route.timeout]


def example_path(route: Route) -> str:
    """Return a path for which the route finds what it looks for."""
    if route.argument is None:
        return route.path
    if route.argument is Argument.PATTERN:
        return route.path + "*"
    if route.path.startswith("/v1/policy"):
        return route.path + "all"
    return route.path + "my-key"


def certificate(directory: Path, name: str, *, days: int = 30, ca: bool = False) -> tuple[Path, Path, str]:
    """Write a self-signed certificate that ends `days` from now; return key file, certificate file and identity."""
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, None)
    )
    key_file, cert_file = directory / f"{name}.key", directory / f"{name}.crt"
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    cert_file.write_bytes(built.public_bytes(Encoding.PEM))
    return key_file, cert_file, identity_of_certificate(built)


def as_client(admin: Credentials, files: tuple[Path, Path, str]) -> Credentials:
    return replace(admin, key=files[0], cert=files[1])


class Clients:
    """One server, and every kind of client for it."""

    def __init__(self, directory: Path) -> None:
        self.allowed = make_credentials(directory, "allowed")
        self.denied = make_credentials(directory, "denied")
        self.unknown = make_credentials(directory, "unknown")
        self.expired_files = certificate(directory, "expired", days=-30)
        self.ca_files = certificate(directory, "authority", ca=True)
        everything = ["/version", "/v1/*"]
        policies = {
            "all": {"allow": everything, "identities": [self.allowed.identity, self.expired_files[2]]},
            "none": {"allow": everything, "deny": ["/v1/*"], "identities": [self.denied.identity]},
            "authorities": {"allow": everything, "identities": [self.ca_files[2]]},
        }
        keystore = {"fs": {"path": str(put(directory / "keys"))}}
        self.server = start_server(directory, {"policy": policies, "keystore": keystore, "keys": [{"name": "my-key"}]})

    def ask(self, credentials: Credentials, route: Route) -> httpx.Response:
        body = {"items": None} if route.max_body else None
        path = example_path(route)
        with self.server.client(credentials) as client:
            if "describe/my-key" in path and "identity" in path:
                path = route.path + self.allowed.identity
            return client.request(route.method, path, json=body)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    clients = Clients(tmp_path_factory.mktemp("authorization"))
    yield clients
    assert clients.server.stop() == 0


# The deletion comes last: the other requests need the key.
IN_ORDER = sorted(SERVED, key=lambda route: route.method == "DELETE")


def test_allowed_client_is_served_on_every_route(clients: Clients) -> None:
    expected = {
        "/v1/key/create/": (400, {"message": "key already exists"}),
        "/v1/key/import/": (406, {"message": "algorithm '' is not supported"}),
        "/v1/key/import-version/": (406, {"message": "invalid key size for 'my-key'"}),
        "/v1/key/decrypt/": (400, {"message": "decryption failed: ciphertext is not authentic"}),
        "/v1/key/rewrap/": (400, {"message": "decryption failed: ciphertext is not authentic"}),
        "/v1/key/schedule-delete/": (409, {"message": "this server does not schedule deletions"}),
    }
    expected["/v1/key/min-version/"] = (400, {"message": "invalid request body"})
    for bulk in ("decrypt", "generate", "encrypt", "rewrap"):
        expected[f"/v1/key/bulk/{bulk}/"] = (400, {"message": "invalid request body"})
    with clients.server.client() as admin:
        for route in IN_ORDER:
            response = clients.ask(clients.allowed, route)
            if route.path in expected:
                assert (response.status_code, response.json()) == expected[route.path]
            else:
                assert response.status_code == 200, (route.path, response.text)
        admin.put("/v1/key/create/my-key")


@pytest.mark.parametrize("route", SERVED, ids=[route.path for route in SERVED])
@pytest.mark.parametrize("kind", ["denied", "unknown"])
def test_refused_client_is_refused_on_every_route(clients: Clients, route: Route, kind: str) -> None:
    response = clients.ask(getattr(clients, kind), route)
    if route.auth is Auth.NONE:
        assert response.status_code == 200
    elif route.auth is Auth.CERTIFICATE:
        assert response.status_code == (404 if kind == "unknown" else 200)
    else:
        assert (response.status_code, response.json()) == (403, REFUSED)


@pytest.mark.parametrize("route", SERVED, ids=[route.path for route in SERVED])
def test_expired_certificate_is_as_good_as_another(clients: Clients, route: Route) -> None:
    """By default only the public key counts: the server ignores dates, issuer and usage."""
    response = clients.ask(as_client(clients.allowed, clients.expired_files), route)
    assert response.status_code != 403
    assert "tls: " not in response.text


@pytest.mark.parametrize("route", SERVED, ids=[route.path for route in SERVED])
def test_ca_certificate_identifies_no_client(clients: Clients, route: Route) -> None:
    response = clients.ask(as_client(clients.allowed, clients.ca_files), route)
    if route.auth is Auth.NONE:
        assert response.status_code == 200
    elif route.auth is Auth.CERTIFICATE:
        assert response.status_code == 404
    else:
        assert (response.status_code, response.json()) == (400, {"message": "tls: client certificate is required"})


@pytest.mark.parametrize("path", ["/version", "/v1/status", "/v1/nope"])
def test_no_certificate_fails_in_the_handshake(clients: Clients, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        httpx.Client(base_url=clients.server.url, verify=context) as client,
        pytest.raises(httpx.TransportError, match=r"(?i)certificate.?required"),
    ):
        client.get(path)


def test_two_leaf_certificates_are_refused(clients: Clients, tmp_path: Path) -> None:
    key, first, _ = certificate(tmp_path, "first")
    _, second, _ = certificate(tmp_path, "second")
    both = tmp_path / "both.crt"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with clients.server.client(replace(clients.allowed, key=key, cert=both)) as client:
        response = client.get("/v1/status")
    assert (response.status_code, response.json()) == (
        400,
        {"message": "tls: received more than one client certificate"},
    )


def test_authority_besides_the_leaf_is_ignored(clients: Clients, tmp_path: Path) -> None:
    both = tmp_path / "chain.crt"
    both.write_bytes(clients.allowed.cert.read_bytes() + clients.ca_files[1].read_bytes())
    with clients.server.client(replace(clients.allowed, cert=both)) as client:
        assert client.get("/v1/status").status_code == 200


def test_without_certificate_where_some_api_skips_authentication(run_server: Any, tmp_path: Path) -> None:
    opened = {"/v1/status": {"skip_auth": True}, "/v1/metrics": {"skip_auth": True}}
    server = run_server({"api": opened, "keys": [{"name": "secret-project"}]})
    with server.client() as client:
        assert client.put("/v1/key/generate/secret-project").status_code == 200
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    setup = {"keystore", "policies", "identities"}
    with httpx.Client(base_url=server.url, verify=context) as client:
        answer = client.get("/v1/status")
        assert (answer.status_code, answer.json().keys() & setup) == (200, set())
        assert "kes_cache_hits_total" in client.get("/v1/metrics").text
        assert "secret-project" not in client.get("/v1/metrics").text
        refused = client.get("/v1/ready")
        assert (refused.status_code, refused.json()) == (400, {"message": "tls: client certificate is required"})
        nobody = client.get("/v1/identity/self/describe")
        assert (nobody.status_code, nobody.json()) == (404, {"message": "identity does not exist"})
    with server.client(make_credentials(tmp_path, "unknown")) as client:
        answer = client.get("/v1/status")
        assert (answer.status_code, answer.json().keys() & setup) == (200, set())
    with server.client() as client:
        assert client.get("/v1/status").json().keys() >= setup
        assert 'timestamp_seconds{key="secret-project"}' in client.get("/v1/metrics").text


@pytest.fixture(scope="module")
def two_tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Credentials, Credentials]]:
    directory = tmp_path_factory.mktemp("tenants")
    first, second = make_credentials(directory, "first"), make_credentials(directory, "second")
    policies = {
        f"tenant-{name}": {
            "allow": [f"/v1/key/{api}/{name}-*" for api in ("create", "generate", "decrypt", "describe", "list")],
            "identities": [credentials.identity],
        }
        for name, credentials in (("a", first), ("b", second))
    }
    server = start_server(directory, {"policy": policies})
    yield server, first, second
    assert server.stop() == 0


def test_two_identities_with_two_policies_can_not_reach_each_other(
    two_tenants: tuple[Server, Credentials, Credentials],
) -> None:
    server, first, second = two_tenants
    with server.client(first) as a, server.client(second) as b:
        assert a.put("/v1/key/create/a-key").status_code == 200
        assert b.put("/v1/key/create/b-key").status_code == 200
        sealed = a.put("/v1/key/generate/a-key").json()
        assert b.put("/v1/key/decrypt/a-key", json={"ciphertext": sealed["ciphertext"]}).status_code == 403
        assert b.put("/v1/key/decrypt/b-key", json={"ciphertext": sealed["ciphertext"]}).status_code == 400
        assert a.get("/v1/key/list/a-*").json() == {"names": ["a-key"]}
        assert a.get("/v1/key/list/b-*").status_code == 403
        assert a.get("/v1/key/list/").status_code == 403
        me = a.get("/v1/identity/self/describe").json()
    assert me["identity"] == first.identity
    assert me["policy"] == "tenant-a"
    assert "/v1/key/create/a-*" in me["allow"]
    assert "admin" not in me


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/key/describe/a-/../b-key",
        "/v1/key/describe/a-%2F..%2Fb-key",
        "/v1/key/describe/a-%2f%2e%2e%2fb-key",
        "/v1/key/describe//b-key",
        "/v1/key/describe/b-key/",
        "/v1/key/describe/%62-key",
        "/v1/key/describe/b%2Dkey",
        "/v1/key/describe/a-%00b-key",
        "/v1/key%2Fdescribe/b-key",
        "/v1/key/./describe/b-key",
        "/v1/key/describe/a-?/../b-key",
        "/v1/key/describe/%EF%BC%A1-key",
        "/v1/key/describe/%FFb-key",
        "/v1/key/create/../describe/b-key",
        "//v1/key/describe/b-key",
        "/V1/key/describe/b-key",
        "/v1/key/describe/a-;/b-key",
    ],
)
def test_no_way_of_writing_a_path_reaches_another_tenants_key(
    two_tenants: tuple[Server, Credentials, Credentials], path: str, http2: bool
) -> None:
    server, first, second = two_tenants
    with server.client(second) as b:
        b.put("/v1/key/create/b-key")
    with server.client(first, http2=http2) as client:
        response = send_raw(client, "GET", path)
        assert response.status_code in {307, 400, 403, 404}
        assert "algorithm" not in response.text
        if response.status_code == 307:
            location = response.headers["location"]
            assert location.startswith("/")
            assert not location.startswith("//")
            assert client.get(location).status_code in {400, 403, 404}

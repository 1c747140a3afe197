"""A client has only the identity of its own private key, whatever other certificates it presents."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kes_core.identity import identity_of_public_key
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.server import Server, start_server

HEADER = "X-Tls-Client-Cert"
REQUIRED = "tls: client certificate is required"
MORE_THAN_ONE = "tls: received more than one client certificate"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_certificate(
    public_key: object,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
    subject: str = "attacker",
    issuer: str = "attacker",
) -> bytes:
    """Certify any public key, as an attacker with a signing key can."""
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public_key)  # type: ignore[arg-type] # one of the kinds that cryptography has
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


class Attacker:
    """An attacker with a private key and with the public data of others."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.identity = identity_of_public_key(self.key.public_key())
        self.key_file = directory / "attacker.key"
        self.key_file.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.as_ca = make_certificate(self.key.public_key(), self.key, is_ca=True)
        self.as_leaf = make_certificate(self.key.public_key(), self.key, is_ca=False)

    def forge(self, victim: Credentials) -> bytes:
        """Certify a victim's public key with the attacker's key."""
        return make_certificate(victim.api_key.private_key().public_key(), self.key, is_ca=False, subject="victim")

    def ask(
        self, server: Server, chain: Sequence[bytes], *, path: str = "/v1/key/create/stolen", header: str = ""
    ) -> httpx.Response:
        """Send a request over a connection whose handshake presents `chain`, the attacker's certificate first."""
        chain_file = self.directory / "chain.pem"
        chain_file.write_bytes(b"".join(chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(chain_file, self.key_file)
        headers = {HEADER: header} if header else {}
        with httpx.Client(base_url=server.url, verify=context, timeout=30.0) as client:
            return client.request("GET" if "describe" in path else "PUT", path, headers=headers)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("proxy"), "proxy")


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Attacker:
    return Attacker(tmp_path_factory.mktemp("attacker"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, proxy: Credentials, attacker: Attacker) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    make_credentials(directory, "server")
    files = {"key": str(directory / "server.key"), "cert": str(directory / "server.crt")}
    policy = {"some": {"allow": ["/v1/ready"], "identities": [attacker.identity]}}
    server = start_server(directory, {"tls": {**files, "proxy": {"identities": [proxy.identity]}}, "policy": policy})
    yield server
    assert server.stop() == 0


def test_certificate_of_the_admin_behind_an_own_one_does_not_make_an_admin(server: Server, attacker: Attacker) -> None:
    admin = server.admin.cert.read_bytes()
    forged = attacker.forge(server.admin)
    for chain, message in (
        ([attacker.as_ca, admin], REQUIRED),
        ([attacker.as_ca, forged], REQUIRED),
        ([attacker.as_ca, attacker.as_ca, admin], REQUIRED),
        ([attacker.as_ca], REQUIRED),
        ([attacker.as_leaf, admin], MORE_THAN_ONE),
        ([attacker.as_leaf, attacker.as_ca, forged], MORE_THAN_ONE),
    ):
        response = attacker.ask(server, chain)
        assert (response.status_code, response.json()) == (400, {"message": message})


def test_chain_to_a_ca_behind_an_own_certificate_is_no_obstacle(server: Server, attacker: Attacker) -> None:
    """The first certificate identifies the client; the CAs after it change nothing."""
    response = attacker.ask(server, [attacker.as_leaf, attacker.as_ca], path="/v1/identity/self/describe")
    assert response.status_code == 200
    assert response.json()["identity"] == attacker.identity


def test_certificate_of_a_proxy_behind_an_own_one_does_not_make_a_proxy(
    server: Server, attacker: Attacker, proxy: Credentials
) -> None:
    header = quote(server.admin.cert.read_text())
    for second in (proxy.cert.read_bytes(), attacker.forge(proxy)):
        response = attacker.ask(server, [attacker.as_ca, second], header=header)
        assert (response.status_code, response.json()) == (400, {"message": REQUIRED})


def test_chain_that_a_proxy_forwards_identifies_by_its_first_certificate(
    server: Server, attacker: Attacker, proxy: Credentials
) -> None:
    admin = server.admin.cert.read_bytes()
    with server.client(proxy) as client:
        for chain, message in (
            ([attacker.as_ca, admin], REQUIRED),
            ([attacker.as_ca, attacker.forge(server.admin)], REQUIRED),
            ([attacker.as_leaf, admin], MORE_THAN_ONE),
        ):
            header = quote(b"".join(chain))
            response = client.put("/v1/key/create/stolen", headers={HEADER: header})
            assert (response.status_code, response.json()) == (400, {"message": message})


def test_verified_certificate_identifies_and_no_other_one_beside_it(
    tmp_path: Path, attacker: Attacker, proxy: Credentials
) -> None:
    """`tls.auth: on`: a certificate from the CA that is itself a CA gives its holder no other identity."""
    root = ec.generate_private_key(ec.SECP256R1())
    root_pem = make_certificate(root.public_key(), root, is_ca=True, subject="root", issuer="root")
    (tmp_path / "ca.pem").write_bytes(root_pem)
    issued = {
        is_ca: make_certificate(attacker.key.public_key(), root, is_ca=is_ca, issuer="root") for is_ca in (True, False)
    }
    make_credentials(tmp_path, "server")
    tls = {
        "key": str(tmp_path / "server.key"),
        "cert": str(tmp_path / "server.crt"),
        "auth": "on",
        "ca": str(tmp_path / "ca.pem"),
        "proxy": {"identities": [proxy.identity]},
    }
    server = start_server(tmp_path, {"tls": tls})
    try:
        for first, message in ((issued[True], REQUIRED), (issued[False], MORE_THAN_ONE)):
            for second in (server.admin.cert.read_bytes(), attacker.forge(server.admin), proxy.cert.read_bytes()):
                response = attacker.ask(server, [first, second], header=quote(server.admin.cert.read_text()))
                assert (response.status_code, response.json()) == (400, {"message": message})
    finally:
        assert server.stop() == 0

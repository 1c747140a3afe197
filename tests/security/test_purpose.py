"""With `tls.auth: on`, the server accepts the same certificates directly and through a TLS proxy."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from kes_core.identity import identity_of_certificate, identity_of_public_key
from tests.helpers.certificates import key_usage, make_credentials
from tests.helpers.handshakes import certify, p256
from tests.helpers.programs import program
from tests.helpers.server import Server, start_server

HEADER = "X-Tls-Client-Cert"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


class Setting:
    """A server with `tls.auth: on` behind a proxy, and its trusted CA."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = p256()
        self.ca = certify(self.root.public_key(), self.root, subject="root", issuer="root", is_ca=True)
        self.between = p256()
        self.listed_key = p256()
        self.listed = certify(self.listed_key.public_key(), self.listed_key, subject="listed", issuer="listed")
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(b"".join(part.public_bytes(Encoding.PEM) for part in (self.ca, self.listed)))
        proxy_key = p256()
        proxy = self.issue(proxy_key)
        self.proxy = self.write("proxy", proxy_key, [proxy])
        make_credentials(directory, "server")
        tls = {
            "key": str(directory / "server.key"),
            "cert": str(directory / "server.crt"),
            "auth": "on",
            "ca": str(self.ca_file),
            "proxy": {"identities": [identity_of_certificate(proxy)]},
        }
        clients = [identity_of_public_key(key.public_key()) for key in (LEAF, self.listed_key)]
        policy = {"clients": {"allow": ["/v1/*"], "identities": clients}}
        self.server: Server = start_server(directory, {"tls": tls, "policy": policy})

    def issue(self, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> x509.Certificate:
        return certify(key.public_key(), self.root, issuer="root", extensions=extensions)

    def issue_below(self, *extensions: x509.ExtensionType) -> list[x509.Certificate]:
        """Issue a certificate with an intermediate CA that has `extensions`."""
        ca = certify(
            self.between.public_key(), self.root, subject="between", issuer="root", is_ca=True, extensions=extensions
        )
        return [certify(LEAF.public_key(), self.between, issuer="between"), ca]

    def write(self, name: str, key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]) -> ssl.SSLContext:
        """Return the TLS settings of a client."""
        key_file, chain_file = self.directory / f"{name}.key", self.directory / f"{name}.pem"
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        chain_file.write_bytes(pem(chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(chain_file, key_file)
        return context

    def accepted_directly(self, key: ec.EllipticCurvePrivateKey, chain: list[x509.Certificate]) -> bool:
        with httpx.Client(base_url=self.server.url, verify=self.write("client", key, chain)) as client:
            try:
                response = client.get("/v1/identity/self/describe")
            except httpx.TransportError:
                return False
        return self._is(response, chain)

    def accepted_through_the_proxy(self, chain: list[x509.Certificate]) -> bool:
        headers = {HEADER: quote(pem(chain))}
        with httpx.Client(base_url=self.server.url, verify=self.proxy) as client:
            response = client.get("/v1/identity/self/describe", headers=headers)
        if response.status_code == 403:
            return False
        return self._is(response, chain)

    @staticmethod
    def _is(response: httpx.Response, chain: list[x509.Certificate]) -> bool:
        assert response.status_code == 200, response.text
        assert response.json()["identity"] == identity_of_certificate(chain[0])
        return True


def pem(chain: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


LEAF = p256()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    setting = Setting(tmp_path_factory.mktemp("setting"))
    yield setting
    assert setting.server.stop() == 0
    assert not any("Traceback" in line for line in setting.server.errors)


@pytest.mark.parametrize(
    ("extensions", "accepted"),
    [
        ((), True),
        ((x509.ExtendedKeyUsage([CLIENT]),), True),
        ((x509.ExtendedKeyUsage([SERVER, CLIENT]),), True),
        ((x509.ExtendedKeyUsage([ANY]),), True),
        ((x509.ExtendedKeyUsage([SERVER]),), False),
        ((key_usage("digital_signature"),), True),
        ((key_usage("key_agreement"), x509.ExtendedKeyUsage([ANY])), True),
        ((key_usage("key_encipherment"),), False),
        ((key_usage("key_encipherment"), x509.ExtendedKeyUsage([ANY])), False),
    ],
)
def test_purpose_of_the_certificate(
    setting: Setting, extensions: tuple[x509.ExtensionType, ...], accepted: bool
) -> None:
    chain = [setting.issue(LEAF, *extensions)]
    assert setting.accepted_directly(LEAF, chain) is accepted
    assert setting.accepted_through_the_proxy(chain) is accepted


@pytest.mark.parametrize(("usage", "accepted"), [(CLIENT, True), (ANY, True), (SERVER, False)])
def test_purpose_of_a_ca_between(setting: Setting, usage: x509.ObjectIdentifier, accepted: bool) -> None:
    chain = setting.issue_below(x509.ExtendedKeyUsage([usage]))
    assert setting.accepted_directly(LEAF, chain) is accepted
    assert setting.accepted_through_the_proxy(chain) is accepted


def test_self_signed_certificate_that_is_listed(setting: Setting) -> None:
    assert setting.accepted_directly(setting.listed_key, [setting.listed])
    assert setting.accepted_through_the_proxy([setting.listed])


def test_certificate_without_extensions(setting: Setting) -> None:
    """The server accepts an X.509 v1 certificate, which OpenSSL makes if no extensions are given."""
    root, request = setting.directory / "root.key", setting.directory / "request.pem"
    root.write_bytes(setting.root.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key_file = setting.directory / "leaf.key"
    key_file.write_bytes(LEAF.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    ca_file = setting.directory / "root.pem"
    ca_file.write_bytes(setting.ca.public_bytes(Encoding.PEM))
    openssl = program("openssl", "openssl")
    subprocess.run([openssl, "req", "-new", "-key", key_file, "-subj", "/CN=old", "-out", request], check=True)
    made = subprocess.run(
        [openssl, "x509", "-req", "-in", request, "-CA", ca_file, "-CAkey", root, "-set_serial", "7"],
        check=True,
        capture_output=True,
    )
    chain = [x509.load_pem_x509_certificate(made.stdout)]
    assert chain[0].version == x509.Version.v1
    assert setting.accepted_directly(LEAF, chain)
    assert setting.accepted_through_the_proxy(chain)

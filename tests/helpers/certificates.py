"""Keys and certificates of clients and servers, good and bad ones."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kes_core.identity import APIKey
from kes_core.identity import make_certificate as make_own_certificate


@dataclass(frozen=True)
class Credentials:
    """A client's key and certificate, as files."""

    api_key: APIKey
    key: Path
    cert: Path

    @property
    def identity(self) -> str:
        return self.api_key.identity


def make_credentials(directory: Path, name: str = "client") -> Credentials:
    """Make an API key and write its private key and certificate into `directory`."""
    api_key = APIKey.generate()
    key_pem, cert_pem = api_key.certificate()
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    key.write_bytes(key_pem)
    cert.write_bytes(cert_pem)
    return Credentials(api_key, key, cert)


def make_server_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for the server into `directory`; return the paths of key and certificate."""
    credentials = make_credentials(directory, "server")
    certificate = make_own_certificate(
        credentials.api_key.private_key(),
        subject="localhost",
        valid_for=dt.timedelta(days=90),
        dns=["localhost"],
        ips=[ipaddress.ip_address("127.0.0.1")],
    )
    credentials.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    return credentials.key, credentials.cert


SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


LOCAL = ("localhost", "127.0.0.1")


Pair = tuple[Ed25519PrivateKey | rsa.RSAPrivateKey, x509.Certificate]


def make_certificate(
    subject: str,
    *,
    issuer: Pair | None = None,
    days: float = 90,
    begins: float = -1,
    names: Sequence[str] = LOCAL,
    usages: Sequence[x509.ObjectIdentifier] | None = SERVER,
    signs: bool | None = True,
    ca: bool = False,
    key: Ed25519PrivateKey | rsa.RSAPrivateKey | None = None,
) -> Pair:
    """Make a certificate, valid from `begins` to `days` from now, with the faults that the caller requests."""
    key = key or Ed25519PrivateKey.generate()
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer[1].subject if issuer else _name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=begins))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if signs is not None:
        wanted = {"digital_signature": signs, "key_cert_sign": ca, "key_agreement": True}
        builder = builder.add_extension(key_usage(*(name for name, is_set in wanted.items() if is_set)), critical=True)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    signer = issuer[0] if issuer else key
    return key, builder.sign(signer, SHA256() if isinstance(signer, rsa.RSAPrivateKey) else None)


def key_usage(*names: str) -> x509.KeyUsage:
    """Return the extension with these usages."""
    return x509.KeyUsage(**{usage: usage in names for usage in _USAGES})


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _name(subject: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write_pair(directory: Path, pair: Pair, *chain: Pair, name: str = "server") -> Mapping[str, str]:
    """Write a private key and its certificate, followed by those of `chain`; return the section `tls`."""
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    key.write_bytes(pair[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    cert.write_bytes(b"".join(part[1].public_bytes(Encoding.PEM) for part in (pair, *chain)))
    return {"key": str(key), "cert": str(cert)}

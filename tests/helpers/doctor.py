"""What the tests of the doctor share: configurations, certificates that are wrong in one way, and its findings."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kes_core.config import Config, load
from kes_core.findings import Finding
from kes_core.plugins import load_plugins
from tests.helpers.server import write_config

ADMIN = "c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d"
CLIENT = "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb"
PLUGINS = load_plugins()
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
LOCAL = ("localhost", "127.0.0.1")

Pair = tuple[Ed25519PrivateKey | rsa.RSAPrivateKey, x509.Certificate]


def config(directory: Path, **overrides: Any) -> Config:
    """Return a valid configuration."""
    return load(write_config(directory, ADMIN, overrides), plugins=PLUGINS).config


def levels(findings: Iterable[Finding]) -> set[str]:
    return {str(finding.level) for finding in findings}


def the(findings: Iterable[Finding], text: str) -> Finding:
    """Return the one finding whose message holds `text`."""
    found = list(findings)
    matching = [finding for finding in found if text in finding.message]
    assert len(matching) == 1, "\n".join(str(finding) for finding in found)
    return matching[0]


def none_is(findings: Iterable[Finding], *bad: str) -> None:
    """Check that no finding is of one of the levels `bad`."""
    wrong = [finding for finding in findings if finding.level in bad]
    assert not wrong, wrong


def make(
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
    """Make a certificate, valid from `begins` to `days` from now, as wrong as is asked for."""
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
        flags = dict.fromkeys(_USAGES, False) | {"digital_signature": signs, "key_cert_sign": ca, "key_agreement": True}
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    signer = issuer[0] if issuer else key
    return key, builder.sign(signer, SHA256() if isinstance(signer, rsa.RSAPrivateKey) else None)


_USAGES = (
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


def write(directory: Path, pair: Pair, *chain: Pair, name: str = "server") -> Mapping[str, str]:
    """Write a private key and its certificate, followed by those of `chain`; return the section `tls`."""
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    key.write_bytes(pair[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    cert.write_bytes(b"".join(part[1].public_bytes(Encoding.PEM) for part in (pair, *chain)))
    return {"key": str(key), "cert": str(cert)}


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read and write everything, and may not in here."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)

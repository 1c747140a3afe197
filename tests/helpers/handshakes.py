"""TLS handshakes inside one process, to measure the CPU time of the server's side alone.

The server's side is real: `TLSConnection` with a context of `make_context`, or a connection of the native runtime, up
to the `ProvenClient` that the server creates. Only the transport between the two sides is memory.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from kes_core.access.sender import ProvenClient
from kes_core.server.wire.tls_connection import TLSConnection
from kes_core.tls import ClientCertificate, ServerTLS, TLSError, TLSSettings, make_context
from tests.helpers.effort import choose
from tests.helpers.server import is_native

CHUNK = 64 * 1024
"""The number of bytes that the server receives at a time."""


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certify(
    public_key: Any,
    signer: Any,
    *,
    subject: str = "client",
    issuer: str = "client",
    is_ca: bool = False,
    extensions: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """Certify any public key with any private key."""
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    digest = None if isinstance(signer, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()
    return builder.sign(signer, digest)


def rsa_key(p: int, q: int, e: int) -> rsa.RSAPrivateKey:
    """Make an RSA key from two primes, with any exponent."""
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=d % (p - 1),
        dmq1=d % (q - 1),
        iqmp=pow(q, -1, p),
        public_numbers=rsa.RSAPublicNumbers(e, p * q),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@functools.cache
def large_rsa_key() -> rsa.RSAPrivateKey:
    """Return a key of 15,636 bits. Its primes are Mersenne primes, as a search for others takes minutes."""
    return rsa_key(2**4423 - 1, 2**11213 - 1, 65537)


@functools.cache
def large_exponent_key() -> rsa.RSAPrivateKey:
    """Return a key of 3072 bits with a public exponent of about the same length."""
    numbers = rsa.generate_private_key(65537, 3072).private_numbers()
    return rsa_key(numbers.p, numbers.q, numbers.d)


@dataclass(frozen=True)
class Presented:
    """A client's key and certificates, and its settings for the handshake."""

    key: Any
    chain: Sequence[x509.Certificate]
    version: int = SSL.TLS1_3_VERSION
    group: str = ""
    """The only group that the client offers; empty for OpenSSL's default."""


@dataclass(frozen=True)
class Outcome:
    """The result of a handshake for the server."""

    client: ProvenClient | None
    reason: str
    """Why the handshake failed."""
    cpu: float
    """The CPU time of the server's side, in seconds."""


def own(key: Any, **options: Any) -> Presented:
    """Present a self-signed certificate."""
    return Presented(key, [certify(key.public_key(), key)], **options)


def client_context(presented: Presented) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(presented.version)
    context.set_max_proto_version(presented.version)
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    leaf, *others = presented.chain
    context.use_certificate(leaf)
    context.use_privatekey(presented.key)
    for certificate in others:
        context.add_extra_chain_cert(certificate)
    return context


class _Transport(asyncio.Transport):
    """Keeps the bytes that the server sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Shaking:
    """The server's side of one handshake."""

    def __init__(self, context: Any, *, verifies_clients: bool) -> None:
        self.client: ProvenClient | None = None
        self.reason = ""
        self.transport = _Transport()
        self.tls = self._native(context) if is_native() else self._own(context, verifies_clients=verifies_clients)
        self.tls.connection_made(self.transport)

    def _native(self, tls: ServerTLS) -> Any:
        from tests.helpers.native_wire import shaking

        return shaking(tls, lambda client: setattr(self, "client", client), self._failed)

    def _own(self, context: SSL.Context, *, verifies_clients: bool) -> Any:
        return TLSConnection(
            context,
            verifies_clients=verifies_clients,
            on_connect=lambda _tls: True,
            on_established=self._established,
            on_failed=lambda _tls, reason: self._failed(reason),
            on_closed=lambda _tls: None,
        )

    def _established(self, tls: TLSConnection) -> None:
        try:
            self.client = ProvenClient.from_chain(tls.client_certificates(), verified=tls.verifies_clients)
        except TLSError as error:
            self._failed(str(error))

    def _failed(self, reason: str) -> None:
        self.reason = reason
        self.transport.closed = True


def shake_hands(server: Any, client: SSL.Context, *, verifies_clients: bool = False) -> Outcome:
    """Let a client and the server shake hands, and measure the server's side."""
    connection = SSL.Connection(client, None)
    connection.set_connect_state()
    began = time.process_time()
    shaking = Shaking(server, verifies_clients=verifies_clients)
    cpu = time.process_time() - began
    for _ in range(8):
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error:
            break
        while True:
            try:
                data = connection.bio_read(CHUNK)
            except SSL.WantReadError:
                break
            began = time.process_time()
            shaking.tls.data_received(data)
            cpu += time.process_time() - began
        if shaking.client is not None or shaking.transport.closed:
            break
        connection.bio_write(bytes(shaking.transport.sent))
        shaking.transport.sent.clear()
    return Outcome(shaking.client, shaking.reason, cpu)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


LEAF = p256()


ROOT = p256()


ROOT_CERTIFICATE = certify(ROOT.public_key(), ROOT, subject="root", issuer="root", is_ca=True)


class Contexts:
    """The server's TLS settings with `tls.auth: off` and `on`."""

    def __init__(self, directory: Path) -> None:
        key, cert, self.ca = directory / "server.key", directory / "server.crt", directory / "ca.pem"
        key.write_bytes(LEAF.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        cert.write_bytes(certify(LEAF.public_key(), LEAF).public_bytes(Encoding.PEM))
        self.ca.write_bytes(ROOT_CERTIFICATE.public_bytes(Encoding.PEM))
        verify = ClientCertificate.REQUIRE_AND_VERIFY
        self.off = _settings(TLSSettings(key, cert))
        self.on = _settings(TLSSettings(key, cert, client_certificate=verify, ca=self.ca))


def _settings(settings: TLSSettings) -> Any:
    """Return what the runtime that is tested makes of `settings`."""
    context = make_context(settings)
    if not is_native():
        return context
    from kes_native.runtime import NativeRuntime

    return NativeRuntime.prepare_tls(settings, ServerTLS(context, settings.client_certificate.verified))


def cost(server: Any, presented: Presented) -> float:
    """Return the server's CPU time for a handshake, in seconds."""
    client = client_context(presented)
    return statistics.median(shake_hands(server, client).cpu for _ in range(choose(5, 15)))

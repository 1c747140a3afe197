"""A connection uses a bounded amount of memory for its client's certificates, and frees it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.helpers.effort import choose
from tests.helpers.handshakes import certify, p256
from tests.helpers.server import Server, start_server

CONNECTIONS = choose(60, 200)
REQUEST = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMIT = 128 * 1024
"""The most bytes that the largest chain may cost in addition to an ordinary certificate."""
ROUNDS = 3


pytestmark = pytest.mark.nightly


def context(directory: Path, name: str, chain: list[x509.Certificate]) -> ssl.SSLContext:
    key_file, chain_file = directory / "client.key", directory / f"{name}.pem"
    key_file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    chain_file.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(chain_file, key_file)
    return context


KEY = p256()


def largest_chain() -> list[x509.Certificate]:
    """Return a chain of nearly the largest allowed size, with the most names that the server keeps."""
    names = [x509.DNSName(f"{number:05}-host.example") for number in range(256)]
    signer = ec.generate_private_key(ec.SECP521R1())
    leaf = certify(KEY.public_key(), signer, issuer="ca", extensions=[x509.SubjectAlternativeName(names)])
    other = rsa.generate_private_key(65537, 2048)
    padding = [x509.DNSName("x" * 60 + ".example") for _ in range(8)]
    extensions = [x509.SubjectAlternativeName(padding)]
    cas = [certify(other.public_key(), other, issuer="ca", is_ca=True, extensions=extensions) for _ in range(6)]
    return [leaf, *cas]


def resident(server: Server) -> int:
    """Return the server's resident memory in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def hold(server: Server, tls: ssl.SSLContext) -> int:
    """Open connections and return the server's memory while they are open."""
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            raw = stack.enter_context(socket.create_connection((server.host, server.port), timeout=30))
            connection = stack.enter_context(tls.wrap_socket(raw))
            connection.sendall(REQUEST)
            assert connection.recv(12) == b"HTTP/1.1 200"
        return resident(server)


def test_chains_of_strangers_cost_little_memory_and_give_it_back(tmp_path: Path) -> None:
    chain = largest_chain()
    size = sum(len(certificate.public_bytes(Encoding.DER)) for certificate in chain)
    assert 13_000 < size < 16_000
    server = start_server(tmp_path)
    try:
        ordinary = [hold(server, context(tmp_path, "ordinary", [certify(KEY.public_key(), KEY)])) for _ in range(2)][-1]
        large = [hold(server, context(tmp_path, "large", chain)) for _ in range(ROUNDS)]
        assert large[0] - ordinary < CONNECTIONS * LIMIT
        # If the server freed nothing, the two rounds after the first would add twice this difference.
        assert large[-1] - large[0] < large[0] - ordinary
    finally:
        assert server.stop() == 0

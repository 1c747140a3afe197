"""A stranger's handshake has a bounded cost in processor time, bytes and certificates."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from OpenSSL import SSL

from kes_core.access.authorities import Authorities
from kes_core.identity import APIKey, identity_of_public_key
from tests.helpers.handshakes import (
    LEAF,
    ROOT,
    Contexts,
    Presented,
    Shaking,
    certify,
    client_context,
    cost,
    large_exponent_key,
    large_rsa_key,
    own,
    p256,
    rsa_key,
    shake_hands,
)
from tests.helpers.server import is_native

pytestmark = pytest.mark.nightly

LIMIT = 10.0
"""A stranger's handshake may cost this many times an ordinary one."""
TLS12 = SSL.TLS1_2_VERSION


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


def issued(key: ec.EllipticCurvePrivateKey, **options: object) -> Presented:
    """Present a certificate from the CA in `tls.ca`."""
    return Presented(key, [certify(key.public_key(), ROOT, issuer="root")], **options)  # type: ignore[arg-type] # those of Presented


def many_names(count: int) -> Presented:
    names = x509.SubjectAlternativeName([x509.DNSName(f"{number:x}") for number in range(count)])
    return Presented(LEAF, [certify(LEAF.public_key(), LEAF, extensions=[names])])


def ladder(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, length: int) -> Presented:
    """Present a leaf and CAs, each issued by the next, all with one key."""
    leaf = certify(LEAF.public_key(), key, issuer="ca 0")
    cas = [
        certify(key.public_key(), key, subject=f"ca {number}", issuer=f"ca {number + 1}", is_ca=True)
        for number in range(length)
    ]
    return Presented(LEAF, [leaf, *cas])


def matching(key: ec.EllipticCurvePrivateKey, length: int) -> Presented:
    """Present certificates whose names allow each of them, and the CA in `tls.ca`, to be the issuer of every other."""
    cas = [certify(key.public_key(), key, subject="root", issuer="root", is_ca=True) for _ in range(length)]
    return Presented(LEAF, [certify(LEAF.public_key(), key, issuer="root"), *cas])


def below_a_ca(key: rsa.RSAPrivateKey) -> Presented:
    """Present a leaf, and its issuer's certificate for `key` from the CA in `tls.ca`."""
    ca = certify(key.public_key(), ROOT, subject="between", issuer="root", is_ca=True)
    return Presented(LEAF, [certify(LEAF.public_key(), key, issuer="between"), ca])


HOSTILE: dict[str, Callable[[], Presented]] = {
    "leaf and 70 CAs with large exponents": lambda: ladder(large_exponent_key(), 70),
    "leaf and 6 CAs with large exponents": lambda: ladder(large_exponent_key(), 6),
    "leaf and 1 CA with a large exponent": lambda: ladder(large_exponent_key(), 1),
    "RSA leaf with a large exponent": lambda: own(large_exponent_key()),
    "RSA leaf with a large exponent, TLS 1.2": lambda: own(large_exponent_key(), version=TLS12),
    "RSA leaf with a large modulus": lambda: own(large_rsa_key()),
    "40 names that match": lambda: matching(LEAF, 40),
    "7 names that match": lambda: matching(LEAF, 7),
    "P-521 everywhere": lambda: ladder(ec.generate_private_key(ec.SECP521R1()), 7),
    "P-521 leaf": lambda: own(ec.generate_private_key(ec.SECP521R1())),
    "RSA leaf of 7,470 bits": lambda: own(rsa_key(2**4253 - 1, 2**3217 - 1, 65537)),
    "certificate of 30 KB": lambda: many_names(5000),
    "as many names as fit": lambda: many_names(1600),
    "CA with a large exponent below one of tls.ca": lambda: below_a_ca(large_exponent_key()),
    "CA with a large modulus below one of tls.ca": lambda: below_a_ca(large_rsa_key()),
}


@pytest.mark.parametrize("auth", ["off", "on"])
def test_handshake_of_a_stranger_costs_at_most_ten_ordinary_ones(contexts: Contexts, auth: str) -> None:
    server = getattr(contexts, auth)
    ordinary = min(
        cost(server, issued(p256(), version=version)) for version in (SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION)
    )
    costs = {what: cost(server, make()) / ordinary for what, make in HOSTILE.items()}
    assert {what: round(times, 1) for what, times in costs.items() if times > LIMIT} == {}


GROUP_CONFIG = """\
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = groups
[groups]
Groups = {}
"""
MEASURE = """\
import sys
from pathlib import Path
from tests.helpers.handshakes import Contexts, cost, own, p256
print(cost(Contexts(Path(sys.argv[1])).off, own(p256())))
"""


def test_key_exchange_of_the_clients_choice_is_cheap_enough(tmp_path: Path) -> None:
    """The most expensive choice is ffdhe3072: OpenSSL supports larger groups only if configured to."""
    costs = []
    for number, group in enumerate(("X25519", "P-521", "X448", "ffdhe3072")):
        config = tmp_path / f"{number}.cnf"
        config.write_text(GROUP_CONFIG.format(group))
        command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(tmp_path)]
        environment = {**os.environ, "OPENSSL_CONF": str(config)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        costs.append(float(done.stdout))
    assert max(costs) <= LIMIT * costs[0]


REFUSED: dict[str, tuple[Callable[[], Presented], str]] = {
    "RSA exponent": (lambda: own(large_exponent_key()), "the public exponent of its RSA key has more than 32 bits"),
    "RSA modulus": (lambda: own(large_rsa_key()), "its RSA key has 15636 bits; 1024 to 8192 are allowed"),
    "size": (lambda: many_names(1900), "bytes; at most 8,192 are allowed"),
    "chain": (lambda: ladder(LEAF, 8), "the client presented 9 certificates; at most 8 are allowed"),
    "bytes": (lambda: ladder(large_exponent_key(), 70), "the client's handshake has more than 16,384 bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusal_is_explained(contexts: Contexts, what: str) -> None:
    make, reason = REFUSED[what]
    outcome = shake_hands(contexts.off, client_context(make()))
    assert outcome.client is None
    assert reason in outcome.reason


def test_key_of_a_kind_that_tls_does_not_know_is_refused(contexts: Contexts) -> None:
    """OpenSSL's clients present no such key, but a proxy may forward it."""
    for key, reason in (
        (dsa.generate_private_key(2048), "its key has a type that TLS can't use"),
        (ec.generate_private_key(ec.SECP256K1()), "its key is on the curve secp256k1; P-256, P-384 and P-521"),
    ):
        problem = Authorities(contexts.ca).problem([certify(key.public_key(), ROOT, issuer="root")])
        assert reason in problem


@pytest.mark.parametrize("make", [lambda: below_a_ca(large_exponent_key()), lambda: below_a_ca(large_rsa_key())])
def test_ca_between_is_bound_by_the_same_rules(contexts: Contexts, make: Callable[[], Presented]) -> None:
    """The rules hold in a handshake, and in a chain that a TLS proxy forwards."""
    presented = make()
    outcome = shake_hands(contexts.on, client_context(presented), verifies_clients=True)
    assert "its RSA key" in outcome.reason
    assert "its RSA key" in Authorities(contexts.ca).problem(presented.chain)


@functools.cache
def ordinary_keys() -> Sequence[object]:
    return [
        APIKey.generate().private_key(),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        *(ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
        *(rsa.generate_private_key(65537, bits) for bits in (1024, 2048, 3072, 4096)),
        rsa.generate_private_key(3, 2048),
    ]


@pytest.mark.parametrize("version", [SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION])
def test_ordinary_clients_get_in(contexts: Contexts, version: int) -> None:
    for key in ordinary_keys():
        identity = identity_of_public_key(key.public_key())  # type: ignore[attr-defined] # every private key has it
        outcome = shake_hands(contexts.off, client_context(own(key, version=version)))
        assert outcome.client is not None, outcome.reason
        assert (outcome.client.identity, outcome.client.error) == (identity, "")


def test_ordinary_client_with_a_chain_gets_in(contexts: Contexts) -> None:
    """The server accepts a chain with three RSA-4096 CAs between the client and the CA in `tls.ca`."""
    key = rsa.generate_private_key(65537, 4096)
    chain = [certify(key.public_key(), ROOT, subject="ca 3", issuer="root", is_ca=True)]
    for number in (2, 1):
        chain.insert(0, certify(key.public_key(), key, subject=f"ca {number}", issuer=f"ca {number + 1}", is_ca=True))
    chain.insert(0, certify(key.public_key(), key, issuer="ca 1"))
    for server, verified in ((contexts.off, False), (contexts.on, True)):
        outcome = shake_hands(server, client_context(Presented(key, chain)), verifies_clients=verified)
        assert outcome.client is not None, outcome.reason
        assert outcome.client.identity == identity_of_public_key(key.public_key())


def test_more_names_than_are_kept_do_not_identify(contexts: Contexts) -> None:
    for count, error in ((256, ""), (257, "tls: client certificate has more than 256 names")):
        outcome = shake_hands(contexts.off, client_context(many_names(count)))
        assert outcome.client is not None, outcome.reason
        assert outcome.client.error == error
        assert (outcome.client.facts is None) == bool(error)


def finish(contexts: Contexts, *, chunk: int, data: bytes = b"") -> Shaking:
    """Make a handshake with the client's bytes in pieces of `chunk` bytes, and send `data` right after it."""
    client = SSL.Connection(client_context(own(p256())), None)
    client.set_connect_state()
    shaking = Shaking(contexts.off, verifies_clients=False)
    for _ in range(4):
        try:
            client.do_handshake()
        except SSL.WantReadError:
            pass
        else:
            if data:
                client.send(data)
        sent = b""
        while True:
            try:
                sent += client.bio_read(1 << 20)
            except SSL.WantReadError:
                break
        for start in range(0, len(sent), chunk):
            shaking.tls.data_received(sent[start : start + chunk])
        if shaking.client is not None or shaking.reason:
            break
        client.bio_write(bytes(shaking.transport.sent))
        shaking.transport.sent.clear()
    return shaking


def test_request_behind_the_handshake_is_no_part_of_it(contexts: Contexts) -> None:
    data = b"x" * 15_000
    shaking = finish(contexts, chunk=1 << 20, data=data)
    assert shaking.client is not None, shaking.reason
    if not is_native():  # which gives the data to HTTP at once
        assert asyncio.run(shaking.tls.read()) == data


def test_handshake_in_many_small_pieces_is_refused(contexts: Contexts) -> None:
    """Each piece, even a small one, costs a turn of the event loop."""
    assert finish(contexts, chunk=200).client is not None
    shaking = finish(contexts, chunk=1)
    assert shaking.client is None
    assert shaking.reason == "the client sends its handshake in more than 128 pieces"

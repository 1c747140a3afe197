from __future__ import annotations

import datetime as dt
import ipaddress
import pickle
import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from kes_core.identity import (
    APIKey,
    IdentityError,
    certificate_facts,
    identity_of_certificate,
    identity_of_chain,
    identity_of_public_key,
    load_certificates,
    make_certificate,
    private_key_pem,
)
from tests.helpers.vectors import vectors

API_KEYS = vectors("api_keys")


@pytest.mark.parametrize("case", API_KEYS["cases"], ids=[repr(case["api_key"]) for case in API_KEYS["cases"]])
def test_api_keys_of_the_vectors(case: dict[str, Any]) -> None:
    if case.get("should_fail"):
        with pytest.raises(ValueError, match="not an API key") as caught:
            APIKey.parse(case["api_key"])
        assert len(case["api_key"]) < 10 or case["api_key"][-10:] not in str(caught.value)
    else:
        key = APIKey.parse(case["api_key"])
        assert key.identity == case["identity"]
        assert str(key) == case.get("canonical", case["api_key"])


CERTIFICATES = API_KEYS["certificates"]


@pytest.mark.parametrize("case", CERTIFICATES, ids=[case["what"] for case in CERTIFICATES])
def test_identities_of_the_certificates_of_the_vectors(case: dict[str, Any]) -> None:
    certificate = x509.load_pem_x509_certificate(case["pem"].encode())
    assert identity_of_certificate(certificate) == case["identity"]
    if case["is_ca"]:
        with pytest.raises(IdentityError, match="tls: client certificate is required"):
            identity_of_chain([certificate])
    else:
        assert identity_of_chain([certificate]) == (case["identity"], certificate)


def test_one_leaf_certificate_is_needed() -> None:
    leaves = [x509.load_pem_x509_certificate(case["pem"].encode()) for case in CERTIFICATES if not case["is_ca"]]
    with pytest.raises(IdentityError, match="tls: received more than one client certificate"):
        identity_of_chain(leaves[:2])
    with pytest.raises(IdentityError, match="tls: client certificate is required"):
        identity_of_chain([])


@given(st.binary(max_size=300))
def test_what_looks_like_an_api_key_is_one_or_refused(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        APIKey.parse(text)
    except ValueError as error:
        assert str(error).startswith("not an API key")  # noqa: PT017 # either may happen


def test_api_keys_do_not_show_themselves() -> None:
    key = APIKey.generate()
    assert str(key)[10:20] not in repr(key)
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(key)
    assert APIKey.parse(str(key)) == key
    assert APIKey.generate() != key


def test_certificate_of_an_api_key() -> None:
    """Protocol section 1: common name, 90 days, digital signature, client authentication, 128-bit serial."""
    key = APIKey.generate()
    key_pem, cert_pem = key.certificate()
    certificate = x509.load_pem_x509_certificate(cert_pem)
    assert identity_of_certificate(certificate) == key.identity
    private_key = load_pem_private_key(key_pem, None)
    assert identity_of_public_key(private_key.public_key()) == key.identity
    assert certificate.subject.rfc4514_string() == f"CN={key.identity}"
    assert certificate.issuer == certificate.subject
    remaining = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=89, hours=23) < remaining <= dt.timedelta(days=90)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.serial_number.bit_length() <= 128
    another = x509.load_pem_x509_certificate(key.certificate()[1])
    assert another.serial_number != certificate.serial_number
    certificate.verify_directly_issued_by(certificate)


def test_certificate_for_a_server() -> None:
    key = Ed25519PrivateKey.generate()
    made = make_certificate(
        key,
        subject="localhost",
        valid_for=dt.timedelta(hours=720),
        dns=["localhost"],
        ips=[ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")],
    )
    facts = certificate_facts(made, verified=True)
    assert (facts.subject, facts.issuer, facts.verified) == ("CN=localhost", "CN=localhost", True)
    assert facts.dns_names == ("localhost",)
    assert facts.ip_addresses == ("127.0.0.1", "::1")
    extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_private_keys_are_encrypted_on_demand() -> None:
    key = Ed25519PrivateKey.generate()
    pem = private_key_pem(key, "correct horse")
    assert b"ENCRYPTED" in pem
    with pytest.raises((TypeError, ValueError)):
        load_pem_private_key(pem, None)
    opened = load_pem_private_key(pem, b"correct horse")
    assert identity_of_public_key(opened.public_key()) == identity_of_public_key(key.public_key())


@given(st.data())
def test_a_damaged_certificate_is_an_identity_or_refused(data: st.DataObject) -> None:
    """A damaged certificate gives an identity or an IdentityError, and no other exception."""
    der = bytearray(x509.load_pem_x509_certificate(CERTIFICATES[0]["pem"].encode()).public_bytes(Encoding.DER))
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    pem = ssl.DER_cert_to_PEM_cert(bytes(der))
    try:
        identity, leaf = identity_of_chain(load_certificates(pem.encode()))
        assert len(identity) == 64
        assert certificate_facts(leaf, verified=False).serial_number
    except IdentityError:
        pass

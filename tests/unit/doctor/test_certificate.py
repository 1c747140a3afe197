"""The doctor finds each fault of certificates and keys."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from kes_core.doctor.certificate import examine_certificate, examine_client_cas, examine_clock
from kes_core.findings import Finding
from tests.helpers.certificates import Pair, make_certificate, write_pair
from tests.helpers.command import kes
from tests.helpers.doctor import as_nobody, assert_none_at, config, finding_with, levels


def examine(directory: Path, pair: Pair, *chain: Pair, address: str = "127.0.0.1:7373") -> list[Finding]:
    tls = write_pair(directory, pair, *chain)
    return list(examine_certificate(config(directory, tls=dict(tls), address=address)))


@pytest.fixture(scope="module")
def ca() -> Pair:
    return make_certificate("A CA", ca=True, names=(), usages=None)


def test_certificate_that_is_as_it_should_be(tmp_path: Path, ca: Pair) -> None:
    middle = make_certificate("Between", issuer=ca, ca=True, names=(), usages=None)
    found = examine(tmp_path, make_certificate("kes", issuer=middle), middle)
    assert levels(found) == {"ok"}
    finding_with(found, "is valid until")
    finding_with(found, "clients can connect to localhost, 127.0.0.1")


def test_dates(tmp_path: Path) -> None:
    expired = finding_with(examine(tmp_path, make_certificate("kes", begins=-9, days=-1)), "has expired on")
    assert expired.level == "error"
    assert "kill -HUP" in expired.cure
    future = finding_with(examine(tmp_path, make_certificate("kes", begins=2)), "is valid only from")
    assert future.level == "error"
    assert "clock" in future.cure
    soon = finding_with(examine(tmp_path, make_certificate("kes", days=3.5)), "in 3 days")
    assert (soon.level, "expires on" in soon.message) == ("warning", True)
    assert finding_with(examine(tmp_path, make_certificate("kes", days=0.26)), "in 6 hours").level == "warning"
    assert_none_at(examine(tmp_path, make_certificate("kes", days=15)), "warning", "error")


@pytest.mark.parametrize("days", [3.5, -1])
def test_dates_hide_nothing(tmp_path: Path, days: float) -> None:
    """A finding about dates does not hide a private key that is missing or belongs to another certificate."""
    pair = make_certificate("kes", begins=-9, days=days)
    assert levels(examine(tmp_path, pair)) >= {"error" if days < 0 else "warning"}
    assert len([finding for finding in examine(tmp_path, pair) if "expire" in finding.message]) == 1
    tls = write_pair(tmp_path, make_certificate("other"), name="other")
    write_pair(tmp_path, pair)
    mine = dict(write_pair(tmp_path, pair)) | {"key": dict(tls)["key"]}
    assert finding_with(list(examine_certificate(config(tmp_path, tls=mine))), "does not belong").level == "error"
    missing = mine | {"key": str(tmp_path / "none.key")}
    assert finding_with(list(examine_certificate(config(tmp_path, tls=missing))), "none.key").level == "error"


def test_names(tmp_path: Path) -> None:
    none = finding_with(examine(tmp_path, make_certificate("localhost", names=())), "no subject alternative name")
    assert none.level == "error"
    assert "kes identity new" in none.cure
    assert "--ip 127.0.0.1" in none.cure
    other = finding_with(
        examine(tmp_path, make_certificate("kes"), address="10.1.2.3:7373"), "10.1.2.3, is not among its names"
    )
    assert other.level == "note"
    assert "--ip 10.1.2.3" in other.cure
    finding_with(
        examine(tmp_path, make_certificate("kes"), address="kes.example.com:7373"),
        "the host of 'address', kes.example.com",
    )
    for names in (["kes.example.com"], ["*.example.com"]):
        found = examine(tmp_path, make_certificate("kes", names=names), address="kes.example.com:7373")
        assert not [finding for finding in found if "address" in finding.message]
    for address in ("0.0.0.0:7373", ":7373", "[::]:7373"):
        finding_with(
            examine(tmp_path, make_certificate("kes"), address=address), "for this machine only (localhost, 127.0.0.1)"
        )
        found = examine(tmp_path, make_certificate("kes", names=["kes.example.com"]), address=address)
        assert not [finding for finding in found if "alone" in finding.message]


def test_usages(tmp_path: Path) -> None:
    clients_only = make_certificate("kes", usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert finding_with(examine(tmp_path, clients_only), "lacks 'server authentication'").level == "error"
    assert (
        finding_with(examine(tmp_path, make_certificate("kes", signs=False)), "lacks 'digital signature'").level
        == "error"
    )
    assert_none_at(
        examine(tmp_path, make_certificate("kes", usages=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])),
        "warning",
        "error",
    )
    assert_none_at(examine(tmp_path, make_certificate("kes", usages=None, signs=None)), "warning", "error")


def test_chain(tmp_path: Path, ca: Pair) -> None:
    middle = make_certificate("Between", issuer=ca, ca=True, names=(), usages=None)
    server = make_certificate("kes", issuer=middle)
    alone = finding_with(examine(tmp_path, server), "no intermediate certificate follows it")
    assert (alone.level, "'CN=Between'" in alone.message) == ("note", True)
    broken = finding_with(examine(tmp_path, server, ca), "the chain is broken: 'CN=kes' is not issued by 'CN=A CA'")
    assert broken.level == "error"
    self_signed = finding_with(examine(tmp_path, make_certificate("kes")), "self-signed")
    assert self_signed.level == "note"
    assert f"MINIO_KMS_KES_CAPATH={tmp_path / 'server.crt'}" in self_signed.cure


def test_files(tmp_path: Path, ca: Pair) -> None:
    server = make_certificate("kes", issuer=ca)
    tls = dict(write_pair(tmp_path, server, ca))
    write_pair(tmp_path, ca, server, name="turned")
    turned = list(examine_certificate(config(tmp_path, tls={**tls, "cert": str(tmp_path / "turned.crt")})))
    assert finding_with(turned, "in the wrong order").level == "error"
    assert levels(finding for finding in turned if "wrong order" not in finding.message) == {"ok"}
    write_pair(tmp_path, make_certificate("other"), name="other")
    other = list(examine_certificate(config(tmp_path, tls={**tls, "key": str(tmp_path / "other.key")})))
    assert "different pairs" in finding_with(other, "does not belong to the certificate").cure
    gone = list(examine_certificate(config(tmp_path, tls={**tls, "key": str(tmp_path / "none.key")})))
    assert finding_with(gone, "can't be read").cure.startswith("check tls.key")
    (tmp_path / "text.crt").write_text("text")
    (text,) = examine_certificate(config(tmp_path, tls={**tls, "cert": str(tmp_path / "text.crt")}))
    assert "contains no valid PEM certificate" in text.message
    swapped = {**tls, "key": tls["cert"], "cert": tls["key"]}
    (found,) = examine_certificate(config(tmp_path, tls=swapped))
    assert found.message.startswith("tls.key and tls.cert are swapped: ")
    assert found.cure == f"write tls.key: {tls['key']} and tls.cert: {tls['cert']}"
    both = {name: str(tmp_path / f"none.{name}") for name in ("key", "cert")}
    (found,) = examine_certificate(config(tmp_path, tls=both))
    assert found.message.startswith("neither the certificate ")
    both["cert"] = str(tmp_path / "text.crt")
    certificate, key = examine_certificate(config(tmp_path, tls=both))
    assert "contains no valid PEM certificate" in certificate.message
    assert "none.key' can't be read" in key.message
    (tmp_path / "server.key").chmod(0o644)
    exposed = finding_with(examine_certificate(config(tmp_path, tls=tls)), "all users of this machine")
    assert (exposed.level, exposed.cure) == ("warning", f"chmod 0600 {tmp_path / 'server.key'}")


def test_cure_for_a_missing_certificate_overwrites_nothing(tmp_path: Path, ca: Pair) -> None:
    """The printed command, run unchanged, keeps the existing private key."""
    tls = dict(write_pair(tmp_path, make_certificate("kes", issuer=ca), ca))
    key = Path(tls["key"]).read_bytes()
    (missing,) = examine_certificate(config(tmp_path, tls={**tls, "cert": str(tmp_path / "no cert.crt")}))
    assert missing.level == "error"
    assert missing.cure.startswith("check tls.cert; ")
    command = missing.cure.partition(": ")[2].partition(" (")[0]
    kes(*shlex.split(command)[1:], cwd=tmp_path)
    assert Path(tls["key"]).read_bytes() == key
    made = {"key": str(tmp_path / "server-new.key"), "cert": str(tmp_path / "no cert-new.crt")}
    assert_none_at(examine_certificate(config(tmp_path, tls=made)), "warning", "error")
    neither = {"key": str(tmp_path / "none.key"), "cert": str(tmp_path / "none.crt")}
    (missing,) = examine_certificate(config(tmp_path, tls=neither))
    assert missing.cure.startswith("check tls.cert and tls.key; ")
    kes(*shlex.split(missing.cure.partition(": ")[2])[1:], cwd=tmp_path)
    assert_none_at(examine_certificate(config(tmp_path, tls=neither)), "warning", "error")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may list. pytest's own directories are only for their owner."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.root
@pytest.mark.parametrize("file", ["key", "cert"])
def test_files_of_another_user(public: Path, ca: Pair, file: str) -> None:
    tls = dict(write_pair(public, make_certificate("kes", issuer=ca), ca))
    settings = config(public, tls=tls)
    for each in ("key", "cert"):
        Path(tls[each]).chmod(0 if each == file else 0o644)
    with as_nobody():
        found = finding_with(examine_certificate(settings), "Permission denied")
    assert found.cure == f"let the user of the server read it: chown or chmod {tls[file]}"


def test_key_that_is_too_weak_for_openssl(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    found = finding_with(examine(tmp_path, make_certificate("kes", key=weak)), "OpenSSL rejects the certificate")
    assert (found.level, "too small" in found.message) == ("error", True)


def client_cas(directory: Path, **tls: Any) -> list[Finding]:
    pair = write_pair(directory, make_certificate("kes"))
    return list(examine_client_cas(config(directory, tls={**pair, **tls})))


def test_client_cas(tmp_path: Path, ca: Pair) -> None:
    assert client_cas(tmp_path) == []
    write_pair(tmp_path, ca, name="ca")
    file = str(tmp_path / "ca.crt")
    assert levels(client_cas(tmp_path, auth="on", ca=file)) == {"ok"}
    assert (
        finding_with(client_cas(tmp_path, auth="off", ca=file), "client certificates are not verified").level == "note"
    )
    assert finding_with(client_cas(tmp_path, auth="on"), "without tls.ca").level == "note"
    write_pair(tmp_path, make_certificate("Old CA", ca=True, begins=-9, days=-1), name="old")
    assert (
        finding_with(client_cas(tmp_path, auth="on", ca=str(tmp_path / "old.crt")), "has expired on").level == "error"
    )
    write_pair(tmp_path, make_certificate("Next week", ca=True, days=7.5), name="soon")
    assert finding_with(client_cas(tmp_path, auth="on", ca=str(tmp_path / "soon.crt")), "in 7 days").level == "warning"
    write_pair(tmp_path, make_certificate("A client"), name="client")
    client = finding_with(client_cas(tmp_path, auth="on", ca=str(tmp_path / "client.crt")), "it verifies only itself")
    assert client.level == "warning"
    (tmp_path / "text").write_text("text")
    assert finding_with(client_cas(tmp_path, auth="on", ca=str(tmp_path / "text")), "no valid PEM").level == "error"


def test_directory_of_client_cas(tmp_path: Path, ca: Pair) -> None:
    folder = tmp_path / "cas"
    folder.mkdir()
    assert finding_with(client_cas(tmp_path, auth="on", ca=str(folder)), "no file in the directory").level == "error"
    (folder / "README").write_text("The CAs of this site.")
    write_pair(folder, ca, name="ca")
    (found,) = client_cas(tmp_path, auth="on", ca=str(folder))
    assert (found.level, "'CN=A CA'" in found.message) == ("ok", True)


def test_clock(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    new.touch()
    assert list(examine_clock([old, new, tmp_path / "none"])) == []
    tomorrow = time.time() + 86400
    os.utime(new, (tomorrow, tomorrow))
    (found,) = examine_clock([old, new])
    assert (found.level, found.subject) == ("warning", "clock")
    assert str(new) in found.message
    assert "timedatectl" in found.cure

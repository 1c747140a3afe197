"""Check the server's certificate, the CAs for clients, and the clock."""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from kes_core.access.authorities import Authorities
from kes_core.config.files import make_server_tls
from kes_core.findings import Finding
from kes_core.protocol import EXPIRY_NOTICE
from kes_core.tls import TLSError, check_private_key, load_certificates, load_client_cas
from kes_core.units import format_date, humanize

if TYPE_CHECKING:
    from kes_core.config import Config

__all__ = ["examine_certificate", "examine_client_cas", "examine_clock"]

_CLOCK_TOLERANCE: Final = dt.timedelta(minutes=1)
_CA_CURE: Final = "set tls.ca to a PEM file of CAs, or to a directory of such files"
_DIFFERENT: Final = "does not belong"
_SWAPPED: Final = "are tls.key and tls.cert swapped?"


def examine_certificate(config: Config, *, now: dt.datetime | None = None) -> Iterator[Finding]:
    """Check the server's certificate, as clients do, and its private key."""
    now = now or dt.datetime.now(dt.UTC)
    try:
        chain = load_certificates(Path(config.tls.cert))
    except TLSError as error:
        yield from _without_certificate(config, str(error))
        return
    is_reversed = len(chain) > 1 and not _is_issued_by(*chain[:2]) and _is_issued_by(chain[1], chain[0])
    if is_reversed:  # that is all that is wrong: the rest is said of the server's certificate, not of its CA's
        chain = [chain[1], chain[0], *chain[2:]]
        yield Finding.error(
            "certificate",
            f"the chain in {config.tls.cert!r} is in the wrong order",
            "put the server's certificate first, and each issuer after the certificate that it issued",
        )
    leaf = chain[0]
    yield from _check_dates(leaf, config.tls.cert, now)
    try:
        make_server_tls(config)
    except TLSError as error:
        is_elsewhere = "tls.ca" in str(error) or (is_reversed and _DIFFERENT in str(error))
        if not is_elsewhere:
            yield Finding.error("certificate", str(error), _key_pair_cure(config, str(error)))
    except SSL.Error as error:
        reason = "; ".join(str(part[-1]) for part in error.args[0]) if error.args else ""
        yield Finding.error(
            "certificate",
            f"OpenSSL rejects the certificate {config.tls.cert!r}: {reason}",
            "make a new one with a key that is strong enough",
        )
    yield from _check_names(leaf, config)
    yield from _check_usages(leaf, config)
    yield from _check_chain(chain, config)
    yield from _check_key_file(Path(config.tls.key))


def _without_certificate(config: Config, problem: str) -> Iterator[Finding]:
    """Report that the certificate can't be used, and what can be said of the private key without it."""
    try:
        check_private_key(Path(config.tls.key))
        key_problem = ""
    except TLSError as error:
        key_problem = str(error)
    if _SWAPPED in problem and _SWAPPED in key_problem:
        yield Finding.error(
            "certificate",
            f"tls.key and tls.cert are swapped: {config.tls.key!r} holds a certificate, and {config.tls.cert!r} a "
            "private key",
            f"write tls.key: {config.tls.cert} and tls.cert: {config.tls.key}",
        )
        return
    if not _may_exist(config.tls.cert) and not _may_exist(config.tls.key):
        problem = f"neither the certificate {config.tls.cert!r} nor the private key {config.tls.key!r} exists"
        key_problem = ""
    yield Finding.error("certificate", problem, _certificate_cure(config, problem))
    if key_problem:
        yield Finding.error("certificate", key_problem, _key_pair_cure(config, key_problem))
    yield from _check_key_file(Path(config.tls.key))


def _certificate_cure(config: Config, problem: str) -> str:
    """Return how to fix a certificate that can't be read, or that is not valid."""
    if "Permission denied" in problem:
        return f"let the user of the server read it: chown or chmod {config.tls.cert}"
    check = "check tls.cert" if _may_exist(config.tls.key) else "check tls.cert and tls.key"
    return f"{check}; or make a new pair: {_new_certificate_command(config)}"


def _may_exist(file: str) -> bool:
    """Return whether a file exists, or may exist: permissions can hide it."""
    try:
        Path(file).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _new_certificate_command(config: Config) -> str:
    """Return a command that creates a certificate. It never overwrites files: a private key would be lost."""
    host = config.host
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified if host else True
        name = "--ip 127.0.0.1 --ip <address> localhost" if unspecified else f"--ip {host} localhost"
    except ValueError:
        name = f"--ip 127.0.0.1 {host}"
    key, cert, then = Path(config.tls.key), Path(config.tls.cert), ""
    if _may_exist(config.tls.key) or _may_exist(config.tls.cert):
        key, cert = (file.with_name(f"{file.stem}-new{file.suffix}") for file in (key, cert))
        then = " (and name these files in tls.key and tls.cert)"
    return f"kes identity new --key {shlex.quote(str(key))} --cert {shlex.quote(str(cert))} {name}{then}"


def _check_dates(leaf: x509.Certificate, file: str, now: dt.datetime) -> Iterator[Finding]:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begin:
        yield Finding.error(
            "certificate",
            f"{file!r} is valid only from {format_date(begin)} on; this machine's clock says {format_date(now)}",
            "set the clock of this machine (timedatectl), or wait",
        )
    elif now > end:
        yield Finding.error(
            "certificate",
            f"{file!r} has expired on {format_date(end)}: clients refuse it",
            "put a new one in its place; the server reads it within 15 minutes, or at once with kill -HUP",
        )
    elif end - now < EXPIRY_NOTICE:
        yield Finding.warning(
            "certificate",
            f"{file!r} expires on {format_date(end)}, in {humanize(end - now)}",
            "put a new one in its place; the server reads it within 15 minutes, or at once with kill -HUP",
        )
    else:
        yield Finding.ok("certificate", f"{file!r} is valid until {format_date(end)}")


def _key_pair_cure(config: Config, problem: str) -> str:
    """Return how to fix a key and a certificate that do not belong together, or that can't be read."""
    if _DIFFERENT in problem:
        return "tls.key and tls.cert belong to different pairs: use both files of one pair"
    if "Permission denied" in problem:
        return f"let the user of the server read it: chown or chmod {config.tls.key}"
    if "can't be read" in problem:
        return "check tls.key: a relative path starts at the working directory of the server"
    if "is encrypted" in problem:
        return "write tls.password: ${KES_KEY_PASSWORD}, and set this variable where you start the server"
    if "tls.password is wrong" in problem:
        return f"correct tls.password; `openssl pkey -noout -in {config.tls.key}` asks for it and tries it"
    new_pair = _new_certificate_command(config)
    return f"use the private key of {config.tls.cert} in PEM format; or make a new pair: {new_pair}"


def _check_names(leaf: x509.Certificate, config: Config) -> Iterator[Finding]:
    """Check the subject alternative names. Clients compare only these with the host that they connect to."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = names.get_values_for_type(x509.DNSName)
        ips = list(names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        dns, ips = [], []
    except ValueError:
        yield Finding.error(
            "certificate", "its extensions can't be read", f"make a new one: {_new_certificate_command(config)}"
        )
        return
    if not dns and not ips:
        yield Finding.error(
            "certificate",
            "it has no subject alternative name: clients refuse it, as they ignore its subject",
            f"make one with names: {_new_certificate_command(config)}",
        )
        return
    listed = ", ".join([*dns, *(str(ip) for ip in ips)])
    yield Finding.ok("certificate", f"clients can connect to {listed}")
    host = config.host
    try:
        address = ipaddress.ip_address(host.partition("%")[0]) if host else None
    except ValueError:
        if not any(_covers_host(name, host) for name in dns):
            yield Finding.note(
                "certificate",
                f"the host of 'address', {host}, is not among its names: {listed}",
                f"connect by one of its names, or make a certificate with the host: {_new_certificate_command(config)}",
            )
        return
    if address is not None and not address.is_unspecified:
        if address not in ips:
            yield Finding.note(
                "certificate",
                f"the IP address of 'address', {address}, is not among its names: "
                "clients that connect to the address refuse it",
                f"connect by name, or make a certificate with the address: {_new_certificate_command(config)}",
            )
    elif not [name for name in dns if name != "localhost"] and all(ip.is_loopback for ip in ips):
        yield Finding.note(
            "certificate",
            f"it is for this machine only ({listed}), but the server listens on all addresses",
            f"clients on other machines need one with the name they use: {_new_certificate_command(config)}",
        )


def _covers_host(name: str, host: str) -> bool:
    """Return whether a DNS name of a certificate covers `host` (RFC 6125: `*` replaces the first label)."""
    name, host = name.lower(), host.lower()
    return name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:])


def _check_usages(leaf: x509.Certificate, config: Config) -> Iterator[Finding]:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature:
            yield Finding.error(
                "certificate",
                "its key usage lacks 'digital signature', which every TLS handshake of this server needs",
                "have it issued with keyUsage = digitalSignature",
            )
    except (x509.ExtensionNotFound, ValueError):
        pass
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(extended):
            yield Finding.error(
                "certificate",
                "its extended key usage lacks 'server authentication': clients refuse it",
                f"have it issued with extendedKeyUsage = serverAuth, or make one: {_new_certificate_command(config)}",
            )
    except (x509.ExtensionNotFound, ValueError):
        pass


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_chain(chain: Sequence[x509.Certificate], config: Config) -> Iterator[Finding]:
    leaf = chain[0]
    for certificate, issuer in itertools.pairwise(chain):
        if not _is_issued_by(certificate, issuer):
            yield Finding.error(
                "certificate",
                f"the chain is broken: {_subject(certificate)} is not issued by {_subject(issuer)}, which follows it",
                f"in {config.tls.cert} the server's certificate must come first, and each issuer must follow",
            )
            return
    if _is_issued_by(leaf, leaf):
        yield Finding.note(
            "certificate",
            "it is self-signed: clients must trust it as their CA",
            f"MinIO: MINIO_KMS_KES_CAPATH={config.tls.cert}; kes: SSL_CERT_FILE={config.tls.cert}, or -k",
        )
    elif len(chain) == 1:
        yield Finding.note(
            "certificate",
            f"no intermediate certificate follows it: clients must trust its issuer itself, {_issuer(leaf)}",
            "if the issuer is not a root CA, append its certificate to the file, after the server's certificate",
        )


def _subject(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())


def _issuer(certificate: x509.Certificate) -> str:
    return repr(certificate.issuer.rfc4514_string())


def _check_key_file(file: Path) -> Iterator[Finding]:
    try:
        mode = file.stat().st_mode
    except OSError:
        return  # reported with the certificate
    if mode & stat.S_IRWXO:
        yield Finding.warning(
            "certificate",
            f"all users of this machine have access to the private key {str(file)!r} (mode {stat.S_IMODE(mode):04o})",
            f"chmod 0600 {file}",
        )


def examine_client_cas(config: Config, *, now: dt.datetime | None = None) -> Iterator[Finding]:
    """Check the CAs that verify client certificates."""
    now = now or dt.datetime.now(dt.UTC)
    if not config.tls.auth:
        if config.tls.ca:
            try:
                load_client_cas(SSL.Context(SSL.TLS_SERVER_METHOD), Path(config.tls.ca))
            except TLSError as error:
                yield Finding.error("client CA", str(error), f"{_CA_CURE}, or remove tls.ca")
                return
            yield Finding.note(
                "client CA",
                "tls.ca is set, but tls.auth is off: client certificates are not verified",
                "set tls.auth: on, or remove tls.ca",
            )
        return
    try:
        Authorities(Path(config.tls.ca) if config.tls.ca else None)
    except TLSError as error:
        yield Finding.error("client CA", str(error), _CA_CURE)
        return
    except OSError as error:
        yield Finding.error("client CA", f"tls.ca {config.tls.ca!r} can't be read: {error.strerror}", _CA_CURE)
        return
    if not config.tls.ca:
        yield Finding.note(
            "client CA",
            "tls.auth is on without tls.ca: clients with a certificate of any CA that this machine trusts can connect",
            "set tls.ca to the CA of your clients",
        )
        return
    yield from _check_cas(Path(config.tls.ca), now)


def _check_cas(ca: Path, now: dt.datetime) -> Iterator[Finding]:
    for file in sorted(ca.iterdir()) if ca.is_dir() else [ca]:
        try:
            certificates = load_certificates(file)
        except (TLSError, OSError):
            continue  # for example a README; `Authorities` has found at least one certificate
        for certificate in certificates:
            yield _check_ca(certificate, file, now)


def _check_ca(certificate: x509.Certificate, file: Path, now: dt.datetime) -> Finding:
    what = f"{_subject(certificate)} in {str(file)!r}"
    end = certificate.not_valid_after_utc
    if now > end:
        return Finding.error(
            "client CA",
            f"{what} has expired on {format_date(end)}: the server refuses clients whose certificates it issued",
            "renew it",
        )
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if not is_ca:
        return Finding.warning(
            "client CA",
            f"{what} is not a CA certificate: it verifies only itself",
            "use the certificate of the CA that issues your clients' certificates",
        )
    if end - now < EXPIRY_NOTICE:
        return Finding.warning(
            "client CA", f"{what} expires on {format_date(end)}, in {humanize(end - now)}", "renew it"
        )
    return Finding.ok("client CA", f"{what} verifies client certificates, until {format_date(end)}")


def examine_clock(files: Sequence[Path], *, now: dt.datetime | None = None) -> Iterator[Finding]:
    """Compare the clock with the modification times of `files`, which can't be in the future."""
    now = now or dt.datetime.now(dt.UTC)
    for file in files:
        try:
            written = dt.datetime.fromtimestamp(file.stat().st_mtime, dt.UTC)
        except OSError:
            continue
        if written > now + _CLOCK_TOLERANCE:
            yield Finding.warning(
                "clock",
                f"{str(file)!r} is from {format_date(written)}, but this machine's clock says {format_date(now)}",
                "the clock of this machine may be wrong: timedatectl shows it",
            )
            return

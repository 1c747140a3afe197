"""The certificates in a configuration, for the server and for commands that check it. Internal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from OpenSSL import SSL

from kes_core.tls import (
    ClientCertificate,
    ServerTLS,
    TLSError,
    TLSSettings,
    load_certificates,
    load_client_cas,
    make_context,
)
from kes_core.units import format_date

if TYPE_CHECKING:
    from kes_core.config.model import Config

__all__ = ["certificate_warnings", "check_files", "expiry_problem", "make_server_tls"]


def check_files(config: Config) -> tuple[str, ...]:
    """Check the certificates in `config`, as the server does at start; return its warnings.

    Raises:
        TLSError: They can't be used, or clients refuse them.
    """
    make_server_tls(config)
    problem = expiry_problem(config)
    if problem:
        raise TLSError(problem)
    return certificate_warnings(config)


def make_server_tls(config: Config, prepare: Callable[[TLSSettings, ServerTLS], ServerTLS] | None = None) -> ServerTLS:
    """Return the TLS settings that `config` gives to new connections. `prepare` is that of the runtime that uses them.

    Raises:
        TLSError: A file can't be used. That includes `tls.ca` while `tls.auth` is off: otherwise a wrong path would
            show only when `tls.auth` is switched on.
    """
    settings = _tls_settings(config)
    if settings.ca is not None and not settings.client_certificate.verified:
        load_client_cas(SSL.Context(SSL.TLS_SERVER_METHOD), settings.ca)
    tls = ServerTLS(make_context(settings), settings.client_certificate.verified)
    return tls if prepare is None else prepare(settings, tls)


def expiry_problem(config: Config, now: datetime | None = None) -> str:
    """Return why clients refuse the server's certificate for its dates; empty if they accept them.

    Raises:
        TLSError: It can't be read.
    """
    now = now or datetime.now(UTC)
    leaf = load_certificates(Path(config.tls.cert))[0]
    if leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        return ""
    verb, date = "has expired", leaf.not_valid_after_utc
    if now < leaf.not_valid_before_utc:
        verb, date = "is not valid yet", leaf.not_valid_before_utc
    return f"the certificate {config.tls.cert!r} {verb} ({format_date(date)}): put one that is valid in its place"


def certificate_warnings(config: Config) -> tuple[str, ...]:
    """Return why clients that verify the server's certificate refuse it, except for its dates and its issuer.

    Raises:
        TLSError: It can't be read.
    """
    leaf = load_certificates(Path(config.tls.cert))[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        has_names = bool(names.get_values_for_type(x509.DNSName) or names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        has_names = False
    except Exception:  # malformed certificates raise many kinds of error, not all of them ValueErrors
        return ()
    if has_names:
        return ()
    why = "has no names (subject alternative names): clients that verify it refuse this server"
    return (f"the certificate {config.tls.cert!r} {why}; `kes identity new` makes one with names",)


def _tls_settings(config: Config) -> TLSSettings:
    skips = any(api.skip_auth for api in config.api.values())
    if config.tls.auth:
        wanted = ClientCertificate.VERIFY_IF_GIVEN if skips else ClientCertificate.REQUIRE_AND_VERIFY
    else:
        wanted = ClientCertificate.REQUEST if skips else ClientCertificate.REQUIRE
    password = config.tls.password
    return TLSSettings(
        key=Path(config.tls.key),
        cert=Path(config.tls.cert),
        password=password.get if password is not None else None,
        client_certificate=wanted,
        ca=Path(config.tls.ca) if config.tls.ca else None,
    )

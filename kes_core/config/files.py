"""The certificates that a configuration names, for the server and for the commands that check it. Internal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kes_core.tls import ClientCertificate, TLSError, TLSSettings, load_certificates, make_context
from kes_core.units import format_date

if TYPE_CHECKING:
    from kes_core.config.model import Config

__all__ = ["check_files", "expiry_problem", "tls_settings"]


def tls_settings(config: Config) -> TLSSettings:
    """Return the TLS settings of a configuration."""
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


def expiry_problem(config: Config, now: datetime | None = None) -> str:
    """Return why clients refuse the server's certificate because of its dates; empty if they do not.

    Raises:
        TLSError: The certificate can't be read.
    """
    now = now or datetime.now(UTC)
    leaf = load_certificates(Path(config.tls.cert))[0]
    if leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        return ""
    verb, date = "has expired", leaf.not_valid_after_utc
    if now < leaf.not_valid_before_utc:
        verb, date = "is not valid yet", leaf.not_valid_before_utc
    return f"the certificate {config.tls.cert!r} {verb} ({format_date(date)}): put one that is valid in its place"


def check_files(config: Config) -> None:
    """Check that the server can use the certificates that `config` names.

    Raises:
        TLSError: It can't; the message says why.
    """
    make_context(tls_settings(config))
    problem = expiry_problem(config)
    if problem:
        raise TLSError(problem)

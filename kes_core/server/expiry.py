"""Certificates that expire soon: the server's and its clients'."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kes_core.config.files import expiry_problem
from kes_core.protocol import EXPIRY_NOTICE
from kes_core.tls import load_certificates
from kes_core.units import format_date, humanize

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.policy import CertificateFacts
    from kes_core.server.metrics import Metrics

__all__ = ["ExpiryWatch"]

logger = logging.getLogger("kes.tls")

REPEAT: Final = timedelta(days=1)
"""Seconds until a warning is repeated."""
MAX_CLIENTS: Final = 1000
"""The largest number of clients to remember: anyone can connect, with any number of certificates."""


class ExpiryWatch:
    """Warns about certificates that expire soon, once a day for each, and counts them for the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._warned_at: dict[str, datetime] = {}
        """When each warning was last logged, by its subject."""
        self._clients: dict[str, float] = {}
        metrics.expiring_clients = self._clients
        self.horizon = 0.0
        """Clients whose certificate expires before this, in seconds since 1970, are passed to `see_client`."""

    def check_server(self, config: Config) -> None:
        """Check when the server's certificate expires, and move the horizon. Call it at each reload and regularly.

        Raises:
            TLSError: The certificate can't be read.
        """
        now = datetime.now(UTC)
        leaf = load_certificates(Path(config.tls.cert))[0]
        self._metrics.certificate_expiry = leaf.not_valid_after_utc.timestamp()
        self.horizon = (now + EXPIRY_NOTICE).timestamp()
        problem = expiry_problem(config, now)
        if problem:
            self._warn("server", now, "%s; until then clients refuse this server", problem)
        elif leaf.not_valid_after_utc - now < EXPIRY_NOTICE:
            self._warn(
                "server",
                now,
                "the certificate %r expires in %s (%s): put a new one in its place",
                config.tls.cert,
                humanize(leaf.not_valid_after_utc - now),
                format_date(leaf.not_valid_after_utc),
            )
        for identity in [identity for identity, expiry in self._clients.items() if expiry < now.timestamp()]:
            del self._clients[identity]

    def see_client(self, identity: str, certificate: CertificateFacts) -> None:
        """Remember a client whose certificate expires before the horizon."""
        now = datetime.now(UTC)
        left = certificate.not_after - now
        if left < timedelta(0):
            # A server that verifies certificates has refused this one earlier; others ignore the date.
            self._clients.pop(identity, None)
            return
        if identity not in self._clients and len(self._clients) >= MAX_CLIENTS:
            return
        self._clients[identity] = certificate.not_after.timestamp()
        self._warn(
            identity,
            now,
            "the certificate of the client %s expires in %s (%s): %s",
            identity,
            humanize(left),
            format_date(certificate.not_after),
            "from then on the server refuses it" if certificate.verified else "the server accepts it even then",
            level=logging.WARNING if certificate.verified else logging.INFO,
        )

    def see_renewed(self, identity: str) -> None:
        """Forget a client that now has a certificate with more time left."""
        self._clients.pop(identity, None)

    @property
    def any_client(self) -> bool:
        """Whether a client's certificate expires soon."""
        return bool(self._clients)

    def _warn(self, subject: str, now: datetime, message: str, *args: object, level: int = logging.WARNING) -> None:
        last = self._warned_at.get(subject)
        if last is None or abs(now - last) >= REPEAT:  # the clock may have been set back
            if len(self._warned_at) > MAX_CLIENTS:
                self._warned_at.clear()
            self._warned_at[subject] = now
            logger.log(level, message, *args)

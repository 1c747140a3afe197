"""Certificates that expire soon: the server's own, and those of its clients."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kes_core.config.files import expiry_problem
from kes_core.tls import load_certificates
from kes_core.units import format_date, humanize

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.policy import CertificateFacts
    from kes_core.server.metrics import Metrics

__all__ = ["NOTICE", "ExpiryWatch"]

logger = logging.getLogger("kes.tls")

NOTICE: Final = timedelta(days=14)
"""How long before a certificate expires the warnings begin."""
REPEAT: Final = timedelta(days=1)
"""How often they are repeated."""
MAX_CLIENTS: Final = 1000
"""Clients that are kept in mind: everybody may connect, with as many certificates as they like."""


class ExpiryWatch:
    """Warns of certificates that expire soon, once a day each, and keeps them for the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: dict[str, datetime] = {}
        """When each warning was given last, by what it is about."""
        self._clients: dict[str, float] = {}
        metrics.expiring_clients = self._clients
        self.horizon = 0.0
        """A client's certificate that expires before this, in seconds since 1970, is worth a look."""

    def look(self, config: Config) -> None:
        """Look at the server's certificate, and move on with the time. To be called once in a while."""
        now = datetime.now(UTC)
        leaf = load_certificates(Path(config.tls.cert))[0]
        self._metrics.certificate_expiry = leaf.not_valid_after_utc.timestamp()
        self.horizon = (now + NOTICE).timestamp()
        problem = expiry_problem(config, now)
        if problem:
            self._warn("server", now, "%s; until then clients refuse this server", problem)
        elif leaf.not_valid_after_utc - now < NOTICE:
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
        """Take note of a client whose certificate expires before the horizon."""
        now = datetime.now(UTC)
        left = certificate.not_after - now
        if left < timedelta(0):
            # Where certificates are verified it would not have come this far; elsewhere the date means nothing.
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
            "from then on it is refused" if certificate.verified else "nothing refuses it then, for tls.auth is off",
            level=logging.WARNING if certificate.verified else logging.INFO,
        )

    def see_renewed(self, identity: str) -> None:
        """Take note of a client whose certificate is good for longer."""
        self._clients.pop(identity, None)

    @property
    def any_client(self) -> bool:
        """Whether a client's certificate expires soon."""
        return bool(self._clients)

    def _warn(self, about: str, now: datetime, message: str, *arguments: object, level: int = logging.WARNING) -> None:
        last = self._told.get(about)
        if last is None or abs(now - last) >= REPEAT:  # the clock may have been ahead, and been put right
            if len(self._told) > MAX_CLIENTS:
                self._told.clear()
            self._told[about] = now
            logger.log(level, message, *arguments)

"""The CAs of `tls.ca`, for certificates that were not verified in a handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL, crypto

from kes_core.certificates import limit_problem, purpose_problem
from kes_core.tls import TLSError, load_client_cas, verify_problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.x509 import Certificate

__all__ = ["Authorities"]


class Authorities:
    """Verifies client certificates against the CAs of `tls.ca`, as a handshake does."""

    def __init__(self, ca: Path | None) -> None:
        """Load the CAs from a PEM file or a directory of PEM files; without `ca` load the system's.

        Raises:
            TLSError: They can't be read.
        """
        # `load_client_cas` fills the store of a context.
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        load_client_cas(context, ca)
        store = context.get_cert_store()
        if store is None:
            raise TLSError("the CAs for clients can't be loaded")
        self._context = context
        self._store = store

    def verify(self, chain: Sequence[Certificate]) -> bool:
        """Return whether the first certificate of `chain` leads to one of the CAs, through the others if needed."""
        return not self.problem(chain)

    def problem(self, chain: Sequence[Certificate]) -> str:
        """Return why a handshake would not accept the client that presents `chain`; empty if it would."""
        for certificate in chain:
            if problem := limit_problem(certificate):
                return problem
        try:
            leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in chain)
            path = crypto.X509StoreContext(self._store, leaf, others).get_verified_chain()
        except crypto.X509StoreContextError as error:
            return verify_problem(error.errors[0])
        except crypto.Error:  # OpenSSL can't read what cryptography can
            return "it can't be read"
        problems = (purpose_problem(certificate.to_cryptography()) for certificate in path)
        return next(filter(None, problems), "")

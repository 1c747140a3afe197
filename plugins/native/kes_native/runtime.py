"""The runtime: the connections of kes-core's own runtime, with TLS and HTTP in native code."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kes_core.access.authorities import Authorities
from kes_core.access.sender import ProvenClient
from kes_core.certificates import MAX_CHAIN
from kes_core.server.wire import http1, http2, listener, stream
from kes_core.server.wire.listener import HypercornRuntime
from kes_core.tls import ServerTLS, TLSError, TLSSettings, load_certificates, load_private_key
from kes_native import _native
from kes_native.clients import SCHEMES, ClientVerifier
from kes_native.connection import NativeConnection
from kes_native.selector import ServingSelector

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from kes_core.server.metrics import Metrics
    from kes_core.server.wire.app import App

__all__ = ["NativeRuntime"]

logger = logging.getLogger("kes.server")


class NativeRuntime(HypercornRuntime):
    """The `Runtime` on native TLS and HTTP, on the running event loop."""

    make_appender = _native.Appender

    poller: _native.Poller
    """Reads the sockets, from `start` to `stop`: only the thread of the loop may free it."""

    def __init__(self, app: App, tls: Callable[[], ServerTLS], metrics: Metrics) -> None:
        super().__init__(app, tls, metrics)
        self.rules = _rules(app)
        self._selector: ServingSelector | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        self.poller = _native.Poller(self.app.settle)
        self._selector = ServingSelector.install(loop, self.poller)
        if self._selector is None:
            loop.add_reader(self.poller.fileno(), self.poller.turn)
        await super().start(sockets)

    @staticmethod
    def prepare_tls(settings: TLSSettings, tls: ServerTLS) -> ServerTLS:
        """Return what new connections use.

        Raises:
            TLSError: The certificate can't be used with this runtime.
        """
        wanted = settings.client_certificate
        verifier = ClientVerifier(Authorities(settings.ca) if wanted.verified else None)
        chain = [certificate.public_bytes(Encoding.DER) for certificate in load_certificates(settings.cert)]
        key = load_private_key(settings).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        try:
            config = _native.Config(chain, key, verifier, list(SCHEMES), wanted.required)
        except ValueError as error:
            reason = f"{error}; 'runtime: hypercorn' may accept it"
            raise TLSError(f"the native runtime can't use the certificate {str(settings.cert)!r}: {reason}") from None
        return tls._replace(native=config)

    async def stop(self, *, grace: float) -> None:
        for connection in list(self._connections.values()):
            connection.stop()  # type: ignore[attr-defined] # they are ours
        await super().stop(grace=grace)
        if not hasattr(self, "poller"):
            return  # it was not started
        if self._selector is not None:
            self._selector.uninstall()
            self._selector = None
        else:
            asyncio.get_running_loop().remove_reader(self.poller.fileno())
        del self.poller

    # What connections call

    def _new_connection(self) -> Any:
        tls = self._tls()
        return NativeConnection(self, tls.native, verifies_clients=tls.verifies_clients)

    def admit(self, connection: Any) -> bool:
        """Return whether a new connection may stay."""
        if not self._gate.admit(connection, connection._loop.time()):  # noqa: SLF001 # the loop of all
            return False
        self._connections[connection] = connection
        return True

    def established(self, connection: Any, certificates: list[bytes]) -> None:
        """Identify the client of a connection, at the end of its handshake.

        Raises:
            TLSError: A certificate can't be read, or there are too many.
        """
        try:
            chain = [x509.load_der_x509_certificate(certificate) for certificate in certificates]
        except (ValueError, x509.InvalidVersion) as error:
            raise TLSError("the client's certificate can't be read") from error
        if len(chain) > MAX_CHAIN:
            raise TLSError(f"the client presented {len(chain)} certificates; at most {MAX_CHAIN} are allowed")
        address = connection.client[0] if connection.client else ""
        client = ProvenClient.from_chain(chain, verified=connection.verifies_clients, address=address)
        self._gate.established(connection)
        self._metrics.handshakes += 1
        connection.serve(client)

    def handshake_failed(self, connection: Any, reason: str) -> None:
        """Count and log a failed handshake."""
        self._handshake_failed(connection, reason)

    def remove(self, connection: Any) -> None:
        """Record that a connection is closed."""
        self._remove(connection)


def _rules(app: App) -> _native.Rules:
    """Return the limits of the core for the native part."""
    return _native.Rules(
        whole=[beginning.encode("ascii") for beginning in app.frequent],
        small_body=stream.SMALL_BODY,
        max_head=http1.MAX_HEAD,
        max_read_ahead=http1.MAX_READ_AHEAD,
        max_unread_body=http1.MAX_UNREAD_BODY,
        max_discarded=stream.MAX_DISCARDED_BODY,
        max_streams=listener.MAX_STREAMS,
        max_pending_resets=http2.MAX_PENDING_RESETS,
        max_per_turn=http2.MAX_PER_TURN,
    )

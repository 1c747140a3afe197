"""The front end: a gRPC server on a unix socket."""

from __future__ import annotations

from typing import Final

import grpc.aio

from kes_core import Frontend, FrontendContext, FrontendError
from kes_kubernetes.client import quoted
from kes_kubernetes.config import KMSConfig
from kes_kubernetes.service import MAX_MESSAGE, Counts, Service
from kes_kubernetes.sockets import Place, PlacedSocket

__all__ = ["KubernetesFrontend"]

_GRACE: Final = 4.0
"""Seconds that calls under way get when the front end stops."""
_MAX_CALLS: Final = 256
"""The most calls at once, of all API servers together."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_concurrent_streams", _MAX_CALLS),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


class KubernetesFrontend(Frontend):
    """Kubernetes' KMS v2 on a unix socket."""

    def __init__(self, config: KMSConfig, context: FrontendContext) -> None:
        """Set up, without a listener.

        Raises:
            FrontendError: The owner or the group of the socket does not exist.
        """
        self._logger = context.logger
        self._place = Place.find(context.path(config.socket), config.mode, config.owner, config.group)
        metrics = context.metrics
        counts = Counts(
            request=metrics.counter("requests", "Calls of API servers."),
            failure=metrics.counter("failures", "Calls that were answered with an error."),
            healthy=metrics.gauge("healthy", "Whether the last health check succeeded."),
        )
        self._service = Service(
            context.keys, config.identity, config.key, config.old_keys, logger=context.logger, counts=counts
        )
        self._socket: PlacedSocket | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        place = self._place
        place.make_directory()
        place.check()
        if PlacedSocket.is_foreign(place.path):
            raise FrontendError(f"another process listens on {str(place.path)!r}: stop it, or use another path")
        try:
            self._socket = PlacedSocket(place)
            await self._listen(self._socket)
        except OSError as error:
            raise place.failure(error) from None
        self._logger.info("API servers find the plugin at unix://%s", place.path)

    async def _listen(self, placed: PlacedSocket) -> None:
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        self._server.add_generic_rpc_handlers((self._service.handler(),))
        try:
            self._server.add_insecure_port(f"unix:{quoted(placed.path)}")
            await self._server.start()
            placed.move()
        except RuntimeError:  # gRPC's only error, without a reason
            raise FrontendError(f"gRPC can't listen on a socket in {str(placed.path.parent.parent)!r}") from None
        finally:
            placed.discard()

    async def stop(self) -> None:
        # First, so that API servers wait for the next server instead of asking this one.
        if self._socket is not None:
            self._socket.remove()
        if self._server is not None:
            await self._server.stop(_GRACE)

    async def ready(self) -> None:
        await self._service.check()

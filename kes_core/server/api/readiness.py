"""Whether the server is ready, for `/v1/ready` and the probe listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kes_core.access.errors import RequestError
from kes_core.keystore import KeyStoreError, KeyStoreUnreachableError
from kes_core.server.metrics import frontend_problems

if TYPE_CHECKING:
    from kes_core.server.state import State
    from kes_core.server.workers.peers import Peers

__all__ = ["readiness"]


async def readiness(state: State, peers: Peers) -> RequestError | None:
    """Check the key store's status and the front ends; return the error for the answer if one can't serve."""
    try:
        await state.cache.status()
    except KeyStoreUnreachableError as error:
        return RequestError(504, "key store is not reachable", error.reason)
    except KeyStoreError as error:
        return RequestError(502, "key store is unavailable", error.reason)
    names = [choice.type.name for choice in state.config.frontends]
    if names:
        for name, problem in frontend_problems(await peers.snapshot(), names).items():
            if problem:
                return RequestError(503, f"front end '{name}' is not ready", why=f"front end '{name}': {problem}")
    return None

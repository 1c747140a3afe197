"""Whether the server is ready, for `/v1/ready` and the probe listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kes_core.access.errors import RequestError
from kes_core.keystore import KeyStoreError, KeyStoreUnreachableError

if TYPE_CHECKING:
    from kes_core.keys.cache import KeyCache

__all__ = ["readiness"]


async def readiness(cache: KeyCache) -> RequestError | None:
    """Check the key store's status; return the error for the answer if the check fails."""
    try:
        await cache.status()
    except KeyStoreUnreachableError as error:
        return RequestError(504, "key store is not reachable", error.reason)
    except KeyStoreError as error:
        return RequestError(502, "key store is unavailable", error.reason)
    return None

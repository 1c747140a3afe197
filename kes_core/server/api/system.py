"""`/version`, `/v1/ready`, `/v1/status` and `/v1/api`: facts about the server."""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from kes_core.keystore import KeyStoreError
from kes_core.protocol import ROUTES
from kes_core.server.api.call import Call
from kes_core.server.api.readiness import readiness
from kes_core.server.build import commit, version
from kes_core.server.metrics import expiring_clients, frontend_problems, memory, usable_cpus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kes_core.server.metrics import Metrics
    from kes_core.server.workers.peers import Peers

__all__ = ["API_PATH", "HANDLERS", "READY_PATH", "STATUS_PATH", "api_listing", "ready", "status"]

API_PATH: Final = "/v1/api"
READY_PATH: Final = "/v1/ready"
STATUS_PATH: Final = "/v1/status"
# Clients know these by Go's names.
_OS: Final = {"win32": "windows"}.get(sys.platform, sys.platform)
_ARCH: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}.get(platform.machine(), platform.machine())


async def _version(_call: Call) -> dict[str, str]:
    return {"version": version(), "commit": commit()}


async def ready(call: Call, peers: Peers) -> None:
    """Answer whether the server can serve.

    Raises:
        RequestError: The key store or a front end can't serve.
    """
    problem = await readiness(call.server_state, peers)
    if problem is not None:
        raise problem


async def status(call: Call, metrics: Metrics, peers: Peers) -> dict[str, Any]:
    """Return the state of the server and its key store."""
    heap, stack = memory()
    numbers = await peers.snapshot()
    answer: dict[str, Any] = {
        "version": version(),
        "os": _OS,
        "arch": _ARCH,
        "uptime": int(time.monotonic() - numbers["started"]),
        "num_cpu": os.cpu_count() or 1,
        "num_cpu_used": usable_cpus(),
        "mem_heap_used": heap,
        "mem_stack_used": stack,
    }
    answer["workers"] = numbers["workers"]
    state, sender = call.server_state, call.sender
    # With `skip_auth` anyone may ask, and not everyone needs to know how the server is set up.
    if STATUS_PATH not in state.access.open_routes or sender.is_admin or sender.identity in state.policy_of:
        answer |= {
            "keystore": state.config.keystore.backend.name,
            "policies": len(state.config.policy),
            "identities": len(state.policy_of),
        }
        names = [choice.type.name for choice in state.config.frontends]
        if names:
            answer["frontends"] = {
                name: problem or "ready" for name, problem in frontend_problems(numbers, names).items()
            }
    if metrics.certificate_expiry:
        expiry = datetime.fromtimestamp(metrics.certificate_expiry, UTC)
        answer["certificate_expires_at"] = expiry.isoformat().replace("+00:00", "Z")
    expiring = len(expiring_clients(numbers))
    if expiring:
        answer["client_certificates_expiring"] = expiring
    try:
        # Clients read these integers as nanoseconds (protocol section 4).
        answer["keystore_latency"] = max(1, int(await call.server_state.cache.status() * 1e9))
    except KeyStoreError as error:
        # Clients refuse an answer with only one of the two.
        answer["keystore_unreachable"] = True
        answer["keystore_unavailable"] = True
        if error.reason is not None:
            answer["keystore_reason"] = error.reason
    return answer


def api_listing(timeouts: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Return the list of the routes: path, method, body limit in bytes, timeout in seconds."""
    return [
        {
            "method": route.method,
            "path": route.path,
            "max_body": route.max_body,
            "timeout": int(timeouts[route.path] or 0),
        }
        for route in ROUTES
    ]


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/version": _version,
}

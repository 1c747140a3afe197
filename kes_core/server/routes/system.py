"""`/version`, `/v1/ready`, `/v1/status` and `/v1/api`: the server itself."""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kes_core.keystore import KeyStoreError, KeyStoreUnreachableError
from kes_core.routes import ROUTES
from kes_core.server.call import Call
from kes_core.server.errors import APIError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


__all__ = ["API_PATH", "HANDLERS", "api_listing", "commit", "version"]

API_PATH: Final = "/v1/api"
_UNKNOWN: Final = "<unknown>"
_STARTED: Final = time.monotonic()
# Clients know these by Go's names.
_OS: Final = {"win32": "windows"}.get(sys.platform, sys.platform)
_ARCH: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}.get(platform.machine(), platform.machine())


@functools.cache
def version() -> str:
    """Return the version of the server."""
    return metadata.version("kes-core")


@functools.cache
def commit() -> str:
    """Return the commit the server was installed from, where the installer has noted one."""
    text = metadata.distribution("kes-core").read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    found = origin.get("vcs_info", {}).get("commit_id", _UNKNOWN)
    return str(found)


async def _version(_call: Call) -> dict[str, str]:
    return {"version": version(), "commit": commit()}


async def _ready(call: Call) -> None:
    try:
        await call.server_state.cache.status()
    except KeyStoreUnreachableError:
        raise APIError(504, "key store is not reachable") from None
    except KeyStoreError:
        raise APIError(502, "key store is unavailable") from None


async def _status(call: Call) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "version": version(),
        "os": _OS,
        "arch": _ARCH,
        "uptime": int(time.monotonic() - _STARTED),
        "num_cpu": os.cpu_count() or 1,
        "num_cpu_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        **_memory(),
    }
    try:
        # Integers that clients read as nanoseconds (protocol section 4).
        answer["keystore_latency"] = max(1, int(await call.server_state.cache.status() * 1e9))
    except KeyStoreError:
        # Clients refuse an answer with only one of the two.
        answer["keystore_unreachable"] = True
        answer["keystore_unavailable"] = True
    return answer


def _memory() -> dict[str, int]:
    """Return the memory in use in bytes: data and stack, as the operating system counts them."""
    sizes = {"VmData": 0, "VmStk": 0}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) * 1024
    except OSError:  # not Linux
        pass
    return {"mem_heap_used": sizes["VmData"], "mem_stack_used": sizes["VmStk"]}


def api_listing(served: frozenset[str], timeouts: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Return the list of the routes with the paths `served`: path, method, body limit in bytes, timeout in seconds."""
    return [
        {
            "method": route.method,
            "path": route.path,
            "max_body": route.max_body,
            "timeout": int(timeouts[route.path] or 0),
        }
        for route in ROUTES
        if route.path in served
    ]


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/version": _version,
    "/v1/ready": _ready,
    "/v1/status": _status,
}

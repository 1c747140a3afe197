"""The server's counters. Plain integers, because every request updates them."""

from __future__ import annotations

import heapq
import json
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kes_core.config.runtimes import DEFAULT_RUNTIME
from kes_core.counters import LOST_RECORDS, Histogram, PluginCounters, StoreCounters
from kes_core.keystore import Credential

if TYPE_CHECKING:
    from kes_core.keys.versions import StoredKey

__all__ = [
    "Metrics",
    "credentials",
    "expiring_clients",
    "frontend_problems",
    "memory",
    "newest_versions",
    "usable_cpus",
]

MAX_KEYS: Final = 100
"""The largest number of keys whose age is counted, of each process."""
_KEYS_INTERVAL: Final = 10.0
"""Seconds for which that count is kept: it looks at every key in memory, and takes 8 ms for 10,000 keys."""

_STARTED: Final = time.monotonic()
"""When this process started. All processes of a machine share this clock."""


class Metrics:
    """The counters of this process. Belongs to one event loop."""

    def __init__(self) -> None:
        self.active = 0
        """Requests that are running."""
        self.error_events = 0
        """Events sent to readers of the error log."""
        self.audit_events = 0
        """Events sent to readers of the audit log."""
        self.handshakes = 0
        """TLS handshakes that succeeded."""
        self.failed_handshakes = 0
        self.store = StoreCounters()
        self.plugins = PluginCounters()
        self.worker = 0
        """The number of this process among the workers; 0 if there is only one process."""
        self.runtime = DEFAULT_RUNTIME
        """What serves TLS and HTTP."""
        self.decisions: Counter[tuple[str, str]] = Counter()
        """Answers of policy engines, by engine and decision."""
        self.certificate_expiry = 0.0
        """When the server's certificate expires, in seconds since 1970."""
        self.expiring_clients: Mapping[str, float] = {}
        """When client certificates expire, for those that expire soon, by identity."""
        self.credentials: Callable[[], Sequence[Credential]] = tuple
        """Returns what the key store logs in with and that runs out."""
        self.scheduled_deletions: Sequence[float] | None = None
        """When keys are to be deleted, in seconds since 1970; None if this process does not look for them."""
        self.keys: Callable[[], Mapping[str, StoredKey]] = dict
        """Returns the keys in memory by name."""
        self.frontends: Callable[[], Mapping[str, str]] = dict
        """Returns why each front end of this process can't serve; empty for one that can."""
        self._oldest: tuple[float, dict[str, int]] = (float("-inf"), {})
        """When the oldest keys were last picked, and which they were."""
        self._by_code: Counter[int] = Counter()
        self._times = Histogram()

    def answered(self, code: int, seconds: float) -> None:
        """Count a request that got status `code` after `seconds`."""
        self._by_code[code] += 1
        self._times.add(seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return the numbers of this process. The server adds up the snapshots of all processes."""
        heap, stack = memory()
        return {
            "started": _STARTED,
            "workers": 1,
            "active": self.active,
            "error_events": self.error_events,
            "audit_events": self.audit_events,
            "handshakes": self.handshakes,
            "failed_handshakes": self.failed_handshakes,
            "codes": {str(code): count for code, count in self._by_code.items()},
            "times": self._times.snapshot(),
            "store": self.store.snapshot(),
            "plugins": self.plugins.snapshot(self.worker),
            "decisions": {" ".join(labels): count for labels, count in self.decisions.items()},
            "threads": threading.active_count(),
            "heap": heap,
            "blocks": sys.getallocatedblocks(),
            "stack": stack,
            "lost": LOST_RECORDS.snapshot(),
            "credentials": {
                json.dumps([each.name, each.expires_at, each.lifetime, each.uses_left]): 1
                for each in self.credentials()
            },
            "deletions": {}
            if self.scheduled_deletions is None
            else {"count": len(self.scheduled_deletions), "next": min(self.scheduled_deletions, default=0)},
            "keys": self._oldest_keys(),
            "frontends": {
                name: {"running": 1, "ready": int(not problem), "problems": {problem: 1} if problem else {}}
                for name, problem in self.frontends().items()
            },
            # The times are part of the names: adding up snapshots changes the values.
            "expiring": {f"{identity} {expiry}": 1 for identity, expiry in self.expiring_clients.items()},
        }

    def _oldest_keys(self) -> dict[str, int]:
        """Return the keys in memory whose newest version is oldest, each with its time as part of its name."""
        now = time.monotonic()
        if now - self._oldest[0] < _KEYS_INTERVAL:
            return self._oldest[1]
        made = ((key.versions[-1].created_at.seconds, name) for name, key in self.keys().items())
        known = (each for each in made if each[0] > 0)  # old releases did not store the time
        self._oldest = (now, {f"{name} {seconds}": 1 for seconds, name in heapq.nsmallest(MAX_KEYS, known)})
        return self._oldest[1]


def newest_versions(numbers: Mapping[str, Any]) -> dict[str, int]:
    """Return when the newest versions of keys were made, in seconds since 1970, by key, from a sum of snapshots."""
    found: dict[str, int] = {}
    for entry in numbers["keys"]:
        name, _, seconds = entry.partition(" ")
        found[name] = max(found.get(name, 0), int(seconds))
    return found


def frontend_problems(numbers: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Return why front ends can't serve, by name, and an empty text for one that can, from a sum of snapshots.

    Args:
        numbers: The sum of the snapshots.
        names: The front ends that should run.
    """
    found: dict[str, str] = {}
    for name in names:
        states = numbers["frontends"].get(name, {"problems": {"it does not run": 1}})
        found[name] = next(iter(states["problems"]), "")
    return found


def expiring_clients(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return when client certificates expire, for those that expire soon, by identity, from a sum of snapshots."""
    found: dict[str, float] = {}
    for entry in numbers["expiring"]:
        identity, _, expiry = entry.partition(" ")
        found[identity] = max(found.get(identity, 0.0), float(expiry))
    return found


def credentials(numbers: Mapping[str, Any]) -> dict[str, Credential]:
    """Return the credentials of the key store by name, from a sum of snapshots: of several, the first to expire."""
    found: dict[str, Credential] = {}
    for entry in numbers["credentials"]:
        each = Credential(*json.loads(entry))
        other = found.get(each.name)
        if other is None or (each.expires_at or math.inf) < (other.expires_at or math.inf):
            found[each.name] = each
    return found


def usable_cpus() -> int:
    """Return the number of CPUs that the server may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Return the memory in use, in bytes: data and stack, as the operating system counts them."""
    sizes = {"VmData": 0, "VmStk": 0}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) * 1024
    except OSError:  # not Linux
        pass
    return sizes["VmData"], sizes["VmStk"]

"""The server's metrics, in the text format of Prometheus (`GET /v1/metrics`).

Counted with plain integers, since it happens on every request; prometheus-client writes them down when they are asked
for. The names of the Go server's metrics are those that dashboards have had for years: they lack the suffix `_total`,
which the library insists on for counters, so these are given to it as untyped and named counters afterwards.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UntypedMetricFamily,
)

from kes_core._counters import BUCKETS, StoreCounters, Times

__all__ = ["CONTENT_TYPE", "Metrics", "expiring_clients", "exposition", "memory", "usable_cpus"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_CLASSES: Final = (
    ("kes_http_request_success", "Requests answered with a 2xx status.", range(200, 300)),
    ("kes_http_request_error", "Requests answered with a 4xx status.", range(400, 500)),
    ("kes_http_request_failure", "Requests answered with a 5xx status.", range(500, 600)),
)
_STARTED: Final = time.monotonic()
"""When this process did. The clock is the same in all processes of a machine."""


class Metrics:
    """What has happened so far in this process. Belongs to one event loop."""

    def __init__(self) -> None:
        self.active = 0
        """Requests being worked on."""
        self.error_events = 0
        """Events handed to readers of the error log."""
        self.audit_events = 0
        """Events handed to readers of the audit log."""
        self.handshakes = 0
        """TLS handshakes that succeeded."""
        self.failed_handshakes = 0
        self.store = StoreCounters()
        self.decisions: Counter[tuple[str, str]] = Counter()
        """Answers of policy engines, by engine and decision."""
        self.certificate_expiry = 0.0
        """When the server's certificate expires, in seconds since 1970."""
        self.expiring_clients: Mapping[str, float] = {}
        """When certificates of clients expire that do so soon, by identity."""
        self._by_code: Counter[int] = Counter()
        self._times = Times()

    def answered(self, code: int, seconds: float) -> None:
        """Count a request that was answered with `code` after `seconds`."""
        self._by_code[code] += 1
        self._times.add(seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return the numbers of this process, to be added to those of others."""
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
            "decisions": {" ".join(labels): count for labels, count in self.decisions.items()},
            "threads": threading.active_count(),
            "heap": heap,
            "blocks": sys.getallocatedblocks(),
            "stack": stack,
            # As names, since numbers are added up.
            "expiring": {f"{identity} {expiry}": 1 for identity, expiry in self.expiring_clients.items()},
        }


def expiring_clients(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return when the certificates of clients expire that do so soon, by identity, from a sum of snapshots."""
    found: dict[str, float] = {}
    for entry in numbers["expiring"]:
        identity, _, expiry = entry.partition(" ")
        found[identity] = max(found.get(identity, 0.0), float(expiry))
    return found


def exposition(numbers: Mapping[str, Any], metrics: Metrics, *, labelled: bool = True) -> bytes:
    """Return the metrics as text: the sum of the snapshots of all processes, and what is the same in all.

    Args:
        numbers: The sum.
        metrics: Of this process.
        labelled: Whether to return those with labels that the Go server lacks. Its SDK fails at them: of each metric
            but the requests by code it takes one value.
    """
    families = [*_families(numbers), *_certificates(numbers, metrics)]
    if not labelled:
        by_code = {name for name, _help, _codes in _CLASSES}
        families = [family for family in families if family.name in by_code or _has_one_value(family)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    text = generate_latest(registry)
    for name in (*(name for name, _help, _codes in _CLASSES), "kes_log_error_events", "kes_log_audit_events"):
        text = text.replace(f"# TYPE {name} untyped".encode(), f"# TYPE {name} counter".encode())
    return text


def _has_one_value(family: Metric) -> bool:
    return bool(family.samples) and all(sample.labels.keys() <= {"le"} for sample in family.samples)


class _Families:
    """What prometheus-client collects from."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    for name, documentation, codes in _CLASSES:
        counted = UntypedMetricFamily(name, documentation, labels=["code"])
        for code, count in sorted(numbers["codes"].items()):
            if int(code) in codes:
                counted.add_metric([code], count)
        if counted.samples:  # clients refuse a metric without values
            yield counted
    yield GaugeMetricFamily("kes_http_request_active", "Requests being worked on now.", numbers["active"])
    times = HistogramMetricFamily("kes_http_response_time", "Seconds from the start of a request's handler to its end.")
    _add_times(times, [], numbers["times"])
    yield times
    yield UntypedMetricFamily("kes_log_error_events", "Error events handed to clients.", numbers["error_events"])
    yield UntypedMetricFamily("kes_log_audit_events", "Audit events handed to clients.", numbers["audit_events"])
    yield from _system(numbers)
    yield from _store(numbers["store"])
    decisions = CounterMetricFamily(
        "kes_policy_decisions", "Answers of policy engines, by engine and decision.", labels=["engine", "decision"]
    )
    _add_labelled(decisions, numbers["decisions"])
    yield decisions
    yield CounterMetricFamily("kes_tls_handshakes", "TLS handshakes that succeeded.", numbers["handshakes"])
    yield CounterMetricFamily(
        "kes_tls_handshake_failures", "TLS handshakes that failed or were broken off.", numbers["failed_handshakes"]
    )
    yield GaugeMetricFamily("kes_workers", "Processes that serve requests.", numbers["workers"])
    yield CounterMetricFamily(
        "kes_worker_restarts", "Processes that died and were replaced.", numbers.get("worker_restarts", 0)
    )


def _store(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily("kes_cache_hits", "Requests for a key that was in memory.", numbers["hits"])
    yield CounterMetricFamily("kes_cache_misses", "Requests for a key that was not in memory.", numbers["misses"])
    times = HistogramMetricFamily(
        "kes_keystore_response_time", "Seconds that the key store took to answer, by operation.", labels=["operation"]
    )
    for operation, counted in sorted(numbers["times"].items()):
        _add_times(times, [operation], counted)
    yield times
    errors = CounterMetricFamily(
        "kes_keystore_errors", "What the key store failed to do, by operation.", labels=["operation", "reason"]
    )
    _add_labelled(errors, numbers["errors"])
    yield errors


def _add_times(family: HistogramMetricFamily, labels: list[str], numbers: Mapping[str, Any]) -> None:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*(f"{bound:g}" for bound in BUCKETS), "+Inf"), numbers["counts"], strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets, numbers["seconds"])


def _add_labelled(family: CounterMetricFamily, counts: Mapping[str, int]) -> None:
    for labels, count in sorted(counts.items()):
        family.add_metric(labels.split(" "), count)


def _certificates(numbers: Mapping[str, Any], metrics: Metrics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "kes_tls_certificate_expiry_timestamp_seconds",
        "When the server's certificate expires, in seconds since 1970.",
        metrics.certificate_expiry,
    )
    clients = GaugeMetricFamily(
        "kes_tls_client_certificate_expiry_timestamp_seconds",
        "When the certificates of clients expire that do so soon, in seconds since 1970.",
        labels=["identity"],
    )
    for identity, expiry in sorted(expiring_clients(numbers).items()):
        clients.add_metric([identity], expiry)
    yield clients


def _system(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    uptime = round(time.monotonic() - numbers["started"], 2)
    yield GaugeMetricFamily("kes_system_up_time", "Seconds since the start of the server.", uptime)
    yield GaugeMetricFamily("kes_system_num_cpu", "Logical CPUs of the machine.", os.cpu_count() or 1)
    yield GaugeMetricFamily("kes_system_num_cpu_used", "Logical CPUs the server may use.", usable_cpus())
    yield GaugeMetricFamily("kes_system_num_threads", "Threads of the server.", numbers["threads"])
    yield GaugeMetricFamily("kes_system_mem_heap_used", "Bytes of data in memory.", numbers["heap"])
    yield GaugeMetricFamily("kes_system_mem_heap_objects", "Blocks of memory in use.", numbers["blocks"])
    yield GaugeMetricFamily("kes_system_mem_stack_used", "Bytes of stack.", numbers["stack"])


def usable_cpus() -> int:
    """Return how many CPUs the server may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Return the memory in use in bytes: data and stack, as the operating system counts them."""
    sizes = {"VmData": 0, "VmStk": 0}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) * 1024
    except OSError:  # not Linux
        pass
    return sizes["VmData"], sizes["VmStk"]

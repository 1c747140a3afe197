"""The server's metrics, in the text format of Prometheus (`GET /v1/metrics`).

Counted with plain integers, since it happens on every request; prometheus-client writes them down when they are asked
for. The names are those that dashboards have had for years: they lack the suffix `_total`, which the library insists on
for counters, so these are given to it as untyped and named counters afterwards.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, UntypedMetricFamily

__all__ = ["CONTENT_TYPE", "Metrics", "memory", "usable_cpus"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0)
"""Upper bounds of the response times, in seconds."""
_CLASSES: Final = (
    ("kes_http_request_success", "Requests answered with a 2xx status.", range(200, 300)),
    ("kes_http_request_error", "Requests answered with a 4xx status.", range(400, 500)),
    ("kes_http_request_failure", "Requests answered with a 5xx status.", range(500, 600)),
)
_STARTED: Final = time.monotonic()


class Metrics:
    """What has happened so far. Belongs to one event loop."""

    def __init__(self) -> None:
        self.active = 0
        """Requests being worked on."""
        self.error_events = 0
        """Events handed to readers of the error log."""
        self.audit_events = 0
        """Events handed to readers of the audit log."""
        self._by_code: Counter[int] = Counter()
        self._by_time = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def answered(self, code: int, seconds: float) -> None:
        """Count a request that was answered with `code` after `seconds`."""
        self._by_code[code] += 1
        self._by_time[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def exposition(self) -> bytes:
        """Return all metrics as text."""
        text = generate_latest(self._registry)
        for name in (*(name for name, _help, _codes in _CLASSES), "kes_log_error_events", "kes_log_audit_events"):
            text = text.replace(f"# TYPE {name} untyped".encode(), f"# TYPE {name} counter".encode())
        return text

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; prometheus-client calls this."""
        for name, documentation, codes in _CLASSES:
            counted = UntypedMetricFamily(name, documentation, labels=["code"])
            for code, count in sorted(self._by_code.items()):
                if code in codes:
                    counted.add_metric([str(code)], count)
            if counted.samples:  # clients refuse a metric without values
                yield counted
        yield GaugeMetricFamily("kes_http_request_active", "Requests being worked on now.", self.active)
        yield self._response_times()
        yield UntypedMetricFamily("kes_log_error_events", "Error events handed to clients.", self.error_events)
        yield UntypedMetricFamily("kes_log_audit_events", "Audit events handed to clients.", self.audit_events)
        yield from _system()

    def _response_times(self) -> HistogramMetricFamily:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*(f"{bound:g}" for bound in BUCKETS), "+Inf"), self._by_time, strict=True):
            total += count
            buckets.append((bound, total))
        documentation = "Seconds from the start of a request's handler to its end."
        return HistogramMetricFamily("kes_http_response_time", documentation, buckets=buckets, sum_value=self._seconds)


def _system() -> Iterator[GaugeMetricFamily]:
    heap, stack = memory()
    uptime = round(time.monotonic() - _STARTED, 2)
    yield GaugeMetricFamily("kes_system_up_time", "Seconds since the start of the server.", uptime)
    yield GaugeMetricFamily("kes_system_num_cpu", "Logical CPUs of the machine.", os.cpu_count() or 1)
    yield GaugeMetricFamily("kes_system_num_cpu_used", "Logical CPUs the server may use.", usable_cpus())
    yield GaugeMetricFamily("kes_system_num_threads", "Threads of the server.", threading.active_count())
    yield GaugeMetricFamily("kes_system_mem_heap_used", "Bytes of data in memory.", heap)
    yield GaugeMetricFamily("kes_system_mem_heap_objects", "Blocks of memory in use.", sys.getallocatedblocks())
    yield GaugeMetricFamily("kes_system_mem_stack_used", "Bytes of stack.", stack)


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

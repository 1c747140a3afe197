"""The server's metrics in the text format of Prometheus (`GET /v1/metrics`).

Dashboards use the names of the Go server's metrics. Its counters lack the suffix `_total`, which prometheus-client
adds to counters. So the library gets these as untyped metrics, and the text declares them as counters afterwards.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UntypedMetricFamily,
)

from kes_core.counters import BUCKETS, FINE_BUCKETS
from kes_core.server.build import commit, version
from kes_core.server.metrics import credentials, expiring_clients, newest_versions, usable_cpus

if TYPE_CHECKING:
    from kes_core.server.metrics import Metrics

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_FINE: Final = "kes_http_request_duration_seconds"
_CLASSES: Final = (
    ("kes_http_request_success", "Requests answered with a 2xx status.", range(200, 300)),
    ("kes_http_request_error", "Requests answered with a 4xx status.", range(400, 500)),
    ("kes_http_request_failure", "Requests answered with a 5xx status.", range(500, 600)),
)


def exposition(numbers: Mapping[str, Any], metrics: Metrics, *, labelled: bool = True, names: bool = True) -> bytes:
    """Return the metrics as text.

    Args:
        numbers: The sum of the snapshots of all processes.
        metrics: The metrics of this process, for values that are the same in all processes.
        labelled: Whether to include metrics with labels that the Go server does not have. The Go SDK fails on them: it
            accepts labels only for requests by status code.
        names: Whether to include the names of keys, which are not for strangers.
    """
    families = [
        _build_family(metrics.runtime),
        *_server_families(numbers),
        *_certificate_families(numbers, metrics),
        *_credential_families(numbers),
        *_deletion_families(numbers["deletions"]),
        *_frontend_families(numbers["frontends"]),
        *(_key_families(numbers) if names else ()),
    ]
    if not labelled:
        by_code = {name for name, _help, _codes in _CLASSES}
        families = [
            family for family in families if family.name in by_code or (_has_one_value(family) and family.name != _FINE)
        ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    text = generate_latest(registry)
    for name in (*(name for name, _help, _codes in _CLASSES), "kes_log_error_events", "kes_log_audit_events"):
        text = text.replace(f"# TYPE {name} untyped".encode(), f"# TYPE {name} counter".encode())
    return text


def _has_one_value(family: Metric) -> bool:
    return bool(family.samples) and all(sample.labels.keys() <= {"le"} for sample in family.samples)


class _Collector:
    """A collector for prometheus-client."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _server_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    for name, documentation, codes in _CLASSES:
        counted = UntypedMetricFamily(name, documentation, labels=["code"])
        for code, count in sorted(numbers["codes"].items()):
            if int(code) in codes:
                counted.add_metric([code], count)
        if counted.samples:  # clients reject a metric without values
            yield counted
    yield GaugeMetricFamily("kes_http_request_active", "Requests that are running.", numbers["active"])
    times = HistogramMetricFamily("kes_http_response_time", "Seconds from the start of a request's handler to its end.")
    _add_histogram(times, [], numbers["times"], BUCKETS)
    yield times
    times = HistogramMetricFamily(
        _FINE, "Seconds from the start of a request's handler to its end, with finer buckets below 10 ms."
    )
    _add_histogram(times, [], numbers["times"])
    yield times
    yield UntypedMetricFamily("kes_log_error_events", "Error events sent to clients.", numbers["error_events"])
    yield UntypedMetricFamily("kes_log_audit_events", "Audit events sent to clients.", numbers["audit_events"])
    yield from _system_families(numbers)
    yield from _store_families(numbers["store"])
    yield from _plugin_families(numbers["plugins"])
    decisions = CounterMetricFamily(
        "kes_policy_decisions", "Answers of policy engines, by engine and decision.", labels=["engine", "decision"]
    )
    _add_labelled(decisions, numbers["decisions"])
    yield decisions
    lost = CounterMetricFamily("kes_audit_records_lost", "Audit records that a sink did not take.", labels=["sink"])
    _add_labelled(lost, numbers["lost"])
    yield lost
    yield CounterMetricFamily("kes_tls_handshakes", "TLS handshakes that succeeded.", numbers["handshakes"])
    yield CounterMetricFamily(
        "kes_tls_handshake_failures", "TLS handshakes that failed or were aborted.", numbers["failed_handshakes"]
    )
    yield GaugeMetricFamily("kes_workers", "Processes that serve requests.", numbers["workers"])
    yield CounterMetricFamily(
        "kes_worker_restarts", "Processes that died and were replaced.", numbers.get("worker_restarts", 0)
    )


def _store_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily("kes_cache_hits", "Requests for a key that was in memory.", numbers["hits"])
    yield CounterMetricFamily("kes_cache_misses", "Requests for a key that was not in memory.", numbers["misses"])
    times = HistogramMetricFamily(
        "kes_keystore_response_time", "Seconds that the key store took to answer, by operation.", labels=["operation"]
    )
    for operation, counted in sorted(numbers["times"].items()):
        _add_histogram(times, [operation], counted)
    yield times
    errors = CounterMetricFamily(
        "kes_keystore_errors",
        "Failed operations of the key store, by operation and reason.",
        labels=["operation", "reason"],
    )
    _add_labelled(errors, numbers["errors"])
    yield errors


def _plugin_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    times = HistogramMetricFamily(
        "kes_plugin_response_time",
        "Seconds that calls of plugins took, by package, section and name in the configuration, and method.",
        labels=["package", "section", "name", "operation"],
    )
    for labels, counted in sorted(numbers["times"].items()):
        _add_histogram(times, labels.split(" "), counted)
    yield times
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for key, value in sorted(numbers["values"].items()):
        kind, metric, worker, text = key.split(" ", 3)
        name = "kes_plugin_" + re.sub(r"[^a-z0-9_]", "_", metric)
        if kind == "counter":
            families.setdefault(name, CounterMetricFamily(name, text, value))
            continue
        family = families.setdefault(name, GaugeMetricFamily(name, text, labels=["worker"]))
        if isinstance(family, GaugeMetricFamily):  # not if another plugin has a counter of this name
            family.add_metric([worker], value)
    yield from families.values()


def _credential_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    fields = {
        "expires_at": (
            "expiry_timestamp_seconds",
            "When the credentials of the key store expire, in seconds since 1970.",
        ),
        "lifetime": ("lifetime_seconds", "How long the credentials of the key store were valid at first."),
        "uses_left": ("uses_left", "How many times the credentials of the key store can still be used."),
    }
    for field, (suffix, documentation) in fields.items():
        family = GaugeMetricFamily(f"kes_keystore_credential_{suffix}", documentation, labels=["credential"])
        for name, credential in sorted(credentials(numbers).items()):
            if (value := getattr(credential, field)) is not None:
                family.add_metric([name], value)
        if family.samples:
            yield family


def _deletion_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    if not numbers:  # no process looks for them
        return
    yield GaugeMetricFamily(
        "kes_keys_scheduled_for_deletion", "Keys whose deletion is scheduled, at the last look.", numbers["count"]
    )
    if numbers["next"]:
        yield GaugeMetricFamily(
            "kes_key_next_deletion_timestamp_seconds",
            "When the next of these keys is deleted, in seconds since 1970.",
            numbers["next"],
        )


def _frontend_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "kes_frontend_ready", "Whether a front end can serve its clients: 1 if it can, else 0.", labels=["frontend"]
    )
    for name, states in sorted(numbers.items()):
        family.add_metric([name], int(states["ready"] == states["running"]))
    if family.samples:
        yield family


def _key_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "kes_key_newest_version_timestamp_seconds",
        "When the newest version of a key was made, for the 100 oldest of the keys in memory, in seconds since 1970.",
        labels=["key"],
    )
    for name, seconds in sorted(newest_versions(numbers).items()):
        family.add_metric([name], seconds)
    if family.samples:
        yield family


def _build_family(runtime: str) -> Metric:
    labels = {"version": version(), "commit": commit(), "python": platform.python_version(), "runtime": runtime}
    family = GaugeMetricFamily("kes_build_info", "What runs, as labels. Always 1.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _add_histogram(
    family: HistogramMetricFamily,
    labels: list[str],
    numbers: Mapping[str, Any],
    bounds: Sequence[float] = FINE_BUCKETS,
) -> None:
    """Add a histogram, with all its buckets or with those of certain bounds."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*FINE_BUCKETS, math.inf), numbers["counts"], strict=True):
        total += count
        if bound in bounds:
            buckets.append((f"{bound:g}", total))
    buckets.append(("+Inf", total))
    family.add_metric(labels, buckets, numbers["seconds"])


def _add_labelled(family: CounterMetricFamily, counts: Mapping[str, int]) -> None:
    for labels, count in sorted(counts.items()):
        family.add_metric(labels.split(" "), count)


def _certificate_families(numbers: Mapping[str, Any], metrics: Metrics) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "kes_tls_certificate_expiry_timestamp_seconds",
        "When the server's certificate expires, in seconds since 1970.",
        metrics.certificate_expiry,
    )
    clients = GaugeMetricFamily(
        "kes_tls_client_certificate_expiry_timestamp_seconds",
        "When the certificates of clients expire, for those that expire soon, in seconds since 1970.",
        labels=["identity"],
    )
    for identity, expiry in sorted(expiring_clients(numbers).items()):
        clients.add_metric([identity], expiry)
    yield clients


def _system_families(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    uptime = round(time.monotonic() - numbers["started"], 2)
    yield GaugeMetricFamily("kes_system_up_time", "Seconds since the start of the server.", uptime)
    yield GaugeMetricFamily("kes_system_num_cpu", "Logical CPUs of the machine.", os.cpu_count() or 1)
    yield GaugeMetricFamily("kes_system_num_cpu_used", "Logical CPUs the server may use.", usable_cpus())
    yield GaugeMetricFamily("kes_system_num_threads", "Threads of the server.", numbers["threads"])
    yield GaugeMetricFamily("kes_system_mem_heap_used", "Bytes of data in memory.", numbers["heap"])
    yield GaugeMetricFamily("kes_system_mem_heap_objects", "Blocks of memory in use.", numbers["blocks"])
    yield GaugeMetricFamily("kes_system_mem_stack_used", "Bytes of stack.", numbers["stack"])

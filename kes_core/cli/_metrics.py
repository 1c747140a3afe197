"""A server's metrics: parsed from Prometheus's text format and summarized for people and scripts.

The Go server has fewer metrics. A metric that a server does not send is missing in the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Snapshot", "Times", "parse"]

_CLASSES: Final = ("success", "error", "failure")
_QUANTILES: Final = (0.5, 0.9, 0.99)
_METRICS: Final = {
    "active": "kes_http_request_active",
    "uptime": "kes_system_up_time",
    "cpus": "kes_system_num_cpu",
    "usable_cpus": "kes_system_num_cpu_used",
    "threads": "kes_system_num_threads",
    "heap_memory": "kes_system_mem_heap_used",
    "heap_objects": "kes_system_mem_heap_objects",
    "stack_memory": "kes_system_mem_stack_used",
    "audit_events": "kes_log_audit_events",
    "error_events": "kes_log_error_events",
    "cache_hits": "kes_cache_hits",
    "cache_misses": "kes_cache_misses",
    "keystore_errors": "kes_keystore_errors",
    "tls_handshakes": "kes_tls_handshakes",
    "tls_handshake_failures": "kes_tls_handshake_failures",
    "workers": "kes_workers",
    "worker_restarts": "kes_worker_restarts",
    "certificate_expires": "kes_tls_certificate_expiry_timestamp_seconds",
}


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram of times."""

    buckets: Mapping[float, float] = field(default_factory=dict)
    """Maps a bound in seconds to the number of times up to that bound."""
    count: float = 0.0
    seconds: float = 0.0

    def since(self, earlier: Times) -> Times:
        """Return the difference to `earlier`, or everything if the server was restarted since then."""
        if self.count < earlier.count:
            return self
        buckets = {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Times(buckets, self.count - earlier.count, self.seconds - earlier.seconds)

    @property
    def mean(self) -> float:
        """The average in seconds."""
        return self.seconds / self.count if self.count else 0.0

    def below(self, quantile: float) -> float:
        """Return the smallest bound, in seconds, of at least this part of all times; infinity if there is none."""
        wanted = quantile * self.count
        return min((bound for bound, count in self.buckets.items() if count >= wanted), default=float("inf"))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The metrics of a server at one moment. Metrics that the server does not send are missing in `numbers`."""

    requests: Mapping[str, float]
    """By outcome: success, error, failure."""
    numbers: Mapping[str, float]
    times: Times
    """Response times, in the finest buckets that the server has."""
    coarse_times: Times
    """Response times, in the buckets of the Go server."""
    store_times: Times

    def facts(self, earlier: Snapshot | None, elapsed: float) -> dict[str, Any]:
        """Return everything for a script, by the names of the metrics, with rates if there is an earlier snapshot.

        Values that the Go tool prints have the same form here: the uptime and the bounds of the response time are in
        nanoseconds. Other times are in seconds.
        """
        facts: dict[str, Any] = {f"kes_http_request_{outcome}": int(count) for outcome, count in self.requests.items()}
        bounds = {bound: count for bound, count in self.coarse_times.buckets.items() if bound != float("inf")}
        facts["kes_http_response_time"] = {str(_nanoseconds(bound)): int(count) for bound, count in bounds.items()}
        for name, number in self.numbers.items():
            facts[_METRICS[name]] = int(number) if number == int(number) else number
        facts["kes_system_up_time"] = _nanoseconds(self.numbers["uptime"])
        if earlier is not None:
            facts["rates"] = {name: round(rate, 3) for name, rate in self.rates(earlier, elapsed).items()}
        recent = self.recent(earlier)
        if recent.count:
            quantiles = {f"p{quantile * 100:g}": recent.below(quantile) for quantile in _QUANTILES}
            facts["latency"] = {"mean": round(recent.mean, 6)} | {
                name: bound if bound != float("inf") else None for name, bound in quantiles.items()
            }
        if self.store_times.count:
            facts["keystore_latency"] = {"mean": round(self.store_times.mean, 6)}
        return facts

    def recent(self, earlier: Snapshot | None) -> Times:
        """Return the times since an earlier snapshot, or all times if no request came since then."""
        since = self.times.since(earlier.times) if earlier is not None else self.times
        return since if since.count else self.times

    def rates(self, earlier: Snapshot, elapsed: float) -> dict[str, float]:
        """Return the requests a second since an earlier snapshot, by outcome."""
        rates = {}
        for name, count in self.requests.items():
            before = earlier.requests[name]
            # A smaller count: the server was restarted.
            rates[name] = (count - before if count >= before else count) / elapsed
        return rates


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def parse(text: str) -> Snapshot:
    """Read the text of `/v1/metrics`.

    Raises:
        ValueError: The text does not contain the metrics of a KES server.
    """
    from prometheus_client.parser import text_string_to_metric_families

    totals: defaultdict[str, float] = defaultdict(float)
    buckets: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                buckets[family.name][float(sample.labels["le"])] += sample.value
            else:
                # Sum over all labels. The parser adds a suffix to counters, which the names of the Go server lack.
                totals[sample.name.removesuffix("_total")] += sample.value
    numbers = {name: totals[metric] for name, metric in _METRICS.items() if metric in totals}
    if "uptime" not in numbers:
        raise ValueError("the answer holds no metrics of a KES server")

    def times(metric: str) -> Times:
        return Times(buckets[metric], totals.get(f"{metric}_count", 0.0), totals.get(f"{metric}_sum", 0.0))

    coarse = times("kes_http_response_time")
    fine = times("kes_http_request_duration_seconds")
    return Snapshot(
        requests={outcome: totals.get(f"kes_http_request_{outcome}", 0.0) for outcome in _CLASSES},
        numbers=numbers,
        times=fine if fine.buckets else coarse,
        coarse_times=coarse,
        store_times=times("kes_keystore_response_time"),
    )

"""Counters of the server, and the sum of the counters of several processes.

Counters are plain numbers, because the server counts at every request. A snapshot is a tree of dictionaries, lists and
numbers; two snapshots are added number by number.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Final

__all__ = [
    "BUCKETS",
    "FINE_BUCKETS",
    "LOST_RECORDS",
    "Histogram",
    "LostRecords",
    "PluginCounters",
    "PluginMetrics",
    "StoreCounters",
    "merge",
]

BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0)
"""Upper bounds of the buckets that dashboards of the Go server know, in seconds."""
FINE_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.025, *BUCKETS[1:])
"""Upper bounds of the buckets of a histogram, in seconds. They include those of `BUCKETS`."""


class Histogram:
    """Counts durations by bucket."""

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(FINE_BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration in seconds."""
        self._counts[bisect_left(FINE_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def snapshot(self) -> dict[str, Any]:
        """Return the count of each bucket, the last of which has no bound, and the sum of all durations in seconds."""
        return {"counts": list(self._counts), "seconds": self._seconds}


class LostRecords:
    """Counts the audit records that this process has lost, by kind of sink. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("file", "plugin", "syslog"), 0)

    def add(self, sink: str, count: int = 1) -> None:
        """Count lost records of a sink: "file", "plugin" or "syslog"."""
        with self._lock:
            self._counts[sink] += count

    def snapshot(self) -> dict[str, int]:
        """Return the counts by kind of sink."""
        with self._lock:
            return dict(self._counts)


LOST_RECORDS: Final = LostRecords()
"""For the whole process: sinks come and go with each reload, and some of them belong to plugins."""


class StoreCounters:
    """Counts the work of a key cache and its key store. It survives a reload, which replaces both."""

    def __init__(self) -> None:
        self.hits = 0
        """Requests for a key that was in the cache."""
        self.misses = 0
        """Requests for a key that was not in the cache."""
        self.times: dict[str, Histogram] = {}
        """The response times of the store, by operation."""
        self.errors: Counter[tuple[str, str]] = Counter()
        """Failures of the store, by operation and reason."""

    def answered(self, operation: str, seconds: float) -> None:
        """Count an answer of the store, including that a key exists already or does not exist."""
        times = self.times.get(operation)
        if times is None:
            times = self.times[operation] = Histogram()
        times.add(seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters as a tree."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "times": {operation: times.snapshot() for operation, times in self.times.items()},
            "errors": {" ".join(labels): count for labels, count in self.errors.items()},
        }


_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_MAX_METRICS: Final = 50
"""The largest number of metrics of one plugin."""


class PluginMetrics:
    """The metrics of one key store, policy engine or audit sink. They survive a reload.

    The server shows them as `kes_plugin_PLUGIN_NAME`, where `PLUGIN` is the name of its section.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = {}
        """The values by kind and name."""
        self._help: dict[str, str] = {}
        """The help texts by name. The last one counts."""
        self._times: dict[str, Histogram] = {}

    def counter(self, name: str, help: str) -> Callable[..., None]:  # noqa: A002 # as Prometheus calls it
        """Return a function that adds to a counter: 1, or the number that it gets.

        Args:
            name: The end of the metric's name: lower-case letters, digits and `_`. The server appends `_total`.
            help: What it counts, in one line.

        Raises:
            ValueError: The name is not valid, the plugin has 50 metrics already, or it has a gauge of this name. The
                function raises it for a number below 0, and `TypeError` for anything but a number.
        """
        key = self._key("counter", name, help)

        def add(amount: float = 1) -> None:
            number = _number(name, amount)
            if not 0 <= number < math.inf:
                raise ValueError(f"the counter {name!r} can't grow by {number}")
            self._values[key] += number

        return add

    def gauge(self, name: str, help: str) -> Callable[[float], None]:  # noqa: A002 # as above
        """Return a function that sets a value that goes up and down. Each worker has its own.

        Arguments and errors are those of `counter`.
        """
        key = self._key("gauge", name, help)

        def set_value(value: float) -> None:
            self._values[key] = _number(name, value)

        return set_value

    def _key(self, kind: str, name: str, text: str) -> tuple[str, str]:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not a valid name for a metric: expected letters, digits and _")
        key = (kind, name)
        if key not in self._values:
            if name in self._help:
                raise ValueError(f"the plugin has a metric {name!r} of another kind")
            if len(self._values) >= _MAX_METRICS:
                raise ValueError(f"a plugin can have {_MAX_METRICS} metrics")
        self._help[name] = " ".join(text.split())
        self._values.setdefault(key, 0.0)
        return key

    def _timer(self, operation: str) -> Histogram:
        """Return the response times of an operation. For the boundary, which measures the calls of plugins."""
        return self._times.setdefault(operation, Histogram())


def _number(name: str, value: object) -> float:
    """Return a value as a float: one text among the numbers would make all metrics of the server unreadable."""
    if not isinstance(value, Real):
        raise TypeError(f"a value of the metric {name!r} is a {type(value).__name__}, not a number")
    return float(value)


class PluginCounters:
    """The metrics of all plugins of a process."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, str], PluginMetrics] = {}

    def of(self, kind: str, name: str, plugin: str) -> PluginMetrics:
        """Return the metrics of a key store, policy engine or audit sink.

        Args:
            kind: The section of the configuration: `keystore`, `policy_engines` or `audit_sinks`.
            name: Its name there.
            plugin: The distribution that it comes from.
        """
        return self._of.setdefault((kind, name, plugin), PluginMetrics())

    def snapshot(self, worker: int) -> dict[str, Any]:
        """Return the numbers as a tree. The values of gauges are under the number of their worker."""
        values: dict[str, float] = {}
        times: dict[str, Any] = {}
        for (kind, name, plugin), metrics in self._of.items():
            for (type_, metric), value in metrics._values.items():  # noqa: SLF001 # of the same module
                place = worker if type_ == "gauge" else "-"
                values[f"{type_} {name}_{metric} {place} {metrics._help[metric]}"] = value  # noqa: SLF001 # as above
            for operation, histogram in metrics._times.items():  # noqa: SLF001 # as above
                times[f"{plugin or '-'} {kind} {name} {operation}"] = histogram.snapshot()
        return {"values": values, "times": times}


def merge(trees: Iterable[Any]) -> Any:
    """Return the sum of snapshots, or None if `trees` is empty."""
    total: Any = None
    for tree in trees:
        total = tree if total is None else _sum(total, tree)
    return total


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        both = {name: _sum(value, other[name]) if name in other else value for name, value in one.items()}
        return both | {name: value for name, value in other.items() if name not in one}
    if isinstance(one, list):
        return [_sum(*pair) for pair in zip(one, other, strict=True)]
    return one + other

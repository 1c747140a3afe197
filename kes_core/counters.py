"""Counters of the server, and the sum of the counters of several processes.

Counters are plain numbers, because the server counts at every request. A snapshot is a tree of dictionaries, lists and
numbers; two snapshots are added number by number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["BUCKETS", "Histogram", "StoreCounters", "merge"]

BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0)
"""Upper bounds of the buckets of a histogram, in seconds."""


class Histogram:
    """Counts durations by bucket."""

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration in seconds."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def snapshot(self) -> dict[str, Any]:
        """Return the count of each bucket, the last of which has no bound, and the sum of all durations in seconds."""
        return {"counts": list(self._counts), "seconds": self._seconds}


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

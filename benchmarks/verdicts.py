"""The goals, and whether a run reached them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.loads import median, ratio, tail

Results = dict[str, Any]
"""What a run found, by part."""
Values = Callable[[Results, str], list[float]]
REFERENCE: Final = "OpenBao transit"
NATIVE: Final = "native"
HYPERCORN: Final = "hypercorn"


SIZES: Final = {"policies": 10_000, "identities": 100_000, "keys": 100_000, "connections": 1_000}
"""How far things grow."""


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@dataclass(frozen=True)
class Goal:
    """A limit for each runtime that has one, and how to get the numbers from the results."""

    text: str
    limits: dict[str, float]
    values: Values
    at_least: bool = True
    style: str = "{:.1f}"

    def verdict(self, results: Results, runtime: str) -> str:
        """Return what was found, from the worst to the best, and whether the worst reaches the limit."""
        if runtime not in self.limits:
            return ""
        try:
            found = sorted(self.values(results, runtime), reverse=not self.at_least)
        except KeyError:
            return "not measured"
        limit = self.limits[runtime]
        reached = found[0] >= limit if self.at_least else found[0] <= limit
        shown = list(dict.fromkeys(map(self.style.format, (found[0], found[-1]))))
        sign = "at least" if self.at_least else "at most"
        return f"{'yes' if reached else '**no**'}: {' to '.join(shown)} ({sign} {self.style.format(limit)})"


def _to_openbao(at_once: tuple[int, ...], field: str) -> Values:
    def values(results: Results, runtime: str) -> list[float]:
        rows = [row for load, row in results["requests"].items() if any(f", {n} at once" in load for n in at_once)]
        return [_times(row, runtime, field) for row in rows]

    return values


def _times(row: Any, runtime: str, field: str) -> float:
    """Return how many times as good as OpenBao's a result is."""
    if field == "rate":
        return ratio(row[runtime], row[REFERENCE], field)
    return ratio(row[REFERENCE], row[runtime], field)


def _connections(field: str) -> Values:
    return lambda results, runtime: [_times(row, runtime, field) for row in results["connections"].values()]


def _grown(part: str, name: str) -> Values:
    def values(results: Results, runtime: str) -> list[float]:
        rows = results[part][runtime]["rows"].values()
        return [(ratio(row[name], row["base"], "cpu") - 1) * 100 for row in rows]

    return values


def _bulk(results: Results, runtime: str) -> list[float]:
    return [1000 / median(row[runtime], "cpu") for row in results["bulk"].values()]


def _versions(results: Results, runtime: str) -> list[float]:
    """Return what 20 versions add to the instructions of a request, in percent."""
    requests = results["instructions"][runtime]
    return [
        (many - one) / sum(requests[f"{what.partition(',')[0]} h1"].values()) * 100
        for what, (one, many) in results["versions"].items()
    ]


def capacity(row: dict[str, list[dict[str, float]]]) -> float:
    """Return how many times as many requests two workers answer as one, if each has a core of its own.

    The busier one is the limit: its core has no time left when the other's still has some. So it depends on the CPU
    time of a request and on the share of connections of the busier worker. It is the median over the rounds.
    """
    return statistics.median(
        one["cpu"] / (two["cpu"] * two["busiest"]) for one, two in zip(row["workers 1"], row["workers 2"], strict=True)
    )


def _policies(results: Results, runtime: str) -> list[float]:
    """Return what many policies add to the instructions of a request, in percent."""
    before = results["instructions"][runtime]
    return [
        (count / sum(before[load].values()) - 1) * 100
        for load, count in results["instructions with policies"][runtime].items()
    ]


def _workers(results: Results, runtime: str) -> list[float]:
    return [capacity(row) for row in results["workers"][runtime]["rows"].values()]


def _idle(protocol: str) -> Values:
    return lambda results, runtime: [statistics.median(results["idle"][runtime]["kib"][protocol])]


def _half_load(results: Results, runtime: str) -> list[float]:
    return [tail(row[runtime]) for row in results["half load"].values()]


def _both(limit: float) -> dict[str, float]:
    return {NATIVE: limit, HYPERCORN: limit}


_SEVERAL: Final = "generate and decrypt, HTTP/1.1 and HTTP/2, 16 and 64 at once, to OpenBao"
_PERCENT: Final = "{:+.0f} %"
GOALS: Final = [
    Goal(f"{_SEVERAL}: CPU time", {NATIVE: 6, HYPERCORN: 1}, _to_openbao((16, 64), "cpu")),
    Goal(f"{_SEVERAL}: throughput", {NATIVE: 6, HYPERCORN: 1}, _to_openbao((16, 64), "rate")),
    Goal("the same, one at once: CPU time", {NATIVE: 3, HYPERCORN: 1}, _to_openbao((1,), "cpu")),
    Goal("the same, one at once: throughput", {NATIVE: 3, HYPERCORN: 1}, _to_openbao((1,), "rate")),
    Goal("a new connection for each request, to OpenBao: CPU time", {NATIVE: 1}, _connections("cpu")),
    Goal("a new connection for each request, to OpenBao: throughput", {NATIVE: 1}, _connections("rate")),
    Goal("bulk requests: keys for a second of CPU time", {NATIVE: 40_000}, _bulk, style="{:,.0f}"),
    Goal(
        "{policies:,} policies and {identities:,} identities: instructions",
        _both(5),
        _policies,
        False,
        "{:+.1f} %",
    ),
    Goal(
        "{keys:,} keys in memory: KiB for a key",
        _both(1),
        lambda results, runtime: [results["keys"][runtime]["kib"]],
        at_least=False,
        style="{:.2f}",
    ),
    Goal("audit log in a file: CPU time", _both(10), _grown("audit", "audit"), False, _PERCENT),
    Goal("a key with 20 versions: instructions", _both(3), _versions, False, "{:+.1f} %"),
    Goal("two workers: capacity", _both(1.8), _workers, style="{:.2f}"),
    Goal("idle connection, HTTP/1.1: KiB", {NATIVE: 20, HYPERCORN: 64}, _idle("HTTP/1.1"), False, "{:.0f}"),
    Goal("idle connection, HTTP/2: KiB", {NATIVE: 20, HYPERCORN: 64}, _idle("HTTP/2"), False, "{:.0f}"),
    Goal("p99 at half of the highest rate, to p50", {NATIVE: 2}, _half_load, False),
]


def sized(text: str, results: Results) -> str:
    """Return a text with the sizes of a run."""
    return text.format(**results.get("machine", {}).get("sizes", SIZES))


def goals_table(results: Results) -> str:
    """Return a Markdown table of the goals."""
    lines = (
        [sized(goal.text, results), *(goal.verdict(results, name) for name in (NATIVE, HYPERCORN))] for goal in GOALS
    )
    return table(["goal", "native", "Hypercorn"], lines)

"""Tables for docs/performance.md from the numbers of a run. Each replaces what stands between its two markers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Final

from benchmarks.loads import median, ratio, tail
from benchmarks.starts import ROWS
from benchmarks.verdicts import REFERENCE, Results, capacity, goals_table, sized, table

RUNTIMES: Final = {"native": "native", "hypercorn": "Hypercorn"}
MISSING: Final = "Not measured.\n"
MARKED: Final = re.compile(r"(<!-- measured: ([a-z ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
ECHO: Final = "echo"
"""What returns messages and does no work: the least latency that the machine allows."""
WORK: Final = "work"
"""The same, but half of the time it works, as a server at half load does."""
_BUSY: Final = 0.9
_SHORT: Final = 0.5
"""Milliseconds that need one more digit."""
_SMALL: Final = 100
"""Instructions of a request that are not worth a line."""
_MICRO: Final = 1e6
_MILLI: Final = 1e3


def _machine(results: Results) -> str:
    found = results["machine"]
    compiler = found["rust"]  # of the load generator
    text = (
        f"On {found['date']}: {found['processor']}, {found['cores']} cores, load {found['load']} at the start; "
        f"Python {found['python']}, {compiler}, OpenBao {found['openbao']}, kes-core {found['kes-core']}. "
        f"At least {found['rounds']} rounds of {found['seconds']:g} s for each number.\n"
    )
    if float(found["load"]) > float(found["cores"]):
        text += (
            "\n**The machine was busy with other work.** Throughput and latencies are far worse than on a quiet "
            "one, and CPU times vary by a third.\n"
        )
    return text


def _requests(results: Results) -> str:
    rows = {**results["requests"], **results["connections"]}
    names = [*RUNTIMES, "bare Hypercorn", REFERENCE]
    head = ["CPU microseconds", "native", "Hypercorn", "bare Hypercorn", "OpenBao", "OpenBao to native"]
    lines = []
    for load, row in rows.items():
        cpu = [f"{median(row[name], 'cpu') * _MICRO:,.0f}" if name in row else "" for name in names]
        to = [f"{ratio(row[REFERENCE], row[name], 'cpu'):.1f}" for name in RUNTIMES]
        lines.append([load, *cpu, *to])
    return table([*head, "OpenBao to Hypercorn"], lines)


def _throughput(results: Results) -> str:
    rows = {**results["requests"], **results["connections"]}
    names = [*RUNTIMES, "bare Hypercorn", REFERENCE]

    def cell(found: list[dict[str, float]]) -> str:
        star = " *" if median(found, "load") > _BUSY else ""
        return f"{median(found, 'rate'):,.0f}{star}"

    lines = []
    for load, row in rows.items():
        rates = [cell(row[name]) if name in row else "" for name in names]
        lines.append([load, *rates, *(f"{ratio(row[name], row[REFERENCE], 'rate'):.1f}" for name in RUNTIMES)])
    head = ["requests a second", "native", "Hypercorn", "bare Hypercorn", "OpenBao", "native to OpenBao"]
    return table([*head, "Hypercorn to OpenBao"], lines)


def _latency(results: Results) -> str:
    head = ["milliseconds", "", "p50", "p99", "p99.9", "p99 to p50", "requests a second", "load generator busy"]
    work = "computation, as many as native"
    labels = {**RUNTIMES, REFERENCE: "OpenBao", ECHO: "echo, as many as native", WORK: work}
    lines = []
    for load, row in results["half load"].items():
        for name, label in labels.items():
            if name not in row:
                continue
            times = [median(row[name], field) * _MILLI for field in ("p50", "p99", "p999")]
            numbers = [f"{number:.2f}" if number > _SHORT else f"{number:.3f}" for number in times]
            rate = f"{median(row[name], 'rate'):,.0f}"
            busy = f"{median(row[name], 'load') * 100:.0f} %" if "load" in row[name][0] else ""
            line = [load, label, *numbers, f"{tail(row[name]):.1f}", rate, busy]
            if "unseen" in row[name][0]:
                line.append(f"{median(row[name], 'unseen') * 100:.1f} %")
            lines.append(line)
    return table([*head, "not counted"][: len(lines[0])], lines)


def _bulk(results: Results) -> str:
    lines = []
    for load, row in results["bulk"].items():
        keys = [f"{1000 / median(row[name], 'cpu'):,.0f}" for name in RUNTIMES]
        lines.append([f"`{load.partition(',')[0]}`", *keys])
    return table(["keys a second of CPU time", *RUNTIMES.values()], lines)


GROWTH: Final = {
    ("policies", "rows", "policies"): "{policies:,} policies, {identities:,} identities",
    ("keys", "rows", "cached keys, one used"): "{keys:,} keys in memory, of which one is used",
    ("keys", "rows", "cached keys, all used"): "{keys:,} keys in memory, all used in turn",
    ("audit", "rows", "audit"): "audit log in a file",
    ("audit", "versions", "versions"): "a key with 20 versions; the oldest one decrypts",
    ("idle", "rows", "idle connections"): "{connections:,} idle connections",
}


def _percent(value: float) -> str:
    return f"{(value - 1) * 100:+.0f} %"


def _growth(results: Results) -> str:
    lines = []
    for (part, kind, name), label in GROWTH.items():
        for load in results[part]["native"][kind]:
            cells = []
            for runtime in RUNTIMES:
                row = results[part][runtime][kind][load]
                cells += [_percent(ratio(row[name], row["base"], field)) for field in ("cpu", "rate")]
            lines.append([sized(label, results), load, *cells])
    head = ["what grows", "request", "native: CPU", "native: throughput", "Hypercorn: CPU", "Hypercorn: throughput"]
    return table(head, lines)


def _memory(results: Results) -> str:
    lines = [["a key in memory", *(f"{results['keys'][runtime]['kib']:.2f} KiB" for runtime in RUNTIMES)]]
    for protocol in ("HTTP/1.1", "HTTP/2"):
        cells = [f"{statistics.median(results['idle'][runtime]['kib'][protocol]):.0f} KiB" for runtime in RUNTIMES]
        lines.append([f"an idle connection, {protocol}", *cells])
    many = sized("after the start, {policies:,} policies, {identities:,} identities", results)
    for name, label in (("base", "after the start, one policy"), ("policies", many)):
        found = [results["policies"][runtime]["start"][name]["mib"] for runtime in RUNTIMES]
        lines.append([label, *(f"{number:.0f} MiB" for number in found)])
    return table(["memory", *RUNTIMES.values()], lines)


def _listing(results: Results) -> str:
    lines = [
        [name, *(f"{results['keys'][runtime]['listing'][name] * _MILLI:.2f}" for runtime in RUNTIMES)]
        for name in results["keys"]["native"]["listing"]
    ]
    return table(["milliseconds of CPU time to list", *RUNTIMES.values()], lines)


def _start(results: Results) -> str:
    lines = []
    for name, label in (("base", "one policy"), ("policies", "{policies:,} policies, {identities:,} identities")):
        cells = [f"{results['policies'][runtime]['start'][name]['cpu']:.1f}" for runtime in RUNTIMES]
        lines.append([sized(label, results), *cells])
    return table(["seconds of CPU time until the first answer", *RUNTIMES.values()], lines)


def _starts(results: Results) -> str:
    lines = [
        [label, *(f"{results['starts'][runtime][name]:.2g}" for runtime in RUNTIMES)] for name, label in ROWS.items()
    ]
    return table(["seconds of CPU time", *RUNTIMES.values()], lines)


def _workers(results: Results) -> str:
    lines = []
    for runtime, label in RUNTIMES.items():
        for load, row in results["workers"][runtime]["rows"].items():
            one, two = row["workers 1"], row["workers 2"]
            busiest = f"{median(two, 'busiest') * 100:.0f} %"
            cpu, rate = _percent(ratio(two, one, "cpu")), f"{ratio(two, one, 'rate'):.2f}"
            lines.append([label, load, f"{capacity(row):.2f}", busiest, cpu, rate])
    head = ["two workers", "request", "capacity", "connections of the busier worker", "CPU time of a request"]
    return table([*head, "throughput, load on the same cores"], lines)


def _versions(results: Results) -> str:
    lines = [
        [name, f"{one:,.0f}", f"{many:,.0f}", f"{(many / one - 1) * 100:+.1f} %"]
        for name, (one, many) in results["versions"].items()
    ]
    return table(["instructions without HTTP", "1 version", "20 versions", "difference"], lines)


def _instructions(results: Results) -> str:
    found = results["instructions"]

    def line(name: str, numbers: dict[str, float]) -> list[str]:
        return [name, *(f"{numbers[runtime]:,.0f}" for runtime in RUNTIMES)]

    loads = found["native"]
    lines = [line(load, {runtime: sum(found[runtime][load].values()) for runtime in RUNTIMES}) for load in loads]
    shown = "generate h2"
    parts = {part for runtime in RUNTIMES for part in found[runtime][shown]}
    for part in sorted(parts, key=lambda part: -loads[shown].get(part, 0)):
        numbers = {runtime: found[runtime][shown].get(part, 0) for runtime in RUNTIMES}
        if max(numbers.values()) > _SMALL:
            lines.append(line(f"of {shown}: {part}", numbers))
    return table(["instructions of a request", *RUNTIMES.values()], lines)


def _modules(results: Results) -> str:
    found = results["modules"]
    text = ""
    for runtime, label in RUNTIMES.items():
        lines = [[name, f"{share * 100:.0f} %"] for name, share in found[runtime].items()]
        text += ("\n" if text else "") + table([f"{label}: module, with what it calls in C", "share"], lines)
    return text


BLOCKS: Final[dict[str, Callable[[Results], str]]] = {
    "machine": _machine,
    "goals": goals_table,
    "requests": _requests,
    "throughput": _throughput,
    "latency": _latency,
    "bulk": _bulk,
    "growth": _growth,
    "memory": _memory,
    "listing": _listing,
    "start": _start,
    "starts": _starts,
    "workers": _workers,
    "versions": _versions,
    "instructions": _instructions,
    "modules": _modules,
}
"""What makes each table."""


def fill_page(page: str, results: Results) -> str:
    """Return the page with new tables. A table says so if its numbers were not measured.

    Raises:
        ValueError: The page has a marker for a table that does not exist.
    """

    def replace(match: re.Match[str]) -> str:
        if match[2] not in BLOCKS:
            raise ValueError(f"the page asks for an unknown table: {match[2]}")
        try:
            content = BLOCKS[match[2]](results)
        except KeyError:
            content = MISSING
        return f"{match[1]}\n{content}\n{match[4]}"

    return MARKED.sub(replace, page)

"""Draw docs/screens/dashboard.svg: `.venv/bin/python scripts/dashboard_picture.py [FILE]`. It needs Prometheus.

Real servers work, a real Prometheus scrapes them, and the picture shows what it answers to the queries of the dashboard
for Grafana in examples/grafana. The colours and the lines are ours: Grafana itself is not needed.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.test_dashboard import PANELS, Site  # noqa: E402

_NUMBERS: Final = ("Servers up", "Requests per second", "Failed requests", "Response time, p99", "Workers")
_CHARTS: Final = (
    "Successes",
    "Client errors",
    "Server errors",
    "Response time below 10 ms",
    "Cache hit ratio",
    "Key store: time, p99",
    "Policy decisions",
    "TLS handshakes",
    "Memory",
)
_WIDTH, _HEIGHT, _GAP = 380, 190, 12
_SMALL_WIDTH, _SMALL_HEIGHT = 223, 84
_COLOURS: Final = ("#5eead4", "#facc15", "#60a5fa", "#f87171", "#d8b4fe", "#fdba74", "#86efac", "#e2f1ef")
_MARGIN: Final = 30
_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
_MOST_NAMES: Final = 3


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, as short as a chart needs it."""
    if unit == "percentunit":
        return f"{value:.1%}"
    size, prefix = next(((size, prefix) for size, prefix in _UNITS if abs(value) >= size), (1.0, ""))
    return f"{value / size:.3g} {prefix}{ {'s': 's', 'bytes': 'B'}.get(unit, '') }".replace(" k", "k").strip()


def values_of(site: Site, panel: Any) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return the series of a panel: the name of each, and its times and values."""
    found = []
    for target in panel["targets"]:
        for series in site.series(target, site.api):
            pairs = [(float(time), float(value)) for time, value in series["values"]]
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            found.append((name, [(time, value) for time, value in pairs if math.isfinite(value)]))
    return [(name, pairs) for name, pairs in found if pairs]


def box(x: float, y: float, width: float, height: float, title: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="#10302d"/>'
        f'<text x="{x + 10}" y="{y + 20}" class="title">{escape(title)}</text>'
    )


def number(site: Site, panel: Any, x: float, y: float) -> str:
    """Draw a panel that shows one number."""
    last = [pairs[-1][1] for _name, pairs in values_of(site, panel)]
    text = shown(last[0], panel["fieldConfig"]["defaults"]["unit"]) if last else "-"
    place = f'x="{x + _SMALL_WIDTH / 2}" y="{y + 62}"'
    return (
        box(x, y, _SMALL_WIDTH, _SMALL_HEIGHT, panel["title"]) + f'<text {place} class="number">{escape(text)}</text>'
    )


def chart(site: Site, panel: Any, x: float, y: float) -> Iterator[str]:
    """Draw a panel with lines."""
    yield box(x, y, _WIDTH, _HEIGHT, panel["title"])
    unit, series = panel["fieldConfig"]["defaults"]["unit"], values_of(site, panel)
    top = max((value for _name, pairs in series for _time, value in pairs), default=0) or 1
    left, right, bottom, height = x + 56, x + _WIDTH - 12, y + _HEIGHT - _MARGIN, _HEIGHT - _MARGIN - 36
    for part in (0, 0.5, 1):
        level = bottom - part * height
        yield f'<path d="M{left} {level:.1f}H{right}" class="grid"/>'
        yield f'<text x="{left - 6}" y="{level + 4:.1f}" class="scale">{escape(shown(part * top, unit))}</text>'
    for place, (name, pairs) in enumerate(series):
        span = site.end - site.begin
        points = [
            f"{left + (time - site.begin) / span * (right - left):.1f} {bottom - value / top * height:.1f}"
            for time, value in pairs
        ]
        colour = _COLOURS[place % len(_COLOURS)]
        yield f'<path d="M{"L".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if place < _MOST_NAMES:
            # Addresses differ at each run, and say nothing.
            words = [word for word in name.split() if ":" not in word] or ["server"]
            at = f'x="{left + place * 108}" y="{y + _HEIGHT - 10}"'
            yield f'<text {at} class="name" fill="{colour}">{escape(" ".join(words)[:16])}</text>'


def draw(site: Site) -> str:
    """Return the picture."""
    by_title = {panel["title"]: panel for panel in PANELS}
    parts = [
        number(site, by_title[title], _GAP + place * (_SMALL_WIDTH + _GAP), _GAP)
        for place, title in enumerate(_NUMBERS)
    ]
    begin = _SMALL_HEIGHT + 2 * _GAP
    for place, title in enumerate(_CHARTS):
        x, y = _GAP + place % 3 * (_WIDTH + _GAP), begin + place // 3 * (_HEIGHT + _GAP)
        parts += chart(site, by_title[title], x, y)
    width, height = 3 * (_WIDTH + _GAP) + _GAP, begin + math.ceil(len(_CHARTS) / 3) * (_HEIGHT + _GAP)
    style = (
        "text{font-family:system-ui,sans-serif;fill:#e2f1ef}.title{font-size:13px;font-weight:600}"
        ".number{font-size:30px;font-weight:600;text-anchor:middle;fill:#5eead4}"
        ".scale{font-size:11px;text-anchor:end;fill:#9fbab6}.name{font-size:11px}"
        ".grid{stroke:#2b4a46;stroke-width:1}"
        + "".join(f'.name[fill="{colour}"]{{fill:{colour}}}' for colour in _COLOURS)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{style}</style>'
        f'<rect width="{width}" height="{height}" rx="8" fill="#0b1f1e"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "screens" / "dashboard.svg"
    with tempfile.TemporaryDirectory(prefix="kes-") as directory, ExitStack() as started:
        output.write_text(draw(Site(Path(directory), started)), "utf-8")
    print(output)


if __name__ == "__main__":
    main()

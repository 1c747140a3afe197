"""The picture of docs/performance.md: how many times the requests of OpenBao a second of CPU time is good for."""

from __future__ import annotations

from typing import Any, Final
from xml.etree import ElementTree as ET

from benchmarks.loads import ratio
from benchmarks.verdicts import REFERENCE

SERIES: Final = (("native", "kes-core, native", "#3949ab"), ("hypercorn", "kes-core, Hypercorn", "#9fa8da"))
_LEFT: Final = 250
_WIDTH: Final = 460
_BAR: Final = 11
_ROW: Final = 32
_TOP: Final = 62


def draw(results: dict[str, Any]) -> str:
    """Return an SVG picture with two bars for each load."""
    rows = {**results.get("requests", {}), **results.get("connections", {})}
    values = {
        load: [ratio(row[REFERENCE], row[name], "cpu") if name in row else 0.0 for name, _label, _colour in SERIES]
        for load, row in rows.items()
    }
    largest = max((max(found) for found in values.values()), default=1.0)
    scale = _WIDTH / max(largest, 1.0)
    height = _TOP + _ROW * len(values) + 34
    size = {"viewBox": f"0 0 {_LEFT + _WIDTH + 60} {height}", "font-family": "sans-serif", "font-size": "13"}
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size})
    ET.SubElement(svg, "rect", width="100%", height="100%", fill="white")

    def text(x: float, y: float, content: str, **options: str) -> None:
        ET.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "fill": "#222", **options}).text = content

    text(10, 22, "Requests for a second of CPU time, as a multiple of OpenBao transit", **{"font-weight": "bold"})
    for number, (_name, label, colour) in enumerate(SERIES):
        ET.SubElement(svg, "rect", x=str(_LEFT + 180 * number), y="35", width="12", height="12", fill=colour)
        text(_LEFT + 180 * number + 18, 46, label)
    for number, (load, found) in enumerate(values.items()):
        top = _TOP + _ROW * number
        text(_LEFT - 10, top + 16, load, **{"text-anchor": "end"})
        for place, value in enumerate(found):
            y = top + place * (_BAR + 1)
            shape = {"x": str(_LEFT), "y": str(y), "width": f"{value * scale:.1f}", "height": str(_BAR)}
            ET.SubElement(svg, "rect", {**shape, "fill": SERIES[place][2]})
            text(_LEFT + max(value, 1.0) * scale + 5, y + 10, f"{value:.1f}", **{"font-size": "11"})
    x, bottom = f"{_LEFT + scale:.1f}", height - 30
    line = {"x1": x, "x2": x, "y1": str(_TOP - 6), "y2": str(bottom), "stroke": "#c62828", "stroke-dasharray": "4 3"}
    ET.SubElement(svg, "line", line)
    text(_LEFT + scale, height - 14, "OpenBao transit = 1", **{"text-anchor": "middle", "font-size": "11"})
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"

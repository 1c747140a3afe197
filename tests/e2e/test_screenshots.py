"""The pictures of the command line in the documentation, and the script that makes them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.helpers.programs import program

ROOT = Path(__file__).parents[2]
SCREENS = ROOT / "docs" / "screens"
SHOWN = {
    "dashboard": ["Requests per second", "Cache hit ratio", "p99"],
    "doctor": ["tls.key and tls.cert are swapped", "2 errors, 1 warning, 1 note"],
    "identities": ["Role", "billing"],
    "log": ["403", "no allow rule of policy 'minio' matches"],
    "metric": ["Per second", "99% ≤ "],
    "status": ["The server is ready.", "days left", "2 policies for 2 identities"],
}


def text_of(picture: Path) -> str:
    """Return the text of a picture without spaces. It has to be well-formed, and to load nothing from elsewhere."""
    svg = picture.read_text()
    assert re.findall(r"(?:src|href|url)\W{1,3}https?:", svg) == []
    root = ET.fromstring(svg)
    rows: dict[str, str] = {}
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        place = element.get("y", "")
        rows[place] = rows.get(place, "") + "".join(element.itertext())
    return "".join("".join(rows.values()).split())


def test_pictures_are_those_that_pages_show() -> None:
    assert {file.stem for file in SCREENS.iterdir()} == set(SHOWN)
    page = (ROOT / "docs" / "operations.md").read_text()
    for name, texts in SHOWN.items():
        assert f"(screens/{name}.svg)" in page
        for text in texts:
            assert text.replace(" ", "") in text_of(SCREENS / f"{name}.svg"), name


@pytest.mark.slow
def test_scripts_make_them(tmp_path: Path) -> None:
    program("prometheus", "prometheus")
    for script, output in (("screenshots.py", tmp_path), ("dashboard_picture.py", tmp_path / "dashboard.svg")):
        subprocess.run([sys.executable, ROOT / "scripts" / script, output], check=True, timeout=280)
    for name, texts in SHOWN.items():
        for text in texts:
            assert text.replace(" ", "") in text_of(tmp_path / f"{name}.svg"), name

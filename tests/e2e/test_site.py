"""The documentation site in a browser: at the width of a desktop and of a phone."""

from __future__ import annotations

import functools
import html
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import program

ROOT = Path(__file__).parents[2]
PAGES = ("", "configuration/", "messages/", "decisions/site/")
WIDTHS = (1440, 390)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Opens each page at each width in a frame, which has the width as its viewport, and writes what it measures.
MEASURE = """<!doctype html><link rel="icon" href="data:,"><pre id="measured"></pre><script>
const cases = CASES, measured = [];
const next = () => {
  if (!cases.length) { document.getElementById("measured").textContent = JSON.stringify(measured); return; }
  const [page, width] = cases.shift(), frame = document.createElement("iframe");
  frame.style.cssText = `border: 0; width: ${width}px; height: 900px`;
  frame.src = "/" + page;
  frame.onload = () => setTimeout(() => {
    const inner = frame.contentDocument, names = [...inner.querySelectorAll("td:first-child code")];
    measured.push({
      page, width,
      content: inner.documentElement.scrollWidth,
      broken_images: [...inner.images].filter(image => !image.naturalWidth).map(image => image.src),
      broken_names: names.filter(name => !name.textContent.match(/[\\s-]/) && name.getClientRects().length > 1)
        .map(name => name.textContent),
      neighbours: inner.querySelectorAll(".md-footer__link").length,
    });
    frame.remove();
    next();
  }, 300);
  document.body.append(frame);
};
next();
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and writes nothing."""

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as the continuous integration does."""
    folder = tmp_path_factory.mktemp("site")
    venv, built = folder / "venv", folder / "site"
    lock = ["--require-hashes", "--requirement", "requirements/docs.txt"]
    install = ["-m", "pip", "--quiet", "--python", str(venv / "bin/python"), "install", *lock]
    build = ["-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(built)]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(venv)],
        [sys.executable, *install],
        [str(venv / "bin/python"), *build],
    ):
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site, and return its address."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pages_fit_their_windows(site: Path, address: str, tmp_path: Path) -> None:
    """No page is wider than the window, breaks a field's name, misses a picture or writes an error to the console."""
    cases = [[page, width] for page in PAGES for width in WIDTHS]
    (site / "measure.html").write_text(MEASURE.replace("CASES", json.dumps(cases)))
    # Its own sandbox needs more rights than a test has; it opens nothing but our pages.
    chromium = [program("chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu"]
    options = [f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=60000", "--dump-dom"]
    done = subprocess.run(
        [*chromium, *options, f"{address}/measure.html"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r'<pre id="measured">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    measured: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert [[page["page"], page["width"]] for page in measured] == cases
    for page in measured:
        assert page["content"] <= page["width"], page
        assert page["broken_images"] == [], page
        assert page["broken_names"] == [], page
        assert page["neighbours"] > 0, page  # the links to the previous and the next page
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_search_finds_a_message_by_its_words(site: Path) -> None:
    """What an operator copies from a log is in the index, under the section that explains it."""
    index = json.loads((site / "search/search_index.json").read_text())
    for words in ("no installed plugin provides it", "listening on"):
        assert [entry["location"] for entry in index["docs"] if words in entry["text"]], words
    assert any(entry["location"].startswith("messages/#") for entry in index["docs"])

"""The documentation site in a browser: at the width of a desktop and of a phone."""

from __future__ import annotations

import functools
import http.server
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.programs import program

ROOT = Path(__file__).parents[2]
WIDTHS = (390, 1440)
MESSAGE = "no installed plugin provides it"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Opens each page in a frame of each width, then types a message into the search of the last one. Sends what it measures
# to the server of the test.
MEASURE = """<!doctype html><link rel="icon" href="data:,"><script type="module">
const measured = [], pause = time => new Promise(done => setTimeout(done, time));
for (const [page, width] of CASES) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `border: 0; width: ${width}px; height: 900px`;
  frame.src = "/" + page;
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded;
  await pause(300);
  const inner = frame.contentDocument, names = [...inner.querySelectorAll("td:first-child code")];
  measured.push({
    page, width,
    content: inner.documentElement.scrollWidth,
    broken_images: [...inner.images].filter(image => !image.naturalWidth).map(image => image.src),
    broken_names: names.filter(name => !name.textContent.match(/[\\s-]/) && name.getClientRects().length > 1)
      .map(name => name.textContent),
    neighbours: inner.querySelectorAll(".md-footer__link").length,
  });
}
const frame = document.querySelector("iframe:last-of-type"), inner = frame.contentDocument;
const field = inner.querySelector("[data-md-component=search-query]");
field.focus();
field.value = "SEARCHED";
let found = [];
for (let tries = 0; !found.length && tries < 100; tries++) {
  field.dispatchEvent(new frame.contentWindow.KeyboardEvent("keyup", {bubbles: true}));
  await pause(100);
  found = [...inner.querySelectorAll(".md-search-result__link")].map(link => link.pathname);
}
await fetch("/measured", {method: "POST", body: JSON.stringify({pages: measured, found})});
</script><body>"""


class Site(http.server.ThreadingHTTPServer):
    """Serves a folder, and receives the browser's measurements."""

    def __init__(self, folder: Path) -> None:
        self.measured: queue.Queue[bytes] = queue.Queue()
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Site

    def do_POST(self) -> None:
        self.server.measured.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as CI does."""
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


@pytest.fixture
def served(site: Path) -> Iterator[Site]:
    with Site(site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_pages_and_search(site: Path, served: Site, tmp_path: Path) -> None:
    """No page is wider than the window, breaks a field's name, misses a picture or writes an error to the console.

    The search finds the page that explains a message.
    """
    pages = sorted(str(file.parent.relative_to(site)) for file in site.rglob("index.html"))
    cases = [[f"{page}/".removeprefix("./"), width] for page in pages for width in WIDTHS]
    assert len(cases) > 2 * 30
    page = MEASURE.replace("CASES", json.dumps(cases)).replace("SEARCHED", MESSAGE)
    (site / "measure.html").write_text(page)
    # Chromium's sandbox needs more rights than a test has, and the browser opens only our pages.
    chromium = [
        program("chromium", "chromium"),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
    ]
    options = [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    with (tmp_path / "log").open("w") as log:
        browser = subprocess.Popen(
            [*chromium, *options, f"http://127.0.0.1:{served.server_port}/measure.html"], stdout=log, stderr=log
        )
        try:
            measured: dict[str, Any] = json.loads(served.measured.get(timeout=600))
        finally:
            browser.terminate()
            browser.wait(timeout=60)
    assert [[page["page"], page["width"]] for page in measured["pages"]] == cases
    for page in measured["pages"]:
        assert page["content"] <= page["width"], page
        assert page["broken_images"] == [], page
        assert page["broken_names"] == [], page
        assert page["neighbours"] > 0, page  # the links to the previous and the next page
    assert "/messages/" in measured["found"], measured["found"]
    assert [line for line in (tmp_path / "log").read_text().splitlines() if "CONSOLE" in line] == []

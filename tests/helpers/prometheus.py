"""A real Prometheus for tests, and a target with the Go server's metrics."""

from __future__ import annotations

import http.server
import itertools
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.programs import free_port, program
from tests.helpers.vectors import vectors

__all__ = ["GoServer", "Prometheus", "Series"]

Series = dict[str, Any]
"""A series in the form of Prometheus's API: labels, and values with their times."""


class Prometheus:
    """One Prometheus, which runs until `close`."""

    def __init__(self, config: Path) -> None:
        """Start Prometheus with this configuration, and wait until it scrapes. It keeps its data next to the file."""
        self.port = free_port()
        self._process = subprocess.Popen(
            [
                program("prometheus", "prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={config.parent / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        said = ""
        for line in self._process.stderr:
            said += line
            if "Server is ready to receive web requests" in line:
                break
        else:
            self._process.wait()
            self._process.stderr.close()
            raise AssertionError(said)
        self._reading = threading.Thread(target=self._process.stderr.read)  # a full pipe would block it
        self._reading.start()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=30.0, trust_env=False)

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the data of the API's answer."""
        answer = self._client.get(path, params=parameters).json()
        assert answer["status"] == "success", (answer["error"], parameters)
        assert not answer.get("warnings")
        return answer["data"]

    def at(self, expression: str, moment: float | None = None) -> list[Series]:
        """Return the series of an expression at one moment, each with one value. The default moment is now."""
        when = {} if moment is None else {"time": moment}
        data = self.get("/query", query=expression, **when)
        assert data["resultType"] == "vector"
        return [{"metric": found["metric"], "values": [found["value"]]} for found in data["result"]]

    def over(self, expression: str, start: float, end: float) -> list[Series]:
        """Return the series of an expression from second to second."""
        found: list[Series] = self.get("/query_range", query=expression, start=start, end=end, step=1)["result"]
        return found

    def until(self, *conditions: str, timeout: float = 120.0) -> Iterator[None]:
        """Yield until each condition has a value; the caller decides what to do meanwhile.

        There is no event to wait for: Prometheus scrapes on its own schedule and sends no notification.
        """
        deadline = time.monotonic() + timeout
        while missing := [condition for condition in conditions if not self.at(condition)]:
            targets = [(target["scrapeUrl"], target["lastError"]) for target in self.get("/targets")["activeTargets"]]
            assert time.monotonic() < deadline, (missing, targets)
            yield

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(timeout=60)
        self._reading.join()
        if self._process.stderr is not None:
            self._process.stderr.close()


class GoServer:
    """A target with exactly the Go server's metrics in the vectors. The values grow with each scrape."""

    def __init__(self) -> None:
        scrapes = itertools.count(1)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = go_exposition(next(scrapes)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # its name in the standard library
                """Log nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.instance = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


_CODES = {"kes_http_request_success": 200, "kes_http_request_error": 404, "kes_http_request_failure": 502}


def go_exposition(count: int) -> str:
    """Return all metrics of the vectors in the Go server's format, with the value `count` for each counter."""
    metrics = vectors("metrics")
    lines = []
    for case in metrics["cases"]:
        name = case["name"]
        lines += [f"# HELP {name} {case['meaning']}", f"# TYPE {name} {case['type']}"]
        if case["type"] == "histogram":
            lines += [f'{name}_bucket{{le="{bound}"}} {count}' for bound in metrics["bucket_labels"]]
            lines += [f"{name}_sum {count * 0.004}", f"{name}_count {count}"]
        else:
            labels = f'{{code="{_CODES[name]}"}}' if case["labels"] else ""
            lines.append(f"{name}{labels} {count}")
    return "\n".join(lines) + "\n"

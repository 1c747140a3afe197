"""A server's metrics and log streams."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx

from tests.helpers.server import Server
from tests.helpers.vectors import vectors

METRICS = vectors("metrics")


def families(server: Server) -> dict[str, Any]:
    with server.client() as client:
        response = client.get("/v1/metrics")
    assert response.headers["content-type"] == METRICS["content_type"].split(" (")[0]
    lines = response.text.splitlines()
    types = dict(line.split()[2:] for line in lines if line.startswith("# TYPE"))
    samples: dict[str, dict[str, float]] = {name: {} for name in types}
    for line in lines:
        # Parsed by hand, because current parsers rename the counters of this format.
        if match := re.fullmatch(r"(\w+)(?:\{(.+)\})? (\S+)", line):
            sample, labels, value = match.groups()
            label = ",".join(re.findall(r'="([^"]+)"', labels or ""))
            name = sample if sample in types else sample.rpartition("_")[0]
            samples[name][sample.removeprefix(name) + (label or "")] = float(value)
    return {name: (types[name], samples[name]) for name in types}


class Reader:
    """Reads a stream of events in a thread of its own."""

    def __init__(self, server: Server, path: str, *, http2: bool) -> None:
        self.events: list[Any] = []
        self.changed = threading.Condition()
        self.began = threading.Event()
        self.ended = threading.Event()
        self.client = server.client(http2=http2)
        self.thread = threading.Thread(target=self.run, args=(path,))
        self.thread.start()
        assert self.began.wait(60)

    def run(self, path: str) -> None:
        try:
            with self.client.stream("GET", path, timeout=None) as response:
                assert response.headers["content-type"] == "application/x-ndjson"
                self.began.set()
                for line in response.iter_lines():
                    with self.changed:
                        self.events.append(json.loads(line))
                        self.changed.notify_all()
        except httpx.HTTPError:
            pass
        finally:
            self.ended.set()

    def wait_for(self, count: int) -> list[Any]:
        self.wait_until(lambda events: len(events) >= count)
        return list(self.events)

    def wait_until(self, wanted: Callable[[list[Any]], bool]) -> None:
        """Wait until the received events meet a condition."""
        with self.changed:
            assert self.changed.wait_for(lambda: wanted(self.events), timeout=60), self.events

    def close(self) -> None:
        self.thread.join(60)
        self.client.close()

"""How old the newest versions of keys are, in the metrics of one process and of several."""

from __future__ import annotations

from typing import Any

import httpx

from kes_core.counters import merge
from kes_core.keys.stored import KeyVersion, Timestamp
from kes_core.server.exposition import exposition
from kes_core.server.metrics import MAX_KEYS, Metrics
from kes_core.server.workers.supervisor import _lasting
from kes_core.testing import FakeServer

NAME = "kes_key_newest_version_timestamp_seconds"


def snapshot(**created: int) -> dict[str, Any]:
    made = KeyVersion.generate("me")
    keys = {name: KeyVersion(made.key, made.hmac_key, Timestamp(seconds), "me") for name, seconds in created.items()}
    metrics = Metrics()
    metrics.keys = lambda: keys
    return metrics.snapshot()


def lines(numbers: dict[str, Any], *, labelled: bool = True, names: bool = True) -> set[str]:
    text = exposition(numbers, Metrics(), labelled=labelled, names=names).decode()
    return {line for line in text.splitlines() if line.startswith(NAME)}


def test_newest_version_counts_also_if_another_process_knows_an_older_one() -> None:
    both = merge([snapshot(a=1000, b=2000), snapshot(a=3000)])
    assert lines(both) == {f'{NAME}{{key="a"}} 3000.0', f'{NAME}{{key="b"}} 2000.0'}
    assert lines(both, names=False) == set()
    assert lines(both, labelled=False) == set()  # the Go SDK fails on labels that it does not know


def test_only_the_oldest_keys_are_shown() -> None:
    found = lines(snapshot(**{f"k{number}": 10_000 - number for number in range(MAX_KEYS + 50)}))
    assert len(found) == MAX_KEYS
    assert f'{NAME}{{key="k{MAX_KEYS + 49}"}} {10_000 - MAX_KEYS - 49}.0' in found


def test_unknown_time_and_worker_that_died_are_not_shown() -> None:
    assert lines(snapshot(a=-62135596800)) == set()
    assert lines(merge([_lasting(snapshot(a=1000)), snapshot()])) == set()


def test_server_shows_the_keys_that_it_uses() -> None:
    with FakeServer(keys=["k"]) as server, httpx.Client(transport=server.transport(), base_url="https://s") as http:
        assert http.put("/v1/key/generate/k").status_code == 200
        made = http.put("/v1/key/rotate/k").json()["created_at"]
        assert http.put("/v1/key/generate/k").status_code == 200
        (line,) = (line for line in http.get("/v1/metrics").text.splitlines() if line.startswith(NAME))
    assert abs(Timestamp.parse(made).seconds - float(line.split()[-1])) <= 1

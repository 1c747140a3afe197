"""A record and its line of JSON say the same."""

from __future__ import annotations

import json
import time
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from kes_core.audit.event import line_of, make_event

TEXT = st.text(st.characters(), max_size=40)
PATHS = st.one_of(TEXT, st.binary(max_size=40).map(lambda path: path.decode("utf-8", "surrogateescape")))


@given(
    ip=TEXT, path=PATHS, identity=TEXT, policy=TEXT, reason=PATHS, code=st.integers(100, 599), seconds=st.floats(0, 100)
)
def test_line_is_the_record(
    ip: str, path: str, identity: str, policy: str, reason: str, code: int, seconds: float
) -> None:
    event = make_event(ip=ip, path=path, identity=identity, code=code, seconds=seconds, policy=policy, reason=reason)
    assert line_of(event) == json.dumps(event, separators=(",", ":"))
    assert line_of(dict(event)) == line_of(event)


def test_time_is_now() -> None:
    before = time.time()
    record = make_event(ip="", path="", identity="", code=200, seconds=0.0)
    assert before - 1e-5 <= datetime.fromisoformat(record["time"]).timestamp() <= time.time()
    assert len(record["time"]) == len("2026-01-02T03:04:05.678901Z")

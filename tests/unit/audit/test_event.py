"""A record and its line of JSON say the same."""

from __future__ import annotations

import json
import time
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from kes_core.audit.event import line_of, make_lines, reason_text, record_of, request_text

TEXT = st.text(st.characters(), max_size=40)
PATHS = st.one_of(TEXT, st.binary(max_size=40).map(lambda path: path.decode("utf-8", "surrogateescape")))


@given(
    ip=TEXT,
    path=PATHS,
    identity=TEXT,
    policy=TEXT,
    frontend=TEXT,
    request_id=PATHS,
    reason=PATHS,
    code=st.integers(100, 599),
    seconds=st.floats(0, 100),
)
def test_line_is_the_record(
    ip: str,
    path: str,
    identity: str,
    policy: str,
    frontend: str,
    request_id: str,
    reason: str,
    code: int,
    seconds: float,
) -> None:
    """A line is what the standard library makes of the record, without members that are empty."""
    request = request_text(ip=ip, path=path, identity=identity, policy=policy, frontend=frontend, request_id=request_id)
    (line,) = make_lines([(request, code, seconds, reason_text(reason))])
    event = record_of(line)
    named = {"policy": policy, "frontend": frontend, "id": readable(request_id)}
    optional = {name: text for name, text in named.items() if text}
    why = {"reason": readable(reason)} if reason else {}
    assert event == {
        "time": event["time"],
        "request": {"ip": ip, "path": readable(path), "identity": identity, **optional},
        "response": {"code": code, "time": int(seconds * 1e9), **why},
    }
    assert line_of(event) == line == json.dumps(event, separators=(",", ":")) == line_of(dict(event))
    assert line.isascii()


def readable(text: str) -> str:
    """Return a path with U+FFFD for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def test_time_is_now() -> None:
    for _repetition in range(3):
        before = time.time()
        record, other = map(record_of, make_lines([('"request":{}', code, 0.0, "") for code in (200, 403)]))
        assert before - 1e-5 <= datetime.fromisoformat(record["time"]).timestamp() <= time.time()
        assert record["time"] == other["time"]
        assert len(record["time"]) == len("2026-01-02T03:04:05.678901Z")

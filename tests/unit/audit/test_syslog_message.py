"""Records for syslog: each fits what every receiver takes, and stays valid JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kes_core.audit.syslog import MAX_MESSAGE, _message

texts = st.text(max_size=40).map(lambda text: text * 60) | st.text(max_size=3000)


@given(path=texts, reason=texts.map(lambda text: text[:500]), policy=st.text("abc-", max_size=80))
def test_record_fits_and_keeps_its_beginning(path: str, reason: str, policy: str) -> None:
    request = {"ip": "10.1.2.3", "path": path, "identity": "f" * 64, "policy": policy}
    event: dict[str, Any] = {"time": "2026-01-02T03:04:05.678901Z", "request": request}
    event["response"] = {"code": 403, "time": 123456} | ({"reason": reason} if reason else {})
    message = _message(json.dumps(event, separators=(",", ":")))
    assert len(message) <= MAX_MESSAGE
    assert message.isascii()
    read = json.loads(message)
    if not read.pop("shortened", False):
        assert read == event
        return
    assert path.startswith(read["request"]["path"])
    assert reason.startswith(read["response"].get("reason", ""))
    assert {**read["request"], "path": path} == request
    if len(read["request"]["path"]) < len(path):  # no room is wasted
        assert len(message) > MAX_MESSAGE - 16

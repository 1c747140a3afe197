"""Audit records as objects and as lines of JSON (protocol section 4)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["EncodedRecord", "line_of", "make_event"]

_MAX_REASON: Final = 500
_quoted: Final = json.encoder.encode_basestring_ascii


class EncodedRecord(dict[str, Any]):
    """An audit record with its line of JSON, which is made once for all sinks."""

    __slots__ = ("line",)

    line: str


def make_event(
    *,
    ip: str,
    path: str,
    identity: str,
    code: int,
    seconds: float,
    policy: str = "",
    reason: str = "",
    frontend: str = "",
    request_id: str = "",
) -> EncodedRecord:
    """Return the record of a request that ends now. The arguments are those of `AuditLog.record`."""
    now, path, nanoseconds = _CLOCK.now(), _as_text(path), int(seconds * 1e9)
    request = {"ip": ip, "path": path, "identity": identity}
    response: dict[str, Any] = {"code": code, "time": nanoseconds}
    # As json.dumps() writes it, in a third of the time.
    first = f'{{"time":"{now}","request":{{"ip":{_quoted(ip)},"path":{_quoted(path)},"identity":{_quoted(identity)}'
    second = f'}},"response":{{"code":{code},"time":{nanoseconds}'
    if policy:
        request["policy"] = policy
        first += f',"policy":{_quoted(policy)}'
    if frontend:
        request["frontend"] = frontend
        first += f',"frontend":{_quoted(frontend)}'
    if request_id:
        request["id"] = request_id = _as_text(request_id)
        first += f',"id":{_quoted(request_id)}'
    if reason:
        response["reason"] = reason = _as_text(reason[:_MAX_REASON])
        second += f',"reason":{_quoted(reason)}'
    event = EncodedRecord(time=now, request=request, response=response)
    event.line = f"{first}{second}}}}}"
    return event


def line_of(event: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON, without a line feed."""
    return event.line if isinstance(event, EncodedRecord) else json.dumps(event, separators=(",", ":"))


def _as_text(text: str) -> str:
    """Return `text` with U+FFFD for the bytes of a path that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Clock:
    """The time as text. All but the fraction of a second is formatted once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{rest // 1000:06d}Z"


_CLOCK: Final = _Clock()

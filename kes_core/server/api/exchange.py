"""A request and its answer: what the result or the error of a handler becomes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect

from kes_core import protocol
from kes_core.access.errors import NotRoutedError, RequestError, error_body
from kes_core.encoding import encode_json
from kes_core.faults import log_fault
from kes_core.server.api.enforcement import shortened
from kes_core.server.api.logs import Text
from kes_core.server.wire.app import Answer
from kes_core.server.wire.stream import RequestRefusedError

if TYPE_CHECKING:
    from kes_core.server.api.call import Call

__all__ = ["JSON", "UNANSWERED", "Exchange"]

logger = logging.getLogger("kes.server")

UNANSWERED: Final = 499
"""The status in the audit log for a request without an answer, because the client disconnected or the server stopped.
The server never sends this status; nginx logs the same number."""
JSON: Final = (b"content-type", b"application/json")
_NDJSON: Final = (b"content-type", b"application/x-ndjson")


class Exchange:
    """A request and its answer, filled in step by step."""

    __slots__ = ("body", "call", "headers", "reason", "status")

    def __init__(self, call: Call | None = None) -> None:
        self.call = call
        self.status = UNANSWERED
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | AsyncIterator[bytes] = b""
        self.reason = ""

    def succeed(self, result: Any) -> None:
        """Answer with the result of a handler."""
        if result is None:
            self._answer(200, [], b"")
        elif isinstance(result, Text):
            self._answer(200, [(b"content-type", result.content_type)], result.body)
        elif isinstance(result, AsyncIterator):
            self._answer(200, [_NDJSON], result)
        else:
            self._answer(200, [JSON], encode_json(result))

    def fail(self, error: Exception, path: str) -> None:
        """Answer with an error of the request at `path`. One that the API does not know is logged, and hidden."""
        if isinstance(error, RequestError):
            self._answer(error.status, [JSON], error_body(error.message, error.reason), error.why)
        elif isinstance(error, RequestRefusedError):
            self._answer(error.status, [JSON], error_body(error.message), error.message)
        elif isinstance(error, NotRoutedError):
            self._answer(error.status, error.headers, error.body, error.reason)
        elif isinstance(error, TimeoutError):
            self._answer(protocol.TIMED_OUT[0], [JSON], error_body(protocol.TIMED_OUT[1]), protocol.TIMED_OUT[1])
        elif isinstance(error, ClientDisconnect):
            pass  # the request stays without an answer
        else:
            log_fault(logger, "internal error while serving %r", shortened(path), error=error)
            self._answer(500, [JSON], error_body(protocol.INTERNAL[1]), protocol.INTERNAL[1])

    def whole(self) -> Answer:
        """Return the answer, which is not a stream."""
        return Answer(self.status, self.headers, self.body)  # type: ignore[arg-type] # no stream

    def _answer(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | AsyncIterator[bytes], reason: str = ""
    ) -> None:
        """Set the answer. The reason of a refusal or a failure is for the operator."""
        if isinstance(body, bytes):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        self.status, self.headers, self.body, self.reason = status, headers, body, reason

"""Answers to requests that the server refuses or can't serve."""

from __future__ import annotations

import json

__all__ = ["RequestError", "error_body"]


def error_body(message: str, reason: str | None = None) -> bytes:
    """Return the JSON body that carries `message`, and the reason of a failing key store."""
    # Undecodable bytes of a path reach messages as lone surrogates, which no JSON parser has to accept.
    clean = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    members = {"message": clean} | ({"reason": reason} if reason else {})
    return json.dumps(members, separators=(",", ":")).encode("ascii")


class RequestError(Exception):
    """A request is answered with an error. The message goes to the client and must hold nothing secret."""

    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason

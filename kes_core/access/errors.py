"""Refusals of requests, with their answers."""

from __future__ import annotations

import json

__all__ = ["NotRoutedError", "RequestError", "UnidentifiedSenderError", "error_body"]


def error_body(message: str, reason: str | None = None) -> bytes:
    """Return a JSON body with `message`, and with the reason if a key store failed."""
    # Undecodable bytes of a path reach messages as lone surrogates, which no JSON parser has to accept.
    clean = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    members = {"message": clean} | ({"reason": reason} if reason else {})
    return json.dumps(members, separators=(",", ":")).encode("ascii")


class RequestError(Exception):
    """The server answers a request with an error. The message goes to the client and must not contain a secret."""

    def __init__(self, status: int, message: str, reason: str | None = None, *, why: str = "") -> None:
        """Refuse the request.

        Args:
            status: The status of the answer.
            message: What the client reads; may be empty.
            reason: Why the key store fails, in one word, if it does.
            why: What the operator reads in the log and in the audit record; the message unless given.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.why = why or message


class UnidentifiedSenderError(RequestError):
    """A TLS proxy forwards no client certificate, or an invalid one (protocol section 1)."""

    def __init__(self, status: int, message: str, why: str = "") -> None:
        super().__init__(status, message, why=why)


class NotRoutedError(Exception):
    """A request reaches no handler. Its answer is a redirect, an error, or for `OPTIONS *` empty."""

    def __init__(
        self, layer: str, reason: str, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b""
    ) -> None:
        """Answer a request without a handler.

        Args:
            layer: The check that stopped the request: "route" or "method".
            reason: Why, for `kes doctor`.
            status: The status of the answer.
            headers: The headers of the answer.
            body: The body of the answer.
        """
        super().__init__(reason)
        self.layer = layer
        self.reason = reason
        self.status = status
        self.headers = headers
        self.body = body

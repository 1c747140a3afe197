"""Answers to requests that can't be served, and the one place that turns exceptions into them."""

from __future__ import annotations

import json
from typing import Final

__all__ = [
    "HMAC_UNSUPPORTED",
    "IDENTITY_NOT_FOUND",
    "INTERNAL",
    "INVALID_BODY",
    "INVALID_CERTIFICATE",
    "INVALID_IMPORT_BODY",
    "KEY_EXISTS",
    "KEY_NOT_FOUND",
    "NOT_ALLOWED",
    "NOT_DECRYPTED",
    "NO_ROUTE",
    "POLICY_NOT_FOUND",
    "TIMED_OUT",
    "TOO_MANY_BODIES",
    "TOO_MANY_CIPHERTEXTS",
    "APIError",
    "error_body",
]


def error_body(message: str, reason: str | None = None) -> bytes:
    """Return the JSON body that carries `message`, and the reason of a failing key store."""
    # Undecodable bytes of a path reach messages as lone surrogates, which no JSON parser has to accept.
    clean = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    members = {"message": clean} | ({"reason": reason} if reason else {})
    return json.dumps(members, separators=(",", ":")).encode("ascii")


class APIError(Exception):
    """A request is answered with an error. The message goes to the client and must hold nothing secret."""

    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason


# Exactly the Go server's (vectors/errors.json): clients compare status and text.
NOT_ALLOWED: Final = (403, "not authorized: insufficient permissions")
KEY_NOT_FOUND: Final = (404, "key does not exist")
KEY_EXISTS: Final = (400, "key already exists")
POLICY_NOT_FOUND: Final = (404, "policy does not exist")
IDENTITY_NOT_FOUND: Final = (404, "identity does not exist")
NOT_DECRYPTED: Final = (400, "decryption failed: ciphertext is not authentic")
HMAC_UNSUPPORTED: Final = (409, "key does not support HMAC")
INVALID_BODY: Final = (400, "invalid request body")
INVALID_CERTIFICATE: Final = (400, "invalid client certificate")
INVALID_IMPORT_BODY: Final = (400, "invalid import key request body")
TOO_MANY_BODIES: Final = (503, "too many request bodies are under way")
TOO_MANY_CIPHERTEXTS: Final = (400, "too many ciphertexts")
TIMED_OUT: Final = (504, "request timed out")
INTERNAL: Final = (500, "internal server error")

NO_ROUTE: Final = b"404 page not found\n"
"""The plain-text body of the answer to a path that no route has."""

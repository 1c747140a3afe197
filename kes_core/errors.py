"""The base of the errors that plugins raise on purpose, and the words for a failed connection.

The errors of key stores are in `kes_core.keystore`.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any, Final

__all__ = ["BackendError", "causes_of", "connection_problem"]

_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""OpenSSL's errors for an answer that does not begin with a TLS record."""


class BackendError(Exception):
    """A plugin failed, and its message tells the operator why. The message must not contain a secret.

    The server logs the message as one line of at most 512 characters, and never logs the exception behind it.
    """


def connection_problem(causes: Sequence[BaseException]) -> str:
    """Return why the connection failed, from an exception and the exceptions inside it."""
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its host name can't be resolved"
    failure = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if failure is not None and failure.reason in _NOT_TLS:
        return "it answers without TLS"
    if failure is not None:
        reason = (failure.reason or "the connection was closed").replace("_", " ").lower()
        return f"the TLS handshake failed: {reason}"
    number = next((cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno), 0)
    return os.strerror(number).lower() if number else "the connection was closed"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all exceptions inside it: the libraries keep the cause in several places."""
    seen: dict[int, BaseException] = {}
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and id(current) not in seen:
            seen[id(current)] = current
            yield current
            waiting += [*current.args, getattr(current, "reason", None), current.__cause__, current.__context__]

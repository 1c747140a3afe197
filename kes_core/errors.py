"""The base of the errors that plugins raise on purpose. The errors of key stores are in `kes_core.keystore`."""

from __future__ import annotations

__all__ = ["BackendError"]


class BackendError(Exception):
    """A plugin failed, and its message tells the operator why. The message must not contain a secret.

    The server logs the message as one line of at most 512 characters, and never logs the exception behind it.
    """

"""Translate errors of SQLAlchemy and its drivers to those of a key store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from kes_core import KeyStoreError, KeyStoreReason, KeyStoreUnreachableError
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

__all__ = ["is_taken", "translate"]

_MAX_REASON: Final = 300
_PRIMARY: Final = 0xFF
"""The bits of SQLite's error codes that hold the primary code."""
_SQLITE_UNREACHABLE: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR}
_SQLITE_TAKEN: Final = {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE}
_TAKEN: Final = "23505"
_UNREACHABLE: Final = ("08", "57P", "57014", "53300")
"""Prefixes of SQLSTATEs: no connection, shutting down or starting, timed out, too many connections."""
_FORBIDDEN: Final = ("28", "42501")
_STANDBY: Final = "25006"
"""Read-only: after a failover this may be the former primary."""


def is_taken(error: IntegrityError) -> bool:
    """Tell whether an insert failed because its primary key already exists."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode in _SQLITE_TAKEN
    return _state(error) == _TAKEN


def translate(error: Exception, trouble: str, secrets: Iterable[str]) -> KeyStoreError:
    """Return the error of a key store for one of the database.

    The result has no cause: errors of SQLAlchemy contain the parameters of their statement, and so the value of a key.

    Args:
        error: What SQLAlchemy or a driver raised.
        trouble: The beginning of the message: what failed, and where.
        secrets: Values that the message must not contain.
    """
    message = f"{trouble}: {_reason(error, secrets)}"
    if _is_unreachable(error):
        return KeyStoreUnreachableError(message)
    state = _state(error)
    if state.startswith(_FORBIDDEN):
        return KeyStoreError(message, reason=KeyStoreReason.FORBIDDEN)
    if state == _STANDBY:
        return KeyStoreUnreachableError(message)
    return KeyStoreError(message)


def _is_unreachable(error: Exception) -> bool:
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & _PRIMARY in _SQLITE_UNREACHABLE
    if error.connection_invalidated:
        return True
    state = _state(error)
    return state.startswith(_UNREACHABLE) if state else isinstance(error, OperationalError | InterfaceError)


def _state(error: Exception) -> str:
    """Return the SQLSTATE of an error of PostgreSQL; empty if the driver itself raised it."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _reason(error: Exception, secrets: Iterable[str]) -> str:
    """Return the database's message in one line."""
    if isinstance(error, PoolTimeoutError):
        return "all connections are in use"
    if not isinstance(error, DBAPIError) or error.orig is None:
        return type(error).__name__  # its message may contain the statement with its parameters
    primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    text = " ".join(str(primary or error.orig).split())[:_MAX_REASON]
    for secret in secrets:
        text = text.replace(secret, "***")
    return text or type(error.orig).__name__

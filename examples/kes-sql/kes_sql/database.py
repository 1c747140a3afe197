"""The engine of SQLAlchemy for each kind of database: durable, with limits on waiting, and silent about values."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kes_core import KeyStoreError
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from kes_sql import SQLConfig

__all__ = ["Database"]

_LOGGER: Final = "kes-sql"
_EXPOSED: Final = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class Database:
    """The database that holds the keys."""

    def __init__(self, config: SQLConfig) -> None:
        """Read the configuration, without connecting.

        Raises:
            KeyStoreError: The URL is invalid, or the driver is not installed.
        """
        url = _parsed(config.url.get())
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.place = _place(url)
        """The name of the database in messages, without user and password."""
        self.secrets = _secrets(url)
        """Values that no message may contain."""
        self._path = Path(url.database or "")
        make = _sqlite if self.is_sqlite else _postgresql
        try:
            self.engine = make(url, config)
        except ImportError:
            raise KeyStoreError("the driver of PostgreSQL is missing: pip install 'kes-sql[postgres]'") from None

    def prepare(self) -> None:
        """Create the file of a SQLite database, readable only for its owner. May wait for the disk.

        Raises:
            KeyStoreError: The file can't be created or opened, or other users can read or write it.
        """
        if not self.is_sqlite:
            return
        try:
            # SQLite gives the same mode to the files that it creates next to this one.
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyStoreError(f"{self.place} can't be opened: {error.strerror}") from None
        try:
            mode = os.fstat(file).st_mode
        finally:
            os.close(file)
        if mode & _EXPOSED:
            raise KeyStoreError(
                f"others can read or change {self.place} (mode {stat.S_IMODE(mode):04o}): chmod 0600 {self._path}"
            )


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their text may contain the password
        raise KeyStoreError(
            "the URL of keystore.sql can't be read; is a special character in it not %-encoded?"
        ) from None
    if url.get_backend_name() == "sqlite":
        return url.set(database=str(Path(url.database or "").absolute()))
    return url.set(drivername="postgresql+psycopg")


def _place(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"the SQLite file {url.database!r}"
    host = url.host or url.query.get("host", "localhost")
    return f"PostgreSQL at {host}:{url.port or 5432}, database {url.database or url.username!r}"


def _secrets(url: URL) -> Sequence[str]:
    values = [url.password, url.query.get("password"), url.query.get("sslpassword")]
    return [value for value in values if isinstance(value, str) and value]


def _engine(url: URL, config: SQLConfig, **options: Any) -> Engine:
    # At debug level SQLAlchemy logs parameters and rows. Silence that for this engine only.
    logging.getLogger(f"sqlalchemy.engine.Engine.{_LOGGER}").setLevel(logging.WARNING)
    return create_engine(
        url,
        logging_name=_LOGGER,
        hide_parameters=True,
        # Every call is a single statement, which is a transaction without BEGIN and COMMIT.
        isolation_level="AUTOCOMMIT",
        pool_size=config.pool_size,
        max_overflow=0,
        pool_timeout=config.timeout,
        **options,
    )


def _sqlite(url: URL, config: SQLConfig) -> Engine:
    engine = _engine(url, config, connect_args={"timeout": config.timeout})

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        # With a write-ahead log, readers and the writer don't wait for each other; FULL syncs it in every commit.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # a deleted key is overwritten

    return engine


def _postgresql(url: URL, config: SQLConfig) -> Engine:
    milliseconds = math.ceil(config.timeout * 1000)
    arguments: dict[str, Any] = {
        "application_name": "kes",
        "connect_timeout": max(2, math.ceil(config.timeout)),  # libpq has no shorter timeout
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds}",
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    # A pooler in front of the database may use another connection for each statement, without our prepared statements.
    arguments["prepare_threshold"] = None
    # The pool checks each connection before use and replaces broken ones: a restart of the database fails no call.
    return _engine(url, config, connect_args=arguments, pool_pre_ping=True)

"""Keys as rows of a table. Creating a key is an INSERT: of several servers, the primary key lets one win."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Self, TypeVar

from kes_core import (
    BlockingCalls,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreUnreachableError,
    Page,
)
from kes_core.keystore import PAGE_SIZE
from kes_core.names import MAX_ENTRY_LENGTH, is_valid_entry
from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    MetaData,
    String,
    Table,
    collate,
    delete,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from kes_sql.database import Database
from kes_sql.errors import is_taken, translate

if TYPE_CHECKING:
    from kes_sql import SQLConfig

__all__ = ["SQLKeyStore", "table_of_keys"]

P = ParamSpec("P")
T = TypeVar("T")

_LOCKED_PAUSE: Final = 0.05


def table_of_keys(name: str) -> Table:
    """Return the definition of the table that holds the keys."""
    # Compare names byte by byte, whatever the language of the database. SQLite does so by default.
    name_type = String(MAX_ENTRY_LENGTH).with_variant(String(MAX_ENTRY_LENGTH, collation="C"), "postgresql")
    return Table(
        name,
        MetaData(),
        Column("name", name_type, primary_key=True),
        Column("value", LargeBinary, nullable=False),
    )


class SQLKeyStore(KeyStore):
    """Keeps keys in a table of two columns."""

    def __init__(self, config: SQLConfig) -> None:
        """Use the database of the configuration. Prefer `open`, which also checks that the database works.

        Raises:
            KeyStoreError: The URL is invalid, or the driver is not installed.
        """
        self._database = Database(config)
        self._timeout = config.timeout
        self._create_table = config.create_table
        self._keys = table_of_keys(config.table)
        self._calls = BlockingCalls("sql", threads=config.pool_size)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<SQLKeyStore {self._keys.name!r} in {self._database.place}>"

    @classmethod
    async def open(cls, config: SQLConfig) -> Self:
        """Return a store that is ready for use.

        Raises:
            KeyStoreError: The database is unreachable or unusable, or the table is missing and must not be created.
        """
        store = cls(config)
        try:
            await store._calls.run(store._database.prepare)
            await store._run("can't be used", store._prepare)
        except BaseException:
            await store.close()
            raise
        return store

    async def status(self) -> None:
        await self._run("does not work", lambda connection: connection.execute(text("SELECT 1")).close())

    async def create(self, name: str, value: bytes) -> None:
        await self._run(f"can't store key {name!r}", self._create, _checked(name), value)

    async def get(self, name: str) -> bytes:
        return await self._run(f"can't read key {name!r}", self._get, _checked(name))

    async def delete(self, name: str) -> None:
        await self._run(f"can't delete key {name!r}", self._delete, _checked(name))

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return await self._run("can't list the keys", self._list, prefix, start, limit)

    async def close(self) -> None:
        self._is_closed = True
        self._calls.close()
        # Closing the last connection to a SQLite file copies the write-ahead log into the file, which takes a while.
        await asyncio.to_thread(self._database.engine.pool.dispose)

    async def _run(
        self, trouble: str, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `function` with a connection, on a worker thread. Errors begin with `trouble`."""
        trouble = f"{self._database.place} {trouble}"

        def call() -> T:
            return self._call(trouble, lambda connection: function(connection, *args, **kwargs))

        try:
            async with asyncio.timeout(self._timeout):
                return await self._calls.run(call)
        except TimeoutError:
            raise KeyStoreUnreachableError(f"{trouble}: no answer within {self._timeout:g} s") from None

    # On a worker thread

    def _call(self, trouble: str, function: Callable[[Connection], T]) -> T:
        try:
            with self._database.engine.connect() as connection:
                return function(connection)
        except KeyStoreError:
            raise
        except Exception as error:  # a store raises only errors of key stores
            failure = translate(error, trouble, self._database.secrets)
        finally:
            if self._is_closed:  # connections that came back to the pool after `close`
                self._database.engine.pool.dispose()
        # Outside the handler: its exception would become the context of this one, with the parameters of the statement.
        raise failure

    def _prepare(self, connection: Connection) -> None:
        if self._database.is_sqlite:
            self._write_ahead(connection)
        if inspect(connection).has_table(self._keys.name):
            return
        if not self._create_table:
            raise KeyStoreError(
                f"{self._database.place} has no table {self._keys.name!r}: make it, or set create_table: on"
            )
        try:
            connection.execute(CreateTable(self._keys, if_not_exists=True))
        except SQLAlchemyError:  # PostgreSQL raises it if another server creates the table at the same moment
            if not inspect(connection).has_table(self._keys.name):
                raise

    def _write_ahead(self, connection: Connection) -> None:
        """Set the journal mode in which readers and writer do not wait for each other. The file keeps the setting."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            except OperationalError:  # another connection is changing the mode, and SQLite does not wait here
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOCKED_PAUSE)
            else:
                return

    def _create(self, connection: Connection, name: str, value: bytes) -> None:
        try:
            connection.execute(insert(self._keys).values(name=name, value=value))
        except IntegrityError as error:
            if not is_taken(error):
                raise
        else:
            return
        raise EntryExistsError(f"key {name!r} already exists")

    def _get(self, connection: Connection, name: str) -> bytes:
        value: bytes | None = connection.scalar(select(self._keys.c.value).where(self._keys.c.name == name))
        if value is None:
            raise EntryNotFoundError(f"key {name!r} does not exist")
        return value

    def _delete(self, connection: Connection, name: str) -> None:
        if connection.execute(delete(self._keys).where(self._keys.c.name == name)).rowcount == 0:
            raise EntryNotFoundError(f"key {name!r} does not exist")

    def _list(self, connection: Connection, prefix: str, start: str, limit: int) -> Page:
        if not prefix.isascii():
            return Page([], "")  # no name has this prefix, and the end of the range below might not be a character
        if limit <= 0:
            limit = PAGE_SIZE
        # A table that was not created here may sort names by the rules of a language.
        name = self._keys.c.name if self._database.is_sqlite else collate(self._keys.c.name, "C")
        wanted = select(self._keys.c.name).where(name >= max(prefix, start)).order_by(name).limit(limit + 1)
        if prefix:  # a range instead of LIKE, where `_` matches any character, and `a` matches `A` in SQLite
            wanted = wanted.where(name < prefix[:-1] + chr(ord(prefix[-1]) + 1))
        names = list(connection.scalars(wanted))
        return Page(names[:limit], names[limit] if len(names) > limit else "")


def _checked(name: str) -> str:
    """Return a valid key name, or raise. The server checks names too; this protects the table from other callers."""
    if not is_valid_entry(name):
        raise KeyStoreError("not a valid name for a key")
    return name

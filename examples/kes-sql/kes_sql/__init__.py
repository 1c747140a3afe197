"""A key store of kes-core in a SQL database: PostgreSQL or SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from kes_core import KeyStoreBackend, PluginContext, hookimpl
from kes_core.config import Duration, Secret, Section, Switch
from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from kes_sql.store import SQLKeyStore

__all__ = ["SQLConfig"]

kes_hookspec_version = 1

_SCHEMES: Final = ("sqlite", "postgresql", "postgres", "postgresql+psycopg")
_EXPECTED: Final = "sqlite:////var/lib/kes/keys.db or postgresql://kes:password@db.example.com/kes"


def _url(value: Secret) -> Secret:
    """Check that the URL names a supported kind of database; the driver checks the rest."""
    scheme, separator, rest = value.get().partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(f"is not the URL of a supported database; expected one like {_EXPECTED}")
    if scheme == "sqlite" and (not rest.startswith("/") or rest.strip("/") in {"", ":memory:"} or "?" in rest):
        raise ValueError(f"names no SQLite file; expected a path and no options, as in {_EXPECTED.split()[0]}")
    return value


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("is not a time to wait; expected one like 5s")
    return value


class SQLConfig(Section):
    """The section `keystore.sql`."""

    url: Annotated[Secret, AfterValidator(_url)]
    """The address of the database, and the user."""
    table: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "kes_keys"
    """The table that holds the keys."""
    create_table: Switch = True
    """Whether the server creates the table if it is missing."""
    timeout: Annotated[Duration, AfterValidator(_positive)] = 5.0
    """Time limit in seconds for each answer of the database."""
    pool_size: Annotated[int, Field(ge=1, le=100)] = 8
    """Maximum number of connections."""


async def _connect(config: SQLConfig, _context: PluginContext) -> SQLKeyStore:
    from kes_sql.store import SQLKeyStore

    return await SQLKeyStore.open(config)


@hookimpl
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:
    return [KeyStoreBackend(name="sql", config=SQLConfig, connect=_connect)]

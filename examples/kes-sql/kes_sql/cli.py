"""`kes sql`: what an administrator of databases needs."""

from __future__ import annotations

import click
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from kes_sql.store import table_of_keys

__all__ = ["command"]

_DIALECTS = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect}


@click.group("sql")
def command() -> None:
    """Manage the database of the key store kes-sql."""


@command.command("table")
@click.option("--name", default="kes_keys", show_default=True, help="The name of the table.")
@click.option("--dialect", type=click.Choice(list(_DIALECTS)), default="postgresql", show_default=True)
def table(name: str, dialect: str) -> None:
    """Print the SQL that creates the table, for servers with `create_table: off`."""
    statement = CreateTable(table_of_keys(name), if_not_exists=True)
    click.echo(f"{str(statement.compile(dialect=_DIALECTS[dialect]())).strip()};")

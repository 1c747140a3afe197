"""Behaviour beyond the contract: several servers, and messages for operators."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kes_core import KeyStoreError
from pydantic import ValidationError

from conftest import PostgreSQL
from kes_sql import SQLConfig
from kes_sql.store import SQLKeyStore

RACER = """
import asyncio, json, sys
from kes_core import EntryExistsError
from kes_sql import SQLConfig
from kes_sql.store import SQLKeyStore

async def main():
    store = await SQLKeyStore.open(SQLConfig.model_validate(json.loads(sys.argv[1])))
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(100):
        try:
            await store.create(f"key-{number}", sys.argv[2].encode())
            won.append(f"key-{number}")
        except EntryExistsError:
            pass
    await store.close()
    print(json.dumps(won))

asyncio.run(main())
"""


def open_store(section: dict[str, Any]) -> None:
    async def check() -> None:
        await (await SQLKeyStore.open(SQLConfig.model_validate(section))).close()

    asyncio.run(check())


def race(section: dict[str, Any]) -> None:
    """Two servers create the same keys. Each key has the value of the server whose create succeeded."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, json.dumps(section), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert len(won[0]) + len(won[1]) == 100

    async def check() -> None:
        store = await SQLKeyStore.open(SQLConfig.model_validate(section))
        for name, keys in zip((b"one", b"two"), won, strict=True):
            for key in keys:
                assert await store.get(key) == name
        await store.close()

    asyncio.run(check())


def test_two_servers_on_postgresql(postgres: PostgreSQL) -> None:
    race({"url": postgres.url, "table": "race"})


def test_two_servers_on_sqlite(tmp_path: Path) -> None:
    race({"url": f"sqlite:///{tmp_path}/keys.db"})


@pytest.mark.parametrize("url", ["", "keys.db", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "sqlite://x?a=b"])
def test_url_that_is_of_no_use(url: str) -> None:
    with pytest.raises(ValidationError, match="expected"):
        SQLConfig.model_validate({"url": url})


def test_what_an_operator_is_told(tmp_path: Path, postgres: PostgreSQL) -> None:
    wrong = postgres.url.replace(postgres.password, "a-wrong-password")
    for section, message in (
        ({"url": f"sqlite:///{tmp_path}/none/keys.db"}, "can't be opened: No such file or directory"),
        ({"url": f"sqlite:///{tmp_path}/keys.db", "create_table": "off"}, "has no table 'kes_keys': make it, or set"),
        ({"url": "postgresql://kes@127.0.0.1:1/x", "timeout": "1s"}, "PostgreSQL at 127.0.0.1:1, database 'x'"),
        ({"url": wrong}, "password authentication failed"),
        ({"url": postgres.url, "create_table": "off", "table": "none"}, "has no table 'none'"),
    ):
        with pytest.raises(KeyStoreError) as caught:
            open_store(section)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "a-wrong-password" not in str(caught.value)
        assert postgres.password not in str(caught.value)


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.db"
    file.touch(mode=0o644)
    file.chmod(0o644)
    with pytest.raises(KeyStoreError, match="others can read or change"):
        open_store({"url": f"sqlite:///{file}"})
    file.unlink()
    open_store({"url": f"sqlite:///{file}"})
    assert file.stat().st_mode & 0o777 == 0o600


def test_sql_of_the_table() -> None:
    from click.testing import CliRunner

    from kes_sql.cli import command

    printed = CliRunner().invoke(command, ["table", "--name", "my_keys", "--dialect", "sqlite"]).output
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(printed)
        database.execute("INSERT INTO my_keys VALUES ('a', x'00')")
    assert 'COLLATE "C"' in CliRunner().invoke(command, ["table"]).output

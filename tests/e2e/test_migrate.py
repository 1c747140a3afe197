"""`kes migrate` between real stores: files, Vault, and the database of a third party's plugin."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_core.keys.stored import KeyVersion
from tests.helpers.command import KES, on_a_terminal
from tests.helpers.openbao import OpenBao, Tenant

PLUGIN = """
import asyncio
import itertools
import os
import sqlite3
import sys
from kes_core import BlockingCalls, EntryExistsError, EntryNotFoundError, KeyStore, KeyStoreBackend, Page, hookimpl
from kes_core.config import Section

kes_hookspec_version = 1
creates = itertools.count()


class Config(Section):
    file: str


class Store(KeyStore):
    def __init__(self, file):
        self._calls = BlockingCalls("sqlite", threads=1)
        self._file = file

    async def _run(self, sql, *values):
        def execute():
            connection = sqlite3.connect(self._file, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = OFF")
                return connection.execute(sql, values).fetchall()
            finally:
                connection.close()
        return await self._calls.run(execute)

    async def status(self):
        await self._run("SELECT 1")

    async def create(self, name, value):
        if "PAUSED" in os.environ and (number := next(creates)) >= 100:
            if number == 100:
                os.write(int(os.environ["PAUSED"]), b"x")
            await asyncio.to_thread(sys.stdin.read)
        try:
            await self._run("INSERT INTO keys VALUES (?, ?)", name, value)
        except sqlite3.IntegrityError:
            raise EntryExistsError(name) from None

    async def get(self, name):
        rows = await self._run("SELECT value FROM keys WHERE name = ?", name)
        if not rows:
            raise EntryNotFoundError(name)
        return rows[0][0]

    async def delete(self, name):
        await self._run("DELETE FROM keys WHERE name = ?", name)

    async def list(self, prefix="", *, start="", limit=1024):
        rows = await self._run(
            "SELECT name FROM keys WHERE substr(name, 1, ?) = ? AND name >= ? ORDER BY name LIMIT ?",
            len(prefix), prefix, start, limit + 1,
        )
        names = [row[0] for row in rows]
        return Page(names[:limit], names[limit] if len(names) > limit else "")

    async def close(self):
        self._calls.close()


async def connect(config, _context):
    store = Store(config.file)
    await store._run("CREATE TABLE IF NOT EXISTS keys (name TEXT PRIMARY KEY, value BLOB)")
    return store


@hookimpl
def kes_keystore_backends():
    return [KeyStoreBackend(name="sqlite", config=Config, connect=connect)]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with a third party's plugin."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "third_party.py").write_text(PLUGIN)
    info = folder / "kes_third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kes-third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kes]\nsqlite = third_party\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao.running(tmp_path_factory.mktemp("openbao")) as server:
        yield server


def config(path: Path, keystore: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"keystore": keystore}))
    return path


def files(directory: Path, count: int = 0) -> tuple[Path, dict[str, bytes]]:
    """A key store in files: its configuration and its keys."""
    folder = directory / "files"
    folder.mkdir(mode=0o700)
    key = KeyVersion.generate("me").encode()
    names = [f"key-{number:05}" for number in range(count)]
    # Any bytes will do for a stored key, and generating real keys would take longer than copying them.
    values = {name: key if number else KeyVersion.generate("me").encode() for number, name in enumerate(names)}
    for name, value in values.items():
        (folder / name).write_bytes(value)
        (folder / name).chmod(0o600)
    return config(directory / "files.yml", {"fs": {"path": str(folder)}}), values


def database(directory: Path) -> Path:
    return config(directory / "sqlite.yml", {"sqlite": {"file": str(directory / "keys.db")}})


def rows(directory: Path) -> dict[str, bytes]:
    connection = sqlite3.connect(directory / "keys.db", timeout=30)
    try:
        return dict(connection.execute("SELECT name, value FROM keys"))
    except sqlite3.OperationalError:  # the table does not exist yet
        return {}
    finally:
        connection.close()


def migrate(
    environment: dict[str, str], source: Path, target: Path, *options: str, code: int = 0
) -> tuple[dict[str, Any], str]:
    command = [*KES, "migrate", "--from", str(source), "--to", str(target), "--json", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.measured
def test_ten_thousand_keys_from_files_to_a_third_partys_database_and_back(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    source, values = files(tmp_path, 10_000)
    target = database(tmp_path)
    started = time.monotonic()
    summary, _ = migrate(environment, source, target)
    assert time.monotonic() - started < 60
    assert (summary["keys"], summary["copied"], summary["failures"]) == (10_000, 10_000, {})
    assert rows(tmp_path) == values
    back = config(tmp_path / "back.yml", {"fs": {"path": str(tmp_path / "back")}})
    started = time.monotonic()
    migrate(environment, target, back)
    assert time.monotonic() - started < 60
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").glob("key-*")} == values


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted_in_the_middle_and_started_again(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    source, values = files(tmp_path, 200)
    target = database(tmp_path)
    command = [*KES, "migrate", "--from", str(source), "--to", str(target), "--json"]
    reader, writer = os.pipe()
    # The plugin waits after 100 keys until its standard input ends.
    with subprocess.Popen(
        command,
        env=environment | {"PAUSED": str(writer)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
    ) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as paused:
            assert paused.read(1) == b"x"
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    if number is not signal.SIGKILL:
        assert process.returncode == 1
        assert err == b"Error: interrupted; run the same command again to go on from here\n"
        assert json.loads(out)["copied"] == len(rows(tmp_path))
    before = rows(tmp_path)
    assert 20 < len(before) < 200
    summary, _ = migrate(environment, source, target)
    assert (summary["identical"], summary["copied"]) == (len(before), 200 - len(before))
    assert rows(tmp_path) == values


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_to_vault_and_back(tmp_path: Path, environment: dict[str, str], bao: OpenBao, version: str) -> None:
    policy = 'path "{engine}/*" {{ capabilities = ["create", "read", "update", "delete", "list"] }}'
    tenant = Tenant(bao, version, policy)
    source, values = files(tmp_path, 50)
    vault = config(tmp_path / "vault.yml", {"vault": tenant.section()})
    summary, _ = migrate(environment, source, vault)
    assert (summary["copied"], summary["failures"]) == (50, {})
    assert tenant.read("key-00001") == {"key-00001": values["key-00001"].decode()}
    back = database(tmp_path)
    migrate(environment, vault, back, "key-0000*")
    assert rows(tmp_path) == {name: value for name, value in values.items() if name.startswith("key-0000")}


def test_names_that_are_taken(tmp_path: Path, environment: dict[str, str]) -> None:
    source, values = files(tmp_path, 3)
    target = database(tmp_path)
    migrate(environment, source, target, "key-00000")
    connection = sqlite3.connect(tmp_path / "keys.db")
    other = KeyVersion.generate("other").encode()
    connection.execute("INSERT INTO keys VALUES ('key-00001', ?)", (other,))
    connection.commit()
    connection.close()
    before = rows(tmp_path)
    summary, _ = migrate(environment, source, target, "--dry-run", "--force")
    assert (summary["dry_run"], summary["identical"], summary["replaced"], summary["copied"]) == (True, 1, 1, 1)
    assert rows(tmp_path) == before
    summary, errors = migrate(environment, source, target, code=1)
    assert errors == ""
    assert list(summary["failures"]) == ["key-00001"]
    assert rows(tmp_path) == {**values, "key-00001": other}
    summary, _ = migrate(environment, source, target, "--merge")
    assert (summary["identical"], summary["skipped"]) == (2, 1)
    assert rows(tmp_path)["key-00001"] == other
    summary, _ = migrate(environment, source, target, "--force")
    assert (summary["identical"], summary["replaced"]) == (2, 1)
    assert rows(tmp_path) == values


def test_usage(tmp_path: Path, environment: dict[str, str]) -> None:
    source, _ = files(tmp_path, 1)
    target = database(tmp_path)
    for options, code, message in (
        (("--merge", "--force"), 2, "--merge and --force exclude each other"),
        ((), 0, ""),
    ):
        _, errors = migrate(environment, source, target, *options, code=code)
        assert message in errors
    _, errors = migrate(environment, source, source, code=1)
    assert "name the same key store: there is nothing to copy" in errors
    memory = config(tmp_path / "memory.yml", {"memory": {}})
    _, errors = migrate(environment, source, memory, code=1)
    assert "keys in the key store 'memory' would be gone at the end" in errors
    broken = tmp_path / "broken.yml"
    broken.write_text("tls: ${UNSET}\nkeystore:\n  fs:\n    pth: x\n")
    _, errors = migrate(environment, broken, target, code=1)
    assert f"{broken}:4: keystore.fs.pth: unknown field; did you mean 'path'?" in errors
    empty = config(tmp_path / "empty.yml", {})
    _, errors = migrate(environment, source, empty, code=1)
    assert "keystore: required: name the one key store to use; installed: aws, fs, memory, sqlite, vault" in errors
    _, errors = migrate(environment, tmp_path / "none.yml", target, code=1)
    assert "none.yml: can't be read: No such file or directory" in errors


def test_what_a_person_sees(tmp_path: Path, environment: dict[str, str]) -> None:
    source, _ = files(tmp_path, 200)
    target = database(tmp_path)
    command = ("migrate", "--from", str(source), "--to", str(target))
    shown = on_a_terminal(*command, cwd=tmp_path, environment={"PYTHONPATH": environment["PYTHONPATH"]})
    assert "200/200" in shown
    assert re.search(r"fs → sqlite .*200/200\S* \d+ keys/s", shown)
    assert re.search(r"200 keys: 200 copied \(\d+ keys/s\)", shown)

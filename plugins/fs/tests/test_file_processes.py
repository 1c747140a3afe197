"""The filesystem key store when its callers race, give up or are killed."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from kes_core import EntryNotFoundError
from kes_fs.store import FileKeyStore

Run = Callable[[Callable[[FileKeyStore], Awaitable[None]]], None]
OpenAndClose = Callable[[Path], Coroutine[Any, Any, list[str]]]


def leftover(keys: Path, number: int) -> Path:
    return keys / f".new-{number:032x}"


def test_leftovers_are_removed_but_not_those_of_living_processes(
    open_and_close: OpenAndClose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    dead, also_dead, alive, link, pipe = (leftover(keys, number) for number in range(5))
    for file in (dead, also_dead, alive, keys / ".new-plans", keys / f"{dead.name}.txt"):
        file.write_text("half")
    (tmp_path / "outside").write_text("kept")
    link.symlink_to(tmp_path / "outside")
    os.mkfifo(pipe)
    with alive.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert asyncio.run(open_and_close(keys)) == []
    left = {path.name for path in keys.iterdir()}
    assert left == {alive.name, link.name, pipe.name, ".new-plans", f"{dead.name}.txt"}  # the files that are not ours
    assert alive.read_text() == "half"
    assert (tmp_path / "outside").read_text() == "kept"
    assert [record.getMessage() for record in caplog.records] == [
        f"removed 2 temporary file(s) with key text that a server left in the key directory {str(keys)!r}"
    ]


def test_leftovers_where_there_are_no_locks(
    open_and_close: OpenAndClose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks, only a file's age shows whether a server may still be writing it."""

    def no_locks(*_arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    old, young = leftover(keys, 0), leftover(keys, 1)
    for file in (old, young):
        file.write_text("half")
    os.utime(old, (0, 0))
    monkeypatch.setattr("kes_fs.store.fcntl.flock", no_locks)
    asyncio.run(open_and_close(keys))
    assert list(keys.iterdir()) == [young]


def test_creating_keys_while_other_servers_start(open_and_close: OpenAndClose, tmp_path: Path) -> None:
    """To a starting server, a new file that is not locked yet looks like a leftover."""

    async def start_again_and_again(creating: asyncio.Task[None]) -> None:
        while not creating.done():
            await open_and_close(tmp_path / "keys")

    async def create() -> None:
        store = await FileKeyStore.open(tmp_path / "keys")
        for number in range(300):
            await store.create(f"k{number}", b"v")
        await store.close()

    async def check() -> None:
        creating = asyncio.create_task(create())
        await asyncio.gather(creating, *(start_again_and_again(creating) for _ in range(4)))

    asyncio.run(check())
    assert len(list((tmp_path / "keys").iterdir())) == 300


CREATOR = """
import asyncio, hashlib, os, random, signal, sys, time
from pathlib import Path
from kes_fs.store import FileKeyStore

def value_of(name):
    return hashlib.sha256(name.encode()).digest() * 2000

async def create(path, round_, acknowledge):
    store = await FileKeyStore.open(path)
    number = 0
    while True:
        name = f"r{round_}n{number}"
        await store.create(name, value_of(name))
        os.write(acknowledge, name.encode() + b"\\n")
        number += 1

chance = random.Random(7373)
for round_ in range(int(sys.argv[2])):
    acknowledged, acknowledge = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(acknowledged)
        asyncio.run(create(Path(sys.argv[1]), round_, acknowledge))
    os.close(acknowledge)
    with os.fdopen(acknowledged) as names:
        for _ in range(chance.randrange(3)):
            print(names.readline().strip())
        time.sleep(chance.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        print(names.read())
    os.waitpid(child, 0)
"""


def test_killed_at_any_moment(open_and_close: OpenAndClose, tmp_path: Path) -> None:
    """Each key is complete or absent, and each acknowledged key is present."""
    keys = tmp_path / "keys"
    asyncio.run(open_and_close(keys))
    result = subprocess.run(
        [sys.executable, "-c", CREATOR, str(keys), "80"], stdout=subprocess.PIPE, text=True, check=True
    )
    acknowledged = set(result.stdout.split())

    async def check() -> None:
        store = await FileKeyStore.open(keys)
        present = (await store.list(limit=10**6)).names
        assert acknowledged <= set(present)
        for name in present:
            assert await store.get(name) == hashlib.sha256(name.encode()).digest() * 2000
        await store.close()

    asyncio.run(check())
    assert len(acknowledged) >= 50
    assert not [entry for entry in keys.iterdir() if entry.name.startswith(".new-")]


RACER = """
import asyncio, sys
from pathlib import Path
from kes_core import EntryExistsError
from kes_fs.store import FileKeyStore

async def main():
    store = await FileKeyStore.open(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(200):
        try:
            await store.create(f"key-{number}", sys.argv[2].encode())
            won.append(number)
        except EntryExistsError:
            pass
    print(*won, flush=True)
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def racers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes, ready to create the same keys."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "keys"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    yield started
    for racer in started:
        racer.kill()
        racer.communicate()


def test_of_several_processes_exactly_one_wins(tmp_path: Path, racers: list[subprocess.Popen[str]]) -> None:
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    won: dict[str, int] = {}
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for number, racer in enumerate(racers):
        assert racer.stdout is not None
        for key in racer.stdout.readline().split():
            assert key not in won
            won[key] = number
    assert len(won) == 200
    for key, number in won.items():
        assert (tmp_path / "keys" / f"key-{key}").read_text() == str(number)
    assert len(list((tmp_path / "keys").iterdir())) == 200


def test_reader_never_sees_half_a_key(run: Run) -> None:
    async def check(store: FileKeyStore) -> None:
        value = bytes(range(256)) * 200

        async def read() -> bytes:
            while True:
                try:
                    return await store.get("k")
                except EntryNotFoundError:
                    continue

        for _ in range(20):
            readers = [asyncio.create_task(read()) for _ in range(3)]
            await store.create("k", value)
            assert await asyncio.gather(*readers) == [value] * 3
            await store.delete("k")

    run(check)


def test_caller_that_gives_up_leaves_a_key_whole_or_not_there(tmp_path: Path) -> None:
    value = bytes(64 * 1024)

    async def check() -> None:
        store = await FileKeyStore.open(tmp_path / "keys")
        for number in range(50):
            creating = asyncio.create_task(store.create(f"k{number}", value))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
            for name in (await store.list()).names:
                assert await store.get(name) == value
        await store.close()
        for thread in threading.enumerate():  # calls that still run
            if thread.name.startswith("kes-fs"):
                thread.join(60)

    asyncio.run(check())
    assert not [entry for entry in (tmp_path / "keys").iterdir() if entry.name.startswith(".new-")]

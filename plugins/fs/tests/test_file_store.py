"""The filesystem key store: what it promises, also to those who are killed or race."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core import KeyExistsError, KeyNotFoundError, KeyStoreError
from kes_core.crypto import KeyVersion
from kes_core.plugins import load_plugins
from kes_fs import FileConfig
from kes_fs.store import FileKeyStore

Check = Callable[[FileKeyStore], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Check], None]:
    """Run a test on a store in a new directory."""

    def run(check: Check) -> None:
        async def start() -> None:
            store = await FileKeyStore.open(tmp_path / "keys")
            try:
                await check(store)
            finally:
                await store.close()

        asyncio.run(start())

    return run


def opened(path: Path) -> Coroutine[Any, Any, FileKeyStore]:
    return FileKeyStore.open(path)


def test_contract(run: Callable[[Check], None]) -> None:
    async def check(store: FileKeyStore) -> None:
        assert await store.list() == ([], "")
        await store.create("a", b"\0\xff binary")
        await store.create("empty", b"")
        await store.create("large", bytes(64 * 1024))
        assert await store.get("a") == b"\0\xff binary"
        assert await store.get("empty") == b""
        assert await store.get("large") == bytes(64 * 1024)
        with pytest.raises(KeyExistsError):
            await store.create("a", b"other")
        assert await store.get("a") == b"\0\xff binary"
        assert await store.list(limit=2) == (["a", "empty"], "large")
        assert await store.list(start="large") == (["large"], "")
        assert await store.list("e") == (["empty"], "")
        await store.delete("a")
        for operation in (store.get, store.delete):
            with pytest.raises(KeyNotFoundError):
                await operation("a")
        await store.status()
        await store.close()

    run(check)


def test_files_are_named_like_their_keys_and_only_for_their_owner(tmp_path: Path) -> None:
    async def check() -> None:
        store = await FileKeyStore.open(tmp_path / "deep" / "keys")
        await store.create("my-key", b"value")
        await store.close()

    old = os.umask(0)
    try:
        asyncio.run(check())
    finally:
        os.umask(old)
    directory = tmp_path / "deep" / "keys"
    assert [entry.name for entry in directory.iterdir()] == ["my-key"]
    assert stat.S_IMODE((directory / "my-key").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (directory / "my-key").read_bytes() == b"value"


def test_key_of_another_server_is_read(run: Callable[[Check], None], tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        (tmp_path / "keys" / "theirs").write_bytes(b'{"bytes":"x"}')
        assert await store.get("theirs") == b'{"bytes":"x"}'
        assert await store.list() == (["theirs"], "")

    run(check)


def test_what_is_no_key_is_neither_listed_nor_read(run: Callable[[Check], None], tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        keys = tmp_path / "keys"
        (keys / "no.key").write_text("x")
        (keys / "-bad").write_text("x")
        (keys / "folder").mkdir()
        os.mkfifo(keys / "pipe")
        (tmp_path / "outside").write_text("secret")
        (keys / "link").symlink_to(tmp_path / "outside")
        (keys / "huge").write_bytes(bytes(64 * 1024 + 1))
        assert (await store.list()).names == ["huge"]
        for name, reason in {
            "link": "is a symbolic link, not a key",
            "pipe": "is not a regular file",
            "huge": "is too large to be a key",
        }.items():
            with pytest.raises(KeyStoreError, match=reason):
                await store.get(name)
        with pytest.raises(KeyStoreError, match=r"can't be used|not a regular file"):
            await store.get("folder")
        for name in ("../outside", "no.key", "", "/etc/passwd", "a/b"):
            for operation in (store.get, store.delete):
                with pytest.raises(KeyStoreError, match="not a valid name"):
                    await operation(name)
            with pytest.raises(KeyStoreError, match="not a valid name"):
                await store.create(name, b"")
        with pytest.raises(KeyExistsError):
            await store.create("link", b"x")
        with pytest.raises(KeyStoreError, match="at most 65536 bytes"):
            await store.create("new", bytes(64 * 1024 + 1))
        assert (tmp_path / "outside").read_text() == "secret"

    run(check)


def test_unsafe_or_useless_directories_are_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(KeyStoreError, match=r"others can write into .*shared' \(mode 0777\): chmod 0700"):
        asyncio.run(opened(shared))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(KeyStoreError, match="can't be used: File exists"):
        asyncio.run(opened(file))
    with pytest.raises(KeyStoreError, match="can't be used: Not a directory"):
        asyncio.run(opened(file / "keys"))


def test_directory_that_vanishes_is_an_error_and_no_absence(run: Callable[[Check], None], tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        await store.create("k", b"v")
        (tmp_path / "keys").rename(tmp_path / "away")
        for call in (store.get("k"), store.delete("k"), store.create("x", b""), store.list(), store.status()):
            with pytest.raises(KeyStoreError, match="can't be used: No such file or directory") as caught:
                await call
            assert not isinstance(caught.value, KeyNotFoundError)
        (tmp_path / "away").rename(tmp_path / "keys")
        assert await store.get("k") == b"v"

    run(check)


def test_leftovers_are_removed_but_not_those_of_living_processes(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / ".new-dead").write_text("half")
    (keys / ".new-alive").write_text("half")
    with (keys / ".new-alive").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asyncio.run(_open_and_close(keys))
        assert [entry.name for entry in keys.iterdir()] == [".new-alive"]


async def _open_and_close(path: Path) -> None:
    store = await FileKeyStore.open(path)
    assert (await store.list()).names == []
    await store.close()


@given(st.dictionaries(st.text("abAB01_", min_size=2, max_size=8), st.binary(max_size=100), max_size=8))
def test_values_come_back_as_they_went_in(tmp_path_factory: pytest.TempPathFactory, values: dict[str, bytes]) -> None:
    async def check() -> None:
        store = await FileKeyStore.open(tmp_path_factory.mktemp("values") / "keys")
        for name, value in values.items():
            await store.create(name, value)
        assert (await store.list()).names == sorted(values)
        assert {name: await store.get(name) for name in values} == values
        await store.close()

    asyncio.run(check())


CREATOR = """
import asyncio, sys
from pathlib import Path
from kes_core.crypto import KeyVersion
from kes_fs.store import FileKeyStore

async def main():
    store = await FileKeyStore.open(Path(sys.argv[1]))
    prefix = sys.argv[2]
    number = 0
    while True:
        name = f"{prefix}-{number}"
        await store.create(name, KeyVersion.generate("me").encode())
        print(name, flush=True)
        number += 1

asyncio.run(main())
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """A key is whole or not there, and one that was acknowledged is there. Two processes are killed, ten times."""
    keys = tmp_path / "keys"
    chance = random.Random(7373)
    acknowledged: set[str] = set()
    for round_ in range(5):
        creators = [
            subprocess.Popen(
                [sys.executable, "-c", CREATOR, str(keys), f"r{round_}p{number}"], stdout=subprocess.PIPE, text=True
            )
            for number in range(2)
        ]
        for creator in creators:
            assert creator.stdout is not None
            wanted = chance.randrange(5, 60)
            names = [next(creator.stdout).strip() for _ in range(wanted)]
            creator.send_signal(signal.SIGKILL)
            names += [line.strip() for line in creator.stdout if line.endswith("\n")]
            creator.wait()
            creator.stdout.close()
            acknowledged.update(names)

    async def check() -> None:
        store = await FileKeyStore.open(keys)
        present = (await store.list(limit=10**6)).names
        assert acknowledged <= set(present)
        for name in present:
            KeyVersion.decode(await store.get(name))
        await store.close()

    asyncio.run(check())
    assert not [entry for entry in keys.iterdir() if entry.name.startswith(".new-")]


RACER = """
import asyncio, sys
from pathlib import Path
from kes_core import KeyExistsError
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
        except KeyExistsError:
            pass
    print(*won, flush=True)
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def racers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes that are about to create the same keys."""
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
    won: dict[int, int] = {}
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for number, racer in enumerate(racers):
        assert racer.stdout is not None
        for key in racer.stdout.readline().split():
            assert int(key) not in won
            won[int(key)] = number
    assert len(won) == 200
    for key, number in won.items():
        assert (tmp_path / "keys" / f"key-{key}").read_text() == str(number)


def test_reader_never_sees_half_a_key(run: Callable[[Check], None]) -> None:
    async def check(store: FileKeyStore) -> None:
        value = bytes(range(256)) * 200

        async def read() -> bytes:
            while True:
                try:
                    return await store.get("k")
                except KeyNotFoundError:
                    continue

        for _ in range(20):
            readers = [asyncio.create_task(read()) for _ in range(3)]
            await store.create("k", value)
            assert await asyncio.gather(*readers) == [value] * 3
            await store.delete("k")

    run(check)


def test_caller_that_gives_up_leaves_a_key_whole_or_not_there(run: Callable[[Check], None]) -> None:
    async def check(store: FileKeyStore) -> None:
        value = bytes(64 * 1024)
        for number in range(50):
            creating = asyncio.create_task(store.create(f"k{number}", value))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
        await store.create("last", b"")  # what was under way on the same threads has ended by then, or soon will
        for name in (await store.list()).names:
            assert await store.get(name) in {value, b""}

    run(check)


def test_backend_comes_in_through_its_entry_point() -> None:
    backend = load_plugins().backends["fs"]
    assert backend.config is FileConfig
    assert backend.persistent

"""The filesystem key store on a directory that fails."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kes_core import EntryExistsError, KeyStoreError, KeyStoreUnreachableError
from kes_fs.store import FileKeyStore

Run = Callable[[Callable[[FileKeyStore], Awaitable[None]]], None]
OpenAndClose = Callable[[Path], Coroutine[Any, Any, list[str]]]


def test_directory_that_vanishes_is_an_error_and_no_absence(run: Run, tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        await store.create("k", b"v")
        (tmp_path / "keys").rename(tmp_path / "away")
        for call, trouble in (
            (store.get("k"), "can't read key 'k' in"),
            (store.delete("k"), "can't delete key 'k' in"),
            (store.create("x", b""), "can't create key 'x' in"),
            (store.list(), "can't list the keys in"),
            (store.status(), "can't be used"),
        ):
            with pytest.raises(KeyStoreError, match=rf"{trouble}.*: No such file or directory") as caught:
                await call
            assert type(caught.value) is KeyStoreError
        (tmp_path / "away").rename(tmp_path / "keys")
        assert await store.get("k") == b"v"

    run(check)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EIO])
def test_file_system_that_has_lost_its_server_is_unreachable(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def check(store: FileKeyStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("kes_fs.store.os.open", failing(number))
            for call in (store.status(), store.get("k"), store.create("k", b"v")):
                with pytest.raises(KeyStoreUnreachableError, match=os.strerror(number)):
                    await call
        await store.create("k", b"v")

    run(check)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("function", ["open", "fsync", "link"])
def test_create_that_fails_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    async def check(store: FileKeyStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(f"kes_fs.store.os.{function}", failing(number))
            with pytest.raises(
                KeyStoreError, match=rf"can't create key 'k' in .*keys': {os.strerror(number)}"
            ) as caught:
                await store.create("k", b"the secret")
        assert type(caught.value) is KeyStoreError
        assert "the secret" not in repr(caught.value)
        assert list((tmp_path / "keys").iterdir()) == []
        await store.create("k", b"v")

    run(check)


def test_temporary_file_that_cannot_be_removed_is_removed_later(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The temporary file is a second name of the key's file, and would outlive the key."""

    async def check(store: FileKeyStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("kes_fs.store.Path.unlink", failing(errno.EIO))
            await store.create("k", b"the secret")  # succeeds, because the key is stored
            assert await store.get("k") == b"the secret"
        await store.delete("k")
        (left,) = (tmp_path / "keys").iterdir()
        assert f"the temporary file {str(left)!r}, which may hold the text of a key, can't be removed" in caplog.text
        assert "the secret" not in caplog.text
        await store.status()
        assert list((tmp_path / "keys").iterdir()) == []

    run(check)


def test_file_system_without_hard_links_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(store: FileKeyStore) -> None:
        monkeypatch.setattr("kes_fs.store.os.link", failing(errno.EPERM))
        with pytest.raises(KeyStoreError, match="has no hard links: use another one"):
            await store.create("k", b"v")

    run(check)


def failing(number: int) -> Callable[..., Any]:
    """Return a function that fails like a file system in a state in which a test can't put a real one."""

    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from kes_core import KeyStoreError
from kes_fs.store import FileKeyStore

async def main():
    store = await FileKeyStore.open(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        await store.create("k", bytes(20000))
    except KeyStoreError as error:
        print(error)
    await store.close()

asyncio.run(main())
"""


def test_write_that_ends_half_way_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "keys")], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"can't create key 'k' in '{tmp_path / 'keys'}': File too large\n"
    assert list((tmp_path / "keys").iterdir()) == []


def test_file_system_that_hangs_is_unreachable_and_delays_no_other_call(
    open_and_close: OpenAndClose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        await open_and_close(tmp_path / "keys")
        store = FileKeyStore(tmp_path / "keys", time_limit=0.05)
        with monkeypatch.context() as patch:
            patch.setattr("kes_fs.store.os.open", hang)
            with pytest.raises(KeyStoreUnreachableError, match=r"can't read key 'k' in .*: no answer within 0\.05 s"):
                await store.get("k")
        release.set()
        await store.close()

    release = threading.Event()

    def hang(*_arguments: Any, **_options: Any) -> int:
        release.wait()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    asyncio.run(check())


def test_key_is_durable_before_it_is_there_and_its_name_before_it_is_acknowledged(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test can't cut the power, so this one checks the order of the system calls."""
    order: list[str] = []

    def spy(name: str) -> None:
        function = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            of = stat.S_ISDIR(os.fstat(arguments[0]).st_mode) if name == "fsync" else None
            order.append({True: "sync directory", False: "sync file", None: name}[of])
            return function(*arguments, **options)

        monkeypatch.setattr(f"kes_fs.store.os.{name}", call)

    async def check(store: FileKeyStore) -> None:
        for name in ("fsync", "link"):
            spy(name)
        await store.create("k", b"v")
        assert order == ["sync file", "link", "sync directory"]
        order.clear()
        with pytest.raises(EntryExistsError):
            await store.create("k", b"v")
        assert order == ["sync file", "link", "sync directory"]
        order.clear()
        await store.delete("k")
        assert order == ["sync directory"]

    run(check)


def test_new_directory_is_durable_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_and_close: OpenAndClose
) -> None:
    synced: list[int] = []
    sync = os.fsync

    def spy(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr("kes_fs.store.os.fsync", spy)
    asyncio.run(open_and_close(tmp_path / "deep" / "keys"))
    assert synced == [tmp_path.stat().st_ino, (tmp_path / "deep").stat().st_ino]

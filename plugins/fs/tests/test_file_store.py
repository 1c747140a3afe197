"""The filesystem key store: what it stores where, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core import EntryExistsError, EntryNotFoundError, KeyStoreError, page_of
from kes_core.names import is_valid_name
from kes_core.plugins import load_plugins
from kes_fs import FileConfig, listing
from kes_fs.listing import Listing
from kes_fs.store import FileKeyStore
from tests.helpers.vectors import vectors

Run = Callable[[Callable[[FileKeyStore], Awaitable[None]]], None]
OpenAndClose = Callable[[Path], Coroutine[Any, Any, list[str]]]


def test_contract(run: Run) -> None:
    async def check(store: FileKeyStore) -> None:
        assert await store.list() == ([], "")
        await store.create("a", b"\0\xff binary")
        await store.create("empty", b"")
        await store.create("large", bytes(64 * 1024))
        assert await store.get("a") == b"\0\xff binary"
        assert await store.get("empty") == b""
        assert await store.get("large") == bytes(64 * 1024)
        with pytest.raises(EntryExistsError):
            await store.create("a", b"other")
        assert await store.get("a") == b"\0\xff binary"
        assert await store.list(limit=2) == (["a", "empty"], "large")
        assert await store.list(start="large") == (["large"], "")
        assert await store.list("e") == (["empty"], "")
        await store.delete("a")
        for operation in (store.get, store.delete):
            with pytest.raises(EntryNotFoundError):
                await operation("a")
        await store.status()
        await store.close()

    run(check)


@given(
    names=st.sets(st.text("ab-_", min_size=1, max_size=3).filter(is_valid_name)),
    prefix=st.text("ab-", max_size=2),
    start=st.text("ab-", max_size=2),
    limit=st.integers(-1, 4),
)
def test_page_is_that_of_all_names(names: set[str], prefix: str, start: str, limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for key in names:
            (directory / key).touch()
        found = asyncio.run(FileKeyStore(directory).list(prefix, start=start, limit=limit))
    assert found == page_of(names, prefix, start=start, limit=limit)


def test_directory_is_not_read_again_while_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []

    def read(path: Path) -> Any:
        reads.append(path)
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", read)
    (tmp_path / "a").touch()
    names = Listing(tmp_path)
    assert [list(names.names()) for _ in range(2)] == [["a"], ["a"]]
    assert len(reads) == 2  # another change in this moment could leave the same times
    monkeypatch.setattr(listing, "SETTLED", -60.0)
    assert [list(names.names()) for _ in range(3)] == [["a"]] * 3
    assert len(reads) == 3
    (tmp_path / "b").touch()
    times = tmp_path.stat()
    os.utime(tmp_path, ns=(times.st_atime_ns, times.st_mtime_ns - 10**9))
    assert list(names.names()) == ["a", "b"]
    (tmp_path / "a").unlink()
    assert list(names.names()) == ["b"]
    (tmp_path / "c").symlink_to(tmp_path / "d")
    (tmp_path / "d").touch()
    assert list(names.names()) == ["b", "c", "d"]
    assert len(reads) == 6
    names.names()
    assert len(reads) == 7  # a link's target may change without the directory


def test_files_are_named_like_their_keys_and_only_for_their_owner(tmp_path: Path) -> None:
    async def check() -> None:
        store = await FileKeyStore.open(tmp_path / "deep" / "down" / "keys")
        await store.create("my-key", b"value")
        await store.close()

    old = os.umask(0)
    try:
        asyncio.run(check())
    finally:
        os.umask(old)
    directory = tmp_path / "deep" / "down" / "keys"
    assert [entry.name for entry in directory.iterdir()] == ["my-key"]
    assert mode_of(directory / "my-key") == 0o600
    assert [mode_of(each) for each in (directory, directory.parent, directory.parent.parent)] == [0o700] * 3
    assert (directory / "my-key").read_bytes() == b"value"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_relative_path_stays_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        monkeypatch.chdir(tmp_path)
        store = await FileKeyStore.open(Path("keys"))
        monkeypatch.chdir("/")
        await store.create("k", b"v")
        await store.close()

    asyncio.run(check())
    assert (tmp_path / "keys" / "k").read_bytes() == b"v"


def test_new_key_directory_is_logged(
    open_and_close: OpenAndClose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is not mounted would look like a new server."""
    path = tmp_path / "disk" / "keys"
    asyncio.run(open_and_close(path))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("kes.fs", "WARNING")
    assert record.getMessage() == (
        f"the key directory {str(path)!r} was missing and was created: it holds no keys; is the disk mounted?"
    )
    caplog.clear()
    asyncio.run(open_and_close(path))
    assert caplog.records == []


def test_key_of_another_server_is_read(run: Run, tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        (tmp_path / "keys" / "theirs").write_bytes(b'{"bytes":"x"}')
        assert await store.get("theirs") == b'{"bytes":"x"}'
        assert await store.list() == (["theirs"], "")

    run(check)


def test_what_is_no_key_is_neither_listed_nor_read_nor_removed(run: Run, tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        keys = tmp_path / "keys"
        (keys / "no.key").write_text("x")
        (keys / "-bad").write_text("x")
        (keys / "folder").mkdir()
        os.mkfifo(keys / "pipe")
        (keys / "link").symlink_to(tmp_path / "nowhere")
        (keys / "circle").symlink_to(keys / "circle")
        (keys / "folder-link").symlink_to(keys / "folder")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(keys / "socket"))
        assert await store.list() == ([], "")
        for name in ("link", "circle", "folder-link", "pipe", "folder", "socket"):
            with pytest.raises(KeyStoreError, match=rf"{name}' is (a symbolic link, and|not a regular file)") as caught:
                await store.get(name)
            assert not isinstance(caught.value, EntryNotFoundError)
            with pytest.raises(KeyStoreError, match=rf"{name}' is (a symbolic link: remove|not a regular file)"):
                await store.delete(name)
            with pytest.raises(EntryExistsError):
                await store.create(name, b"x")
        assert len(list(keys.iterdir())) == 8

    run(check)


def test_keys_of_a_mounted_secret(run: Run, tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links, and changes all keys at once with another target of `..data`."""

    async def check(store: FileKeyStore) -> None:
        keys = tmp_path / "keys"
        for version in ("..1", "..2"):
            (keys / version).mkdir()
            (keys / version / "my-key").write_bytes(version.encode())
        (keys / "..data").symlink_to("..1")
        (keys / "my-key").symlink_to("..data/my-key")
        assert await store.list() == (["my-key"], "")
        assert await store.get("my-key") == b"..1"
        (keys / "new").symlink_to("..2")
        (keys / "new").rename(keys / "..data")
        assert await store.get("my-key") == b"..2"
        with pytest.raises(EntryExistsError):
            await store.create("my-key", b"x")
        with pytest.raises(KeyStoreError, match="is a symbolic link: remove it and the file that it points to"):
            await store.delete("my-key")
        assert await store.get("my-key") == b"..2"

    run(check)


def test_link_to_a_file_that_others_can_read_is_refused(open_and_close: OpenAndClose, tmp_path: Path) -> None:
    """The mode of the key directory does not protect a file elsewhere."""
    keys, elsewhere = tmp_path / "keys", tmp_path / "elsewhere"
    keys.mkdir(mode=0o700)
    elsewhere.touch()
    (keys / "my-key").symlink_to(elsewhere)
    elsewhere.chmod(0o644)
    with pytest.raises(KeyStoreError, match=r"others can read or change the key .*my-key' \(mode 0644\)"):
        asyncio.run(open_and_close(keys))
    elsewhere.chmod(0o640)
    assert asyncio.run(open_and_close(keys)) == ["my-key"]


def test_file_that_is_too_large_is_not_read_but_can_be_deleted(run: Run, tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        (tmp_path / "keys" / "huge").write_bytes(bytes(64 * 1024 + 1))
        assert await store.list() == (["huge"], "")
        with pytest.raises(KeyStoreError, match="is too large to be a key"):
            await store.get("huge")
        await store.delete("huge")
        with pytest.raises(KeyStoreError, match="at most 65536 bytes"):
            await store.create("huge", bytes(64 * 1024 + 1))
        assert await store.list() == ([], "")

    run(check)


def test_names_that_lead_elsewhere_are_refused(run: Run, tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        (tmp_path / "outside").write_text("secret")
        for name in ("../outside", "no.key", "", ".", "..", "/etc/passwd", "a/b", "a\0b", "-a", "\u00e4", "a\n"):
            for operation in (store.get(name), store.delete(name), store.create(name, b"")):
                with pytest.raises(KeyStoreError, match="not a valid name"):
                    await operation
        assert (tmp_path / "outside").read_text() == "secret"

    run(check)


def test_no_file_stays_open(run: Run, tmp_path: Path) -> None:
    async def check(store: FileKeyStore) -> None:
        (tmp_path / "keys" / "folder").mkdir()
        await store.create("k", b"v")
        before = open_files()
        for _ in range(20):
            for call in (store.get("folder"), store.delete("folder"), store.create("k", b""), store.get("absent")):
                with pytest.raises(KeyStoreError):
                    await call
            await asyncio.gather(store.get("k"), store.list(), store.status())
        assert open_files() == before

    run(check)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


LISTINGS = [case for case in vectors("listing")["cases"] if all(map(is_valid_name, case.get("names", [])))]


@pytest.mark.parametrize("case", LISTINGS, ids=range(len(LISTINGS)))
def test_listings_of_the_vectors(case: dict[str, Any], run: Run, tmp_path: Path) -> None:
    generate = case.get("generate", {"format": "", "count": 0, "more": case.get("names")})
    names = [generate["format"] % number for number in range(generate["count"])] + generate["more"]

    async def check(store: FileKeyStore) -> None:
        for name in names:
            (tmp_path / "keys" / name).touch(mode=0o600)
        page = await store.list(case["prefix"], limit=case["n"])
        assert page.next == case["continue_at"]
        if "list" in case:
            assert page.names == case["list"]
        else:
            expected = (case["list_first"], case["list_last"], case["list_count"])
            assert (page.names[0], page.names[-1], len(page.names)) == expected

    run(check)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702, 0o2777])
def test_directory_that_others_can_write_into_is_refused(
    open_and_close: OpenAndClose, tmp_path: Path, mode: int
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(KeyStoreError, match=rf"others can write into .*shared' \(mode {mode:04o}\): chmod 0700"):
        asyncio.run(open_and_close(shared))


@pytest.mark.parametrize(
    ("directory", "key", "exposed"),
    [
        (0o755, 0o600, False),
        (0o755, 0o644, True),
        (0o755, 0o640, False),
        (0o2775, 0o660, False),
        (0o2775, 0o664, True),
        (0o2770, 0o664, False),
        (0o755, 0o602, True),
        (0o750, 0o604, False),
        (0o744, 0o644, False),
        (0o700, 0o666, False),
    ],
)
def test_key_that_others_can_get_at_is_refused(
    open_and_close: OpenAndClose, tmp_path: Path, directory: int, key: int, exposed: bool
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "my-key").touch()
    (keys / "my-key").chmod(key)
    (keys / "README.txt").touch(0o644)
    keys.chmod(directory)
    if exposed:
        with pytest.raises(KeyStoreError, match=rf"others can read or change the key .*my-key' \(mode {key:04o}\)"):
            asyncio.run(open_and_close(keys))
    else:
        assert asyncio.run(open_and_close(keys)) == ["my-key"]


FOREIGN_GROUP = 65533
"""A group of which this process is not a member. Only root can give files to it."""
IS_ROOT = os.geteuid() == 0


@pytest.mark.root
@pytest.mark.parametrize(
    ("directory", "key", "key_is_foreign", "text"),
    [
        (0o2770, 0o600, True, "others can write into"),
        (0o750, 0o640, True, "others can read or change the key"),
        (0o750, 0o604, True, ""),  # group members get the group's bits
        (0o710, 0o600, True, ""),
        *([(0o750, 0o604, False, "others can read or change the key"), (0o750, 0o660, False, "")] if IS_ROOT else []),
    ],
)
def test_foreign_group_may_not_get_at_keys(
    open_and_close: OpenAndClose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    directory: int,
    key: int,
    key_is_foreign: bool,
    text: str,
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "my-key").touch()
    if IS_ROOT:
        for path in [keys, keys / "my-key"] if key_is_foreign else [keys]:
            os.chown(path, -1, FOREIGN_GROUP)
    else:
        monkeypatch.setattr(os, "getegid", lambda: FOREIGN_GROUP)
        monkeypatch.setattr(os, "getgroups", list)
    (keys / "my-key").chmod(key)
    keys.chmod(directory)
    if text:
        with pytest.raises(KeyStoreError, match=text):
            asyncio.run(open_and_close(keys))
    else:
        assert asyncio.run(open_and_close(keys)) == ["my-key"]


def test_what_is_no_directory_is_refused(open_and_close: OpenAndClose, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "keys"):
        with pytest.raises(KeyStoreError, match=rf"the key directory '{path}' can't be used: Not a directory"):
            asyncio.run(open_and_close(path))


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


def test_backend_comes_in_through_its_entry_point() -> None:
    backend = load_plugins().backends["fs"]
    assert backend.config is FileConfig
    assert backend.persistent

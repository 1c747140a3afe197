"""The doctor finds each fault of a key directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from kes_core import Finding, PluginContext
from kes_core.plugins import load_plugins
from kes_fs import FileConfig, doctor
from kes_fs.store import FileKeyStore


def diagnose(path: Path) -> Sequence[Finding]:
    backend = load_plugins().backends["fs"]
    assert backend.diagnose is not None
    found: Sequence[Finding] = asyncio.run(backend.diagnose(FileConfig(path=str(path)), PluginContext()))  # type: ignore[arg-type] # a coroutine
    return found


def only(path: Path) -> Finding:
    (found,) = diagnose(path)
    return found


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with a key."""

    async def make() -> None:
        store = await FileKeyStore.open(tmp_path / "keys")
        await store.create("my-key", b"value")
        await store.close()

    asyncio.run(make())
    return tmp_path / "keys"


def test_directory_in_use(keys: Path) -> None:
    assert only(keys) == Finding.ok("key store", f"the directory {str(keys)!r} can be used, and holds 1 key")


def test_what_a_killed_server_has_left_behind(keys: Path) -> None:
    leftover = keys / f".new-{0:032x}"
    leftover.touch(mode=0o600)
    (keys / f".new-{1:032x}").symlink_to(leftover)
    found = diagnose(keys)[-1]
    assert (found.level, "there are 1 temporary file(s)" in found.message) == ("warning", True)
    assert "restart the server" in found.cure
    assert leftover.exists()  # another server may be writing it


def test_missing_directory_is_not_made(tmp_path: Path) -> None:
    found = only(tmp_path / "a" / "b")
    assert found.level == "note"
    assert "the server creates it" in found.message
    assert list(tmp_path.iterdir()) == []


def test_directory_that_others_can_use(keys: Path) -> None:
    keys.chmod(0o777)
    found = only(keys)
    assert (found.level, f"chmod 0700 {keys}" in found.message) == ("error", True)
    keys.chmod(0o755)
    (keys / "my-key").chmod(0o644)
    found = only(keys)
    assert (found.level, "others can read or change the key" in found.message) == ("error", True)


def test_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = only(file)
    assert (found.level, "Not a directory" in found.message) == ("error", True)
    assert "keystore.fs.path" in found.cure
    below = only(file / "keys")
    assert below.level == "error"


def test_full_disk(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test does not fill a disk, but sets the limit so high that this disk is below it."""
    monkeypatch.setattr(doctor, "_LITTLE_SPACE", 2**62)
    found = diagnose(keys)[-1]
    assert (found.level, "KiB left for keys" in found.message) == ("warning", True)
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "_FEW_FILES", 2**62)
    found = diagnose(keys)[-1]
    assert (found.level, "more files, and each key is one" in found.message) == ("warning", True)


@pytest.mark.root
def test_directory_that_belongs_to_the_servers_group(keys: Path) -> None:
    """The owner is another user, as with Kubernetes' `fsGroup`."""
    if os.geteuid() == 0:
        os.chown(keys, 65534, -1)
    keys.chmod(0o2775)
    assert only(keys).level == "ok"


@pytest.mark.root
def test_directory_of_another_user(keys: Path) -> None:
    if os.geteuid() == 0:
        os.chown(keys, 65534, 65534)
        found = diagnose(keys)[-1]
    else:
        (found,) = doctor._owner(Path("/"))
    assert (found.level, "belongs to user" in found.message) == ("warning", True)
    assert "chown -R" in found.cure

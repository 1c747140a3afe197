"""Backups of stores that change meanwhile, and restorations to stores that have keys already or fail."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest

from kes_backup import creation
from kes_backup.creation import Creation, new_file
from kes_backup.records import BackupError
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.counters import StoreCounters
from kes_core.keys.changes import change_condition, rotate_key
from kes_core.keys.copying import KeyCopies
from kes_core.keys.deletion import planned
from kes_core.keys.stored import KeyState, KeyVersion
from kes_core.keys.watched import WatchedStore
from kes_core.keystore import KeyStoreError, KeyStoreUnreachableError, Page
from tests.helpers.backups import IDENTITY, NAMES, backup, entries, fill, filled, opener, restored, results, verified


def watched(store: MemoryKeyStore) -> WatchedStore:
    return WatchedStore(store, StoreCounters(), lambda: 0.0)


def test_backup_has_every_entry_and_restores_it() -> None:
    source, target = filled(), MemoryKeyStore()
    data = backup(source)
    contents = verified(data)
    assert contents.header.store == "memory"
    assert (contents.keys, contents.entries, contents.versions) == (6, len(entries(source)), 11)
    assert (contents.disabled, contents.scheduled, contents.overdue) == (1, 1, 1)
    assert results(restored(data, target, dry_run=True)) == {"copied": 6}
    assert entries(target) == {}
    assert results(restored(data, target)) == {"copied": 6}
    assert entries(target) == entries(source)
    assert results(restored(data, target)) == {"identical": 6}


@pytest.mark.parametrize(("pattern", "names"), [("a*", NAMES[:3]), ("a", ["a"]), ("*", NAMES), ("b*", [])])
def test_pattern_selects_keys_of_both(pattern: str, names: list[str]) -> None:
    source, target, other = filled(), MemoryKeyStore(), MemoryKeyStore()
    restored(backup(source), target, pattern)
    restored(backup(source, pattern), other)
    assert entries(target) == entries(other)
    assert [name for name in entries(target) if not name.endswith("-")] == names


def test_what_is_left_of_deleted_keys_is_not_in_the_backup() -> None:
    store = filled()
    whole = entries(store)
    del store._values["rotated"]
    assert verified(backup(store)).entries == len(whole) - 5


def test_key_that_a_server_deletes_now_is_not_in_the_backup() -> None:
    async def begin() -> None:
        deleting = planned(1)

        def change(key: object) -> object:
            return deleting(key)._replace(state=KeyState.DELETING)  # type: ignore[arg-type]

        await change_condition(watched(store), "rotated", change, "me")  # type: ignore[arg-type]

    store = filled()
    asyncio.run(begin())
    assert verified(backup(store)).keys == 5


class Deleting(MemoryKeyStore):
    """Deletes a key with all its entries, before one of its entries is read."""

    def __init__(self, name: str, moment: int) -> None:
        super().__init__()
        self.key = name
        self.moment = moment

    async def get(self, name: str) -> bytes:
        self.moment -= name.startswith(self.key)
        if not self.moment:
            for entry in [entry for entry in self._values if entry.startswith(self.key)]:
                del self._values[entry]
        return await super().get(name)


def test_key_that_is_deleted_while_it_is_read_is_whole_or_missing() -> None:
    """The deletion begins before each of the reads, one after the other."""
    for moment in range(1, 9):
        store = Deleting("rotated", moment)
        store._values = entries(filled())
        data = backup(store)
        target = MemoryKeyStore()
        assert results(restored(data, target)) in ({"copied": 6}, {"copied": 5})
        found = [name for name in entries(target) if name.startswith("rotated")]
        assert len(found) in {0, 5}, moment
        assert len(entries(target)) in {len(entries(filled())), len(entries(filled())) - 5}


def test_entry_that_is_not_a_key_is_reported_and_left_out() -> None:
    async def start() -> tuple[Creation, bytes]:
        await store.create("broken", b"secret text")
        made, target = Creation(store, "memory"), io.BytesIO()
        await made.write(target, "*", [IDENTITY.to_public()], None, lambda: None)
        return made, target.getvalue()

    store = filled()
    made, data = asyncio.run(start())
    assert made.failures.keys() == {"broken"}
    assert "the source's entry is not a key" in made.failures["broken"]
    assert "secret" not in made.failures["broken"]
    assert verified(data).keys == made.keys == 6


def test_store_that_does_not_answer_ends_the_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kes_core.keys.copying._ATTEMPTS", 2)

    class Gone(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            if name == "rotated":
                raise KeyStoreUnreachableError("no route")
            return await super().get(name)

    store = Gone()
    asyncio.run(fill(MemoryKeyStore()))
    store._values = entries(filled())
    with pytest.raises(KeyStoreUnreachableError, match="no route"):
        backup(store)


def test_listing_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "_PAGE", 2)
    store = filled()
    assert verified(backup(store)).entries == len(entries(store))


def test_creation_that_is_stopped_ends_with_an_error() -> None:
    class Stopping(MemoryKeyStore):
        async def list(self, prefix: str = "", *, start: str = "", limit: int = 0) -> Page:
            made.stop()
            return await super().list(prefix, start=start, limit=limit)

    store = Stopping()
    store._values = entries(filled())
    made = Creation(store, "memory")
    with pytest.raises(BackupError, match=r"^interrupted: no backup was written$"):
        asyncio.run(made.write(io.BytesIO(), "*", [IDENTITY.to_public()], None, lambda: None))


# Restoration


def test_another_key_of_the_name_stays_and_is_an_error_and_all_others_are_restored() -> None:
    source, target = filled(), MemoryKeyStore()
    other = KeyVersion.generate("other").encode()
    target._values["rotated"] = other
    for dry_run in (True, False):
        copies = restored(backup(source), target, dry_run=dry_run)
        assert results(copies) == {"copied": 5, "failed": 1}
        assert copies.summary.failures == {"rotated": "the target has another key of that name"}
    assert entries(target)["rotated"] == other
    assert len(entries(target)) == len(entries(source)) - 4


def test_key_that_was_rotated_since_keeps_its_version() -> None:
    store = filled()
    data = backup(store)
    asyncio.run(rotate_key(watched(store), "rotated", "me"))
    before = entries(store)
    assert results(restored(data, store)) == {"identical": 6}
    assert entries(store) == before


def test_key_that_was_rotated_otherwise_keeps_its_versions_and_is_an_error() -> None:
    source = filled()
    first = source._values["a-b"]
    target = MemoryKeyStore()
    target._values["a-b"] = first
    asyncio.run(rotate_key(watched(source), "a-b", "me"))
    asyncio.run(rotate_key(watched(target), "a-b", "me"))
    before = entries(target)
    copies = restored(backup(source), target, "a-b")
    assert results(copies) == {"failed": 1}
    assert "the key was rotated in both" in copies.summary.failures["a-b"]
    assert entries(target) == before


class DeathError(BaseException):
    """The process is killed."""


class Mortal(MemoryKeyStore):
    """Kills the process before a write."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives
        self.order: list[str] = []

    async def create(self, name: str, value: bytes) -> None:
        self.lives -= 1
        if not self.lives:
            raise DeathError
        await super().create(name, value)
        self.order.append(name)


def test_restoration_that_is_killed_before_any_write_continues() -> None:
    source = filled()
    data = backup(source)
    whole = entries(source)
    for lives in range(1, len(whole) + 1):
        target = Mortal(lives)
        with pytest.raises(BaseException, match=r"^$|unhandled") as caught:
            restored(data, target)
        assert isinstance(caught.value, DeathError | BaseExceptionGroup)
        for name in NAMES:  # no server sees a part of a key
            if name in entries(target):
                later = {entry for entry in whole if entry.startswith(f"{name}-r")}
                assert later <= entries(target).keys()
        target.lives = 0
        assert set(results(restored(data, target))) <= {"copied", "identical"}
        assert entries(target) == whole


def test_store_that_fails_for_one_key_gets_all_others() -> None:
    class Refusing(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name == "a1":
                raise KeyStoreError("not this one")
            await super().create(name, value)

    copies = restored(backup(filled()), Refusing())
    assert results(copies) == {"copied": 5, "failed": 1}
    assert copies.summary.failures == {"a1": "not this one"}


def test_damage_in_the_middle_is_found_before_anything_else_is_done() -> None:
    """`kes backup restore` verifies first; a file that changes after that is noticed too."""
    store = MemoryKeyStore()
    for number in range(400):
        store._values[f"k{number:03}"] = KeyVersion.generate("me").encode()
    data = bytearray(backup(store))
    data[-100] ^= 1
    with pytest.raises(BackupError):
        verified(bytes(data))
    target = MemoryKeyStore()
    with pytest.raises(BackupError):
        restored(bytes(data), target)
    assert entries(target).items() <= entries(store).items()


def test_stopped_restoration_finishes_the_keys_in_progress() -> None:
    async def start() -> None:
        from kes_backup.reading import InterruptedRestoreError, restore

        copies = KeyCopies(target)
        with pytest.raises(InterruptedRestoreError):
            await restore(
                await opener(data), target, copies, "*", dry_run=False, on_key=lambda _name, _outcome: copies.stop()
            )

    source, target = filled(), MemoryKeyStore()
    data = backup(source)
    asyncio.run(start())
    assert entries(target).items() <= entries(source).items()
    assert results(restored(data, target)).keys() <= {"copied", "identical"}
    assert entries(target) == entries(source)


# The file


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_file_appears_complete_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys.backup"
    with new_file(path) as file:
        file.write(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert files(tmp_path) == ["keys.backup"]


def test_file_is_never_overwritten_not_even_one_that_appears_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "keys.backup"
    with pytest.raises(BackupError, match="a backup never overwrites a file"), new_file(path):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    with pytest.raises(BackupError, match="a backup never overwrites a file"), new_file(path):
        pytest.fail("begins nevertheless")
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(BackupError, match="a backup never overwrites a file"), new_file(path):
        pytest.fail("follows a link")
    assert files(tmp_path) == ["keys.backup"]


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(LookupError), new_file(tmp_path / "keys.backup"):
        raise LookupError
    assert files(tmp_path) == []


def test_medium_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "keys.backup"
    with new_file(path) as file:
        file.write(b"x")
    assert files(tmp_path) == ["keys.backup"]
    with pytest.raises(BackupError), new_file(path):
        pytest.fail("begins nevertheless")

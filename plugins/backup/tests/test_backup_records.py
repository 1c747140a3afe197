"""The lines inside a backup."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_backup.records import BackupError, BackupReader, BackupWriter, Header, NotABackupError, RawKey, checked
from kes_core.keys.copying import KeyEntries, read_entries
from kes_core.keys.stored import KeyVersion, Timestamp
from kes_core.names import revision_name
from tests.helpers.backups import NAMES, filled
from tests.helpers.effort import scaled

HEADER = Header(Timestamp(1_790_000_000), "kes-backup 0.1.0", "memory")
KEY = KeyVersion.generate("me")
NAME = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
VALUES = st.dictionaries(NAME, st.tuples(st.binary(max_size=99), st.lists(st.binary(max_size=9), max_size=3)))


def written(keys: Sequence[KeyEntries]) -> bytes:
    writer = BackupWriter()
    return writer.header(HEADER) + b"".join(map(writer.key, keys)) + writer.trailer()


def read(data: bytes, piece: int = 10**9) -> list[RawKey]:
    reader = BackupReader()
    keys = [key for start in range(0, len(data), piece) for key in reader.feed(data[start : start + piece])]
    assert reader.finish() == HEADER
    return keys


@functools.cache
def real() -> list[KeyEntries]:
    async def start() -> list[KeyEntries]:
        store = filled_store
        found = [await read_entries(store, name) for name in NAMES]
        return [key for key in found if key is not None]

    filled_store = filled()
    return asyncio.run(start())


@scaled(30)
@given(values=VALUES, piece=st.integers(1, 200))
def test_what_is_written_is_read_in_pieces_of_any_size(
    values: dict[str, tuple[bytes, list[bytes]]], piece: int
) -> None:
    keys = [
        KeyEntries(name, first, {revision_name(name, 2 + n, "0" * 16): value for n, value in enumerate(later)}, KEY)
        for name, (first, later) in sorted(values.items())
    ]
    found = read(written(keys), piece)
    assert [(key.name, key.value, dict(key.later)) for key in found] == [
        (key.name, key.value, dict(key.later)) for key in keys
    ]
    assert [list(key.later) for key in found] == [list(key.later) for key in keys]


def test_keys_of_a_store_come_back_with_what_they_are() -> None:
    keys = real()
    found = [asyncio.run(checked(raw)) for raw in read(written(keys))]
    assert [key[:3] for key in found] == [key[:3] for key in keys]
    assert {key.name: (key.key.version, key.key.state.label) for key in found} == {
        "a": (2, "enabled"),
        "a-b": (1, "enabled"),
        "a1": (1, "enabled"),
        "disabled": (1, "disabled"),
        "rotated": (5, "enabled"),
        "scheduled": (1, "scheduled-for-deletion"),
    }


def test_no_beginning_of_a_backup_is_a_backup() -> None:
    data = written(real())
    for length in range(len(data)):
        with pytest.raises(BackupError):
            read(data[:length])


@scaled(60)
@given(data=st.data())
def test_no_other_line_goes_unnoticed(data: st.DataObject) -> None:
    """A line that is missing, twice or elsewhere, or one changed byte."""
    lines = written(real()).splitlines(keepends=True)
    changed = list(lines)
    place = data.draw(st.integers(1, len(lines) - 1))
    match data.draw(st.sampled_from(["missing", "twice", "elsewhere", "byte"])):
        case "missing":
            del changed[place]
        case "twice":
            changed.insert(place, changed[place])
        case "elsewhere":
            changed.insert(data.draw(st.integers(0, len(lines) - 2)), changed.pop(place))
        case _:
            line = bytearray(changed[place])
            line[data.draw(st.integers(0, 10_000)) % len(line)] ^= data.draw(st.integers(1, 255))
            changed[place] = bytes(line)
    if changed != lines:
        with pytest.raises(BackupError) as caught:
            read(b"".join(changed))
        assert KEY.encode().decode()[:20] not in str(caught.value)


@scaled(100)
@given(st.binary(max_size=300))
def test_other_content_is_refused(data: bytes) -> None:
    with pytest.raises(NotABackupError):
        read(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the backup has the format 2, and this release reads format 1: use a later release"),
        ({"version": True}, "the header of the backup is not valid"),
        ({"version": 0}, "the header of the backup is not valid"),
        ({"store": None}, "the header of the backup is not valid"),
        ({"created_at": "yesterday"}, "the header of the backup has no valid time"),
        ({"format": "tar"}, "the file can be decrypted, but does not contain a backup of keys"),
    ],
)
def test_header_of_something_else_is_refused(change: dict[str, object], message: str) -> None:
    header = json.loads(HEADER.encode()) | change
    with pytest.raises(NotABackupError) as caught:
        read(json.dumps(header).encode() + b"\n")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x" * 2**21, "line 2 is too long"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"name":"a"}', "line 2 is neither a record nor the end of the backup"),
        ('{"name":"a","value":"?"}', "line 2 has a value that is not base64"),
        ('{"name":"a","value":"YQ==","more":1}', "line 2 is neither a record nor the end of the backup"),
        ('{"keys":0,"entries":0,"sha256":""}', "line 2 does not fit the records before it"),
    ],
)
def test_line_that_is_wrong_is_named(line: str, message: str) -> None:
    with pytest.raises(BackupError) as caught:
        read(HEADER.encode() + line.encode() + b"\n" * (message != "line 2 is too long"))
    assert str(caught.value) == f"the backup is damaged: {message}"


def test_line_that_never_ends_is_not_collected() -> None:
    reader = BackupReader()
    for _ in range(15):
        assert list(reader.feed(b"x" * 65536)) == []
    with pytest.raises(BackupError, match="line 1 is too long"):
        list(reader.feed(b"x" * 2 * 65536))


def test_entries_that_are_not_one_key_are_refused() -> None:
    keys = {key.name: key for key in real()}
    rotated, other = keys["rotated"], keys["a"]
    later, gap = dict(rotated.later), dict(rotated.later)
    del later[list(later)[1]]
    for entry in list(gap)[1::2]:  # entries 3 and 5: 4 is read together with 3
        del gap[entry]
    for raw, message in (
        (RawKey("a", b"x", {}), "its key 'a' can't be used: the value is neither a JSON object nor base64 of"),
        (RawKey("../a", other.value, {}), "it has a key without a valid name"),
        (RawKey("rotated", rotated.value, later), "entries of another key stand before its key 'rotated'"),
        (RawKey("rotated", rotated.value, gap), "entries of another key stand before its key 'rotated'"),
        (RawKey("a", other.value, rotated.later), "entries of another key stand before its key 'a'"),
        (RawKey("b", other.value, other.later), "entries of another key stand before its key 'b'"),
    ):
        with pytest.raises(BackupError) as caught:
            asyncio.run(checked(raw))
        assert str(caught.value).startswith(f"the backup is damaged: {message}")

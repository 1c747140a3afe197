"""What is inside a backup: lines of JSON, before encryption and after decryption (docs/backup.md, "The format").

header    what wrote the backup, and when
record    one entry of the key store: its name and its content. The entries of a key are next to each other, the
          first one last, and the keys are in the order of their names.
...
trailer   how many keys and entries there are, and the hash of all lines before it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kes_core.encoding import decode_base64, encode_base64
from kes_core.keys.copying import KeyEntries
from kes_core.keys.stored import StoredKeyError, Timestamp
from kes_core.keys.versions import MAX_REVISIONS, read_key
from kes_core.keystore import EntryNotFoundError
from kes_core.names import is_valid_name, parse_revision_name

__all__ = ["BackupError", "BackupReader", "BackupWriter", "Header", "NotABackupError", "RawKey", "checked"]

FORMAT: Final = "kes-backup"
VERSION: Final = 1
MAX_LINE: Final = 1024 * 1024
"""The longest line, in bytes. The value of an entry has at most 64 KiB in all key stores of this project."""
_UNKNOWN: Final = Timestamp()


class BackupError(Exception):
    """A backup can't be made or read. The message says why, in one line and without a secret."""


class NotABackupError(BackupError):
    """The file holds something else, or a format of a later release: no part of it can be used."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a backup."""

    created_at: Timestamp = _UNKNOWN
    created_by: str = ""
    """The program, with its version."""
    store: str = ""
    """The kind of the key store that was read."""

    def encode(self) -> bytes:
        """Return the line."""
        members = {"created_at": self.created_at.rfc3339(), "created_by": self.created_by, "store": self.store}
        return _line({"format": FORMAT, "version": VERSION, **members})

    @classmethod
    def decode(cls, line: bytes) -> Header:
        """Parse the line.

        Raises:
            NotABackupError: It is not the header of a backup, or that of a later format.
        """
        members = _members(line)
        if members is None or members.get("format") != FORMAT:
            raise NotABackupError("the file can be decrypted, but does not contain a backup of keys")
        version = members.get("version")
        if type(version) is int and version > VERSION:
            raise NotABackupError(
                f"the backup has the format {version}, and this release reads format {VERSION}: use a later release"
            )
        created_by, store = members.get("created_by"), members.get("store")
        if (
            type(version) is not int
            or version != VERSION
            or not isinstance(created_by, str)
            or not isinstance(store, str)
        ):
            raise NotABackupError("the header of the backup is not valid")
        try:
            created_at = Timestamp.parse(str(members.get("created_at")))
        except ValueError:
            raise NotABackupError("the header of the backup has no valid time") from None
        return cls(created_at, created_by, store)


class RawKey(NamedTuple):
    """The entries of a key, as they are in a backup."""

    name: str
    value: bytes
    """The content of the first entry."""
    later: Mapping[str, bytes]
    """The content of the others, by their names, in the order of the backup."""


class BackupWriter:
    """Turns keys into the lines of a backup. Call `header` once, `key` for each key, and `trailer` once."""

    def __init__(self) -> None:
        self.keys = 0
        self.entries = 0
        self._hash = hashlib.sha256()

    def header(self, header: Header) -> bytes:
        """Return the first line."""
        return self._counted(header.encode())

    def key(self, key: KeyEntries) -> bytes:
        """Return the lines of a key. Its name comes after those of all keys before it."""
        self.keys += 1
        self.entries += 1 + len(key.later)
        entries = (*key.later.items(), (key.name, key.value))
        return self._counted(b"".join(_line({"name": name, "value": encode_base64(value)}) for name, value in entries))

    def trailer(self) -> bytes:
        """Return the last line."""
        return _line({"keys": self.keys, "entries": self.entries, "sha256": self._hash.hexdigest()})

    def _counted(self, lines: bytes) -> bytes:
        self._hash.update(lines)
        return lines


class BackupReader:
    """Reads the lines of a backup as they come, and checks them. Call `feed` for each piece, then `finish`."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.keys = 0
        self.entries = 0
        self.is_complete = False
        """Whether the trailer was read."""
        self._hash = hashlib.sha256()
        self._line = 0
        self._rest = bytearray()
        self._later: dict[str, bytes] = {}
        """The entries behind the first one of the key that is being read."""
        self._last = ""
        """The name of the last key."""

    def feed(self, data: bytes) -> Iterator[RawKey]:
        """Take the next piece of a backup; yield the keys that are complete. Iterate to the end before the next piece.

        Raises:
            BackupError: The content is not valid; the message names the line.
        """
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        for line in lines:
            self._line += 1
            key = self._read(bytes(line))
            if key is not None:
                yield key
        if len(rest) > MAX_LINE:
            self._line += 1
            raise self._damaged("is too long")

    def finish(self) -> Header:
        """Check that the backup is complete, and return its header.

        Raises:
            BackupError: It is not.
        """
        if self.header is None:
            raise NotABackupError("the file can be decrypted, but does not contain a backup of keys")
        if not self.is_complete or self._rest:
            raise BackupError(f"the backup is not complete: it ends after line {self._line}")
        return self.header

    def _read(self, line: bytes) -> RawKey | None:
        if self.header is None:
            self.header = Header.decode(line)
            self._hash.update(line + b"\n")
            return None
        if self.is_complete:
            raise self._damaged("comes after the end of the backup")
        members = _members(line)
        if members is None:
            raise self._damaged("is not JSON")
        if members.keys() == {"keys", "entries", "sha256"}:
            self._check_trailer(members)
            return None
        self._hash.update(line + b"\n")
        name, text = members.get("name"), members.get("value")
        if members.keys() != {"name", "value"} or not isinstance(name, str) or not isinstance(text, str):
            raise self._damaged("is neither a record nor the end of the backup")
        try:
            value = decode_base64(text)
        except ValueError:
            raise self._damaged("has a value that is not base64") from None
        self.entries += 1
        if parse_revision_name(name) is None:
            return self._complete(name, value)
        if name in self._later or len(self._later) >= MAX_REVISIONS:
            raise self._damaged("repeats an entry")
        self._later[name] = value
        return None

    def _complete(self, name: str, value: bytes) -> RawKey:
        """Put the entries of a key together, of which the first one has just been read."""
        later, self._later = self._later, {}
        if name <= self._last:
            raise self._damaged("is not in the order of the names")
        self._last = name
        self.keys += 1
        return RawKey(name, value, later)

    def _check_trailer(self, members: Mapping[str, Any]) -> None:
        counts = {"keys": self.keys, "entries": self.entries, "sha256": self._hash.hexdigest()}
        if self._later or members != counts:
            raise self._damaged("does not fit the records before it")
        self.is_complete = True

    def _damaged(self, problem: str) -> BackupError:
        return BackupError(f"the backup is damaged: line {self._line} {problem}")


async def checked(raw: RawKey) -> KeyEntries:
    """Return the key that the entries are together.

    Raises:
        BackupError: They are not a key, or not one key.
    """

    async def get(entry: str) -> bytes:
        if entry not in raw.later:
            raise EntryNotFoundError
        return raw.later[entry]

    if not is_valid_name(raw.name):
        raise BackupError("the backup is damaged: it has a key without a valid name")
    try:
        key = await read_key(get, raw.name, raw.value)
    except StoredKeyError as error:
        raise BackupError(f"the backup is damaged: its key {raw.name!r} can't be used: {error}") from None
    if len(key.later) != len(raw.later):
        raise BackupError(f"the backup is damaged: entries of another key stand before its key {raw.name!r}")
    return KeyEntries(raw.name, raw.value, raw.later, key)


def _line(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii") + b"\n"


def _members(line: bytes) -> dict[str, Any] | None:
    """Return the members of the JSON object in a line, or None if it is none."""
    try:
        members = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None

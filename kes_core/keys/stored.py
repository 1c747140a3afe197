"""The stored form of keys (protocol section 6)."""

from __future__ import annotations

import enum
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import urandom
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from kes_core.encoding import decode_base64, encode_base64, parse_json_object
from kes_core.keys.secret import KEY_SIZE, HMACKey, KeyType, SecretKey, default_key_type

if TYPE_CHECKING:
    from kes_core.keys import stored_key_pb2 as pb

__all__ = [
    "Condition",
    "KeyState",
    "KeyVersion",
    "Revision",
    "StateChange",
    "StoredKeyError",
    "Timestamp",
    "decode_later",
    "fingerprint",
]

_HMAC_SHA256: Final = 1


class StoredKeyError(ValueError):
    """A stored value is not a key. The message names the defect, without any part of the value."""


_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND: Final = -62135596800
"""The first second of the year 1, the earliest that Python can represent."""
_LAST_SECOND: Final = 253402300799
"""The last second of the year 9999, the latest that RFC 3339 can represent."""


class Timestamp(NamedTuple):
    """A time in UTC, to the nanosecond. Its default, the beginning of the year 1, means "unknown"."""

    seconds: int = _FIRST_SECOND
    """Seconds since 1970."""
    nanos: int = 0

    @classmethod
    def now(cls) -> Timestamp:
        """Return the current time."""
        return cls(*divmod(time.time_ns(), 10**9))

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Parse an RFC 3339 time.

        Raises:
            ValueError: `text` is not an RFC 3339 time, or is before the year 1 or after the year 9999 in UTC.
        """
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise ValueError("not an RFC 3339 time")
        second, fraction, zone = match.groups()
        moment = datetime.fromisoformat(second + ("+00:00" if zone == "Z" else zone))
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
        if not _FIRST_SECOND <= seconds <= _LAST_SECOND:  # its offset from UTC moves it out of range
            raise ValueError("not an RFC 3339 time in UTC")
        return cls(seconds, int((fraction or "").ljust(9, "0")))

    def rfc3339(self) -> str:
        """Format the time in UTC, without trailing zeros in the fraction of a second."""
        text = (_EPOCH + timedelta(seconds=self.seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
        fraction = f".{self.nanos:09}".rstrip("0") if self.nanos else ""
        return f"{text}{fraction}Z"

    def as_datetime(self) -> datetime:
        """Return the time to the microsecond."""
        return _EPOCH + timedelta(seconds=self.seconds, microseconds=self.nanos // 1000)


_UNKNOWN_TIME: Final = Timestamp()


class KeyState(enum.IntEnum):
    """What a key may be used for, as the number that is stored."""

    ENABLED = 1
    DECRYPT_ONLY = 2
    DISABLED = 3
    SCHEDULED_FOR_DELETION = 4
    DELETING = 5
    """A server has begun with the deletion that was scheduled."""

    @property
    def label(self) -> str:
        """Its name in answers to clients."""
        return self.name.lower().replace("_", "-")


class Condition(NamedTuple):
    """What a key may be used for, and until when it exists."""

    state: KeyState = KeyState.ENABLED
    delete_at: int = 0
    """When the key is to be deleted, in seconds since 1970; 0: never. While a server deletes it: when another one may
    take over."""
    min_version: int = 1
    """The oldest version that decrypts."""

    @property
    def is_doomed(self) -> bool:
        """Whether the deletion of the key is scheduled, or has begun."""
        return self.state >= KeyState.SCHEDULED_FOR_DELETION


class Revision(NamedTuple):
    """What an entry says of itself that adds a version to a key, or changes its state."""

    number: int
    """The place of the entry among those of the key. The key's first entry has number 1 and does not say so."""
    version: int
    """The version that it adds, or the newest one before it."""
    first: bytes
    """The fingerprint of the key's first entry."""


def fingerprint(value: bytes) -> bytes:
    """Return the fingerprint of a stored key, 32 bytes: it tells a key from a later one of the same name."""
    return hashlib.sha256(b"kes: the first entry of a key\0" + value).digest()


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """A stored key: the secret key, its HMAC key, and when and by whom it was created."""

    key: SecretKey
    hmac_key: HMACKey | None
    """None for keys of releases before 2024-02."""
    created_at: Timestamp
    created_by: str
    """The identity that created the key; empty if unknown."""
    revision: Revision | None = None
    """None for the first version of a key."""
    state: ClassVar[KeyState] = KeyState.ENABLED
    """The state of a key that is nothing but this version."""
    condition: ClassVar[Condition] = Condition()
    """As `state`."""
    later: ClassVar[Sequence[Any]] = ()
    """The entries behind the first one, of a key that is nothing but this version."""

    @property
    def version(self) -> int:
        """The number of the version."""
        return self.revision.version if self.revision is not None else 1

    @property
    def versions(self) -> Sequence[KeyVersion]:
        """The versions of the key: a key that was never rotated is its own only version."""
        return (self,)

    @classmethod
    def generate(cls, created_by: str, type: KeyType | None = None) -> KeyVersion:  # noqa: A002 # the field's name
        """Create a random key."""
        return cls.imported(urandom(KEY_SIZE), type if type is not None else default_key_type(), created_by)

    @classmethod
    def imported(cls, key: bytes, type: KeyType, created_by: str) -> KeyVersion:  # noqa: A002 # the field's name
        """Create a key from 32 given bytes, with a random HMAC key."""
        return cls(SecretKey(key, type), HMACKey(urandom(KEY_SIZE)), Timestamp.now(), created_by)

    def at(self, revision: Revision) -> KeyVersion:
        """Return this key as a later version of another one."""
        return replace(self, revision=revision)

    def encode(self) -> bytes:
        """Return the value to store: base64 of the protobuf message.

        Raises:
            ValueError: The key has no HMAC key. The Go server can't read this form without one.
        """
        if self.hmac_key is None:
            raise ValueError("a key without an HMAC key can't be stored")
        from kes_core.keys import stored_key_pb2 as pb

        message = pb.KeyVersion(created_by=self.created_by)
        message.key.key = self.key._key  # noqa: SLF001 # the one place that exports the key
        message.key.type = int(self.key.type)
        message.hmac_key.key = self.hmac_key._key  # noqa: SLF001 # as above
        message.hmac_key.hash = _HMAC_SHA256
        message.created_at.seconds = self.created_at.seconds
        message.created_at.nanos = self.created_at.nanos
        if self.revision is not None:
            _write_revision(message, self.revision)
        return encode_base64(message.SerializeToString(deterministic=True)).encode("ascii")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Decode a stored key, in today's form or in the JSON of older releases.

        Raises:
            StoredKeyError: The value is not a key.
        """
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise StoredKeyError("the value is neither base64 nor JSON") from None
        if text.lstrip(" \t\r\n").startswith("{"):
            return cls._decode_json(text)
        return cls._decode_protobuf(text)

    @classmethod
    def _decode_json(cls, text: str) -> Self:
        try:
            members = parse_json_object(text)
        except ValueError:
            raise StoredKeyError("the value is not a valid JSON object") from None
        algorithm = _string_member(members, "algorithm")
        try:
            key_type = KeyType.from_cipher(algorithm) if algorithm else KeyType.AES256
        except ValueError:
            raise StoredKeyError("the algorithm is unknown") from None
        try:
            key = decode_base64(_string_member(members, "bytes"))
        except ValueError:
            raise StoredKeyError("the key is not base64") from None
        created_at = _string_member(members, "created_at")
        try:
            moment = Timestamp.parse(created_at) if created_at else _UNKNOWN_TIME
        except ValueError:
            raise StoredKeyError("created_at is not an RFC 3339 time") from None
        secret = SecretKey(_require_key_size(key, "the key"), key_type, named_cipher=bool(algorithm))
        return cls(secret, None, moment, _string_member(members, "created_by"))

    @classmethod
    def _decode_protobuf(cls, text: str) -> Self:
        message = _parse(text)
        if not message.HasField("key"):
            raise StoredKeyError("the value contains no key")
        if message.key.type not in KeyType.__members__.values():
            raise StoredKeyError("the type of the key is unknown")
        secret = SecretKey(_require_key_size(message.key.key, "the key"), KeyType(message.key.type))
        hmac_key = None
        if message.HasField("hmac_key"):
            if message.hmac_key.hash != _HMAC_SHA256:
                raise StoredKeyError("the hash of the HMAC key is unknown")
            hmac_key = HMACKey(_require_key_size(message.hmac_key.key, "the HMAC key"))
        revision = _read_revision(message) if message.HasField("revision") else None
        return cls(secret, hmac_key, _read_time(message), message.created_by, revision)


@dataclass(frozen=True, slots=True)
class StateChange:
    """An entry that changes the state of a key."""

    state: KeyState
    created_at: Timestamp
    created_by: str
    """The identity that asked for it."""
    revision: Revision
    delete_at: int = 0
    """As in `Condition`, and so is the next one."""
    min_version: int = 1

    @property
    def condition(self) -> Condition:
        """What the key may be used for from then on."""
        return Condition(self.state, self.delete_at, self.min_version)

    def encode(self) -> bytes:
        """Return the value to store: that of a key without key material."""
        from kes_core.keys import stored_key_pb2 as pb

        message = pb.KeyVersion(created_by=self.created_by)
        message.created_at.seconds = self.created_at.seconds
        message.created_at.nanos = self.created_at.nanos
        _write_revision(message, self.revision)
        message.revision.state = int(self.state)
        message.revision.delete_at = self.delete_at
        message.revision.min_version = self.min_version if self.min_version > 1 else 0
        return encode_base64(message.SerializeToString(deterministic=True)).encode("ascii")


def decode_later(raw: bytes) -> KeyVersion | StateChange:
    """Decode an entry behind the first one of a key.

    Raises:
        StoredKeyError: The value is no such entry.
    """
    try:
        message = _parse(raw.decode("ascii"))
    except UnicodeDecodeError:
        raise StoredKeyError("the value is not base64") from None
    if not message.HasField("revision"):
        raise StoredKeyError("the value belongs to no key")
    if not message.revision.state:
        return KeyVersion.decode(raw)
    if message.HasField("key") or message.revision.state not in KeyState.__members__.values():
        raise StoredKeyError("the state is unknown")
    change = StateChange(
        KeyState(message.revision.state),
        _read_time(message),
        message.created_by,
        _read_revision(message),
        message.revision.delete_at,
        message.revision.min_version or 1,
    )
    if (not 0 < change.delete_at <= _LAST_SECOND) if change.condition.is_doomed else change.delete_at:
        raise StoredKeyError("the time of the deletion is not valid")
    if change.min_version > max(change.revision.version, 1):
        raise StoredKeyError("the oldest version that decrypts is not one of the key")
    return change


def _parse(text: str) -> pb.KeyVersion:
    from google.protobuf.message import DecodeError

    from kes_core.keys import stored_key_pb2

    try:
        return stored_key_pb2.KeyVersion.FromString(decode_base64(text))
    except (ValueError, DecodeError):
        raise StoredKeyError("the value is neither a JSON object nor base64 of a stored key") from None


def _read_time(message: pb.KeyVersion) -> Timestamp:
    created_at = Timestamp(message.created_at.seconds, message.created_at.nanos)
    if not (_FIRST_SECOND <= created_at.seconds <= _LAST_SECOND and 0 <= created_at.nanos < 10**9):
        raise StoredKeyError("created_at is not a valid time")
    return created_at


def _read_revision(message: pb.KeyVersion) -> Revision:
    return Revision(message.revision.number, message.revision.version, message.revision.first)


def _write_revision(message: pb.KeyVersion, revision: Revision) -> None:
    message.revision.number = revision.number
    message.revision.version = revision.version
    message.revision.first = revision.first


def _string_member(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise StoredKeyError(f"{name} is not a string")
    return value


def _require_key_size(key: bytes, what: str) -> bytes:
    if len(key) != KEY_SIZE:
        raise StoredKeyError(f"{what} does not have {KEY_SIZE} bytes")
    return key

"""Keys in the form in which they are stored (protocol section 6)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import urandom
from typing import Any, Final, NamedTuple, Self

from kes_core.encoding import decode_base64, encode_base64, parse_json_object
from kes_core.keys.secret import KEY_SIZE, HMACKey, KeyType, SecretKey, default_key_type

__all__ = ["KeyVersion", "StoredKeyError", "Timestamp"]

_HMAC_SHA256: Final = 1


class StoredKeyError(ValueError):
    """A stored value is no key. The message names the defect and holds nothing of the value."""


_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND: Final = -62135596800
"""The first second of the year 1, the first that Python can hold."""
_LAST_SECOND: Final = 253402300799
"""The last second of the year 9999, the last that RFC 3339 can write."""


class Timestamp(NamedTuple):
    """A moment in UTC, to the nanosecond. Its zero value, the beginning of the year 1, stands for "not known"."""

    seconds: int = _FIRST_SECOND
    """Seconds since 1970."""
    nanos: int = 0

    @classmethod
    def now(cls) -> Timestamp:
        """Return the present moment."""
        return cls(*divmod(time.time_ns(), 10**9))

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Read a time as RFC 3339 writes it.

        Raises:
            ValueError: `text` is not such a time, or is before the year 1 or after the year 9999 in UTC.
        """
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise ValueError("no RFC 3339 time")
        second, fraction, zone = match.groups()
        moment = datetime.fromisoformat(second + ("+00:00" if zone == "Z" else zone))
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
        if not _FIRST_SECOND <= seconds <= _LAST_SECOND:  # by its offset
            raise ValueError("no RFC 3339 time in UTC")
        return cls(seconds, int((fraction or "").ljust(9, "0")))

    def rfc3339(self) -> str:
        """Write the time in UTC, with as many digits of a second as it has."""
        text = (_EPOCH + timedelta(seconds=self.seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
        fraction = f".{self.nanos:09}".rstrip("0") if self.nanos else ""
        return f"{text}{fraction}Z"


_FIRST: Final = Timestamp()


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """A key as it is stored: the secret key, its HMAC key, and where it comes from."""

    key: SecretKey
    hmac_key: HMACKey | None
    """Missing in keys of releases before 2024-02."""
    created_at: Timestamp
    created_by: str
    """The identity that made it; empty where that is not known."""

    @classmethod
    def generate(cls, created_by: str, type: KeyType | None = None) -> KeyVersion:  # noqa: A002 # the field's name
        """Make a new random key."""
        return cls.imported(urandom(KEY_SIZE), type if type is not None else default_key_type(), created_by)

    @classmethod
    def imported(cls, key: bytes, type: KeyType, created_by: str) -> KeyVersion:  # noqa: A002 # the field's name
        """Take the 32 bytes of a key that was made elsewhere, and give it a random HMAC key."""
        return cls(SecretKey(key, type), HMACKey(urandom(KEY_SIZE)), Timestamp.now(), created_by)

    def encode(self) -> bytes:
        """Return what is stored: base64 of the protobuf message.

        Raises:
            ValueError: There is no HMAC key, without which the other server reads no key in this form.
        """
        if self.hmac_key is None:
            raise ValueError("a key is only stored with its HMAC key")
        from kes_core.keys import stored_key_pb2 as pb

        message = pb.KeyVersion(created_by=self.created_by)
        message.key.key = self.key._key  # noqa: SLF001 # here is where it leaves
        message.key.type = int(self.key.type)
        message.hmac_key.key = self.hmac_key._key  # noqa: SLF001 # as above
        message.hmac_key.hash = _HMAC_SHA256
        message.created_at.seconds = self.created_at.seconds
        message.created_at.nanos = self.created_at.nanos
        return encode_base64(message.SerializeToString(deterministic=True)).encode("ascii")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a stored key, in today's form or in the JSON of older releases.

        Raises:
            StoredKeyError: The value is no key.
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
            raise StoredKeyError("the value is no valid JSON object") from None
        algorithm = _text_member(members, "algorithm")
        try:
            key_type = KeyType.from_cipher(algorithm) if algorithm else KeyType.AES256
        except ValueError:
            raise StoredKeyError("the algorithm is not known") from None
        try:
            key = decode_base64(_text_member(members, "bytes"))
        except ValueError:
            raise StoredKeyError("the key is not base64") from None
        created_at = _text_member(members, "created_at")
        try:
            moment = Timestamp.parse(created_at) if created_at else _FIRST
        except ValueError:
            raise StoredKeyError("created_at is no RFC 3339 time") from None
        secret = SecretKey(_sized(key, "the key"), key_type, named_cipher=bool(algorithm))
        return cls(secret, None, moment, _text_member(members, "created_by"))

    @classmethod
    def _decode_protobuf(cls, text: str) -> Self:
        from google.protobuf.message import DecodeError

        from kes_core.keys import stored_key_pb2 as pb

        try:
            message = pb.KeyVersion.FromString(decode_base64(text))
        except (ValueError, DecodeError):
            raise StoredKeyError("the value is neither a JSON object nor base64 of a stored key") from None
        if not message.HasField("key"):
            raise StoredKeyError("there is no key in the value")
        if message.key.type not in KeyType.__members__.values():
            raise StoredKeyError("the type of the key is not known")
        secret = SecretKey(_sized(message.key.key, "the key"), KeyType(message.key.type))
        hmac_key = None
        if message.HasField("hmac_key"):
            if message.hmac_key.hash != _HMAC_SHA256:
                raise StoredKeyError("the hash of the HMAC key is not known")
            hmac_key = HMACKey(_sized(message.hmac_key.key, "the HMAC key"))
        created_at = Timestamp(message.created_at.seconds, message.created_at.nanos)
        if not (_FIRST_SECOND <= created_at.seconds <= _LAST_SECOND and 0 <= created_at.nanos < 10**9):
            raise StoredKeyError("created_at is no time")
        return cls(secret, hmac_key, created_at, message.created_by)


def _text_member(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise StoredKeyError(f"{name} is not a string")
    return value


def _sized(key: bytes, what: str) -> bytes:
    if len(key) != KEY_SIZE:
        raise StoredKeyError(f"{what} does not have {KEY_SIZE} bytes")
    return key

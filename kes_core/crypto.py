"""Secret keys, ciphertexts and the form in which keys are stored (protocol sections 5 and 6)."""

from __future__ import annotations

import enum
import functools
import hashlib
import hmac
import platform
import re
import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import urandom
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from kes_core._ciphertext import StructuredCiphertext, parse_structured
from kes_core._encoding import decode_base64, encode_base64, parse_json_object

__all__ = [
    "KEY_SIZE",
    "DecryptionError",
    "HMACKey",
    "KeyType",
    "KeyVersion",
    "SecretKey",
    "StoredKeyError",
    "Timestamp",
    "default_key_type",
]

KEY_SIZE: Final = 32
"""The size of every key, in bytes."""

_IV_SIZE: Final = 16
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_RANDOM_SIZE: Final = _IV_SIZE + _NONCE_SIZE
_HMAC_SHA256: Final = 1
_STRUCTURED: Final = (0x7B, 0x95)
"""First bytes of older ciphertexts: `{` and a MessagePack array of five."""


class KeyType(enum.IntEnum):
    """The cipher of a key, as the number that is stored."""

    AES256 = 1
    CHACHA20 = 2

    @property
    def algorithm(self) -> str:
        """The name that clients are shown."""
        return "AES256" if self is KeyType.AES256 else "ChaCha20"

    @classmethod
    def from_cipher(cls, name: str) -> KeyType:
        """Return the type for the name of a cipher, of today or of older releases.

        Raises:
            ValueError: No cipher of that name.
        """
        try:
            return _CIPHERS[name]
        except KeyError:
            raise ValueError(f"unknown cipher; known are {', '.join(_CIPHERS)}") from None


_CIPHERS: Final = {
    "AES256": KeyType.AES256,
    "AES256-GCM_SHA256": KeyType.AES256,
    "ChaCha20": KeyType.CHACHA20,
    "XCHACHA20-POLY1305": KeyType.CHACHA20,
}


@functools.cache
def default_key_type() -> KeyType:
    """Return the type of new keys: AES256 where the CPU has instructions for it, else ChaCha20."""
    if platform.system() == "Linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return KeyType.AES256 if "aes" in features.split() else KeyType.CHACHA20
    # Everything else that Python runs on has had them for a decade.
    return KeyType.AES256 if platform.machine().lower() in {"x86_64", "amd64", "arm64"} else KeyType.CHACHA20


class DecryptionError(Exception):
    """A ciphertext can't be opened. There is one such error, whatever the cause: a cause would help an attacker."""

    def __init__(self) -> None:
        super().__init__("decryption failed: ciphertext is not authentic")


class StoredKeyError(ValueError):
    """A stored value is no key. The message names the defect and holds nothing of the value."""


def _hchacha20(key: bytes, iv: bytes) -> bytes:
    """Derive a key from `key` (32 bytes) and `iv` (16 bytes): HChaCha20 of draft-irtf-cfrg-xchacha-03, section 2.2.

    One block of ChaCha20's key stream is the state after twenty rounds plus the state before them. HChaCha20 is the
    state after them alone, of its sixteen words the first and the last four, so the initial ones are taken off again.
    """
    block = Cipher(ChaCha20(key, iv), None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    initial = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<4I", iv))
    return struct.pack(
        "<8I", *((word - start) & 0xFFFFFFFF for word, start in zip(words[:4] + words[12:], initial, strict=True))
    )


def _message_cipher(key: bytes, key_type: KeyType, iv: bytes) -> AESGCM | ChaCha20Poly1305:
    """Return the cipher for one message: each has a key of its own, derived from its random `iv`."""
    if key_type is KeyType.AES256:
        return AESGCM(hmac.digest(key, iv, "sha256"))
    return ChaCha20Poly1305(_hchacha20(key, iv))


class SecretKey:
    """A key that encrypts and decrypts. It never leaves the process but into a key store."""

    __slots__ = ("_key", "_named_cipher", "type")

    def __init__(self, key: bytes, type: KeyType, *, named_cipher: bool = True) -> None:  # noqa: A002 # the field's name
        """Take the 32 bytes of a key.

        Args:
            key: The bytes.
            type: Its cipher.
            named_cipher: False for a stored key that did not name its cipher: an older ciphertext that names one then
                decides (`divergent` in the vectors).
        """
        if len(key) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes")
        self._key = bytes(key)
        self._named_cipher = named_cipher
        self.type = type

    def __repr__(self) -> str:
        return f"<SecretKey {self.type.algorithm}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return self.type is other.type and hmac.compare_digest(self._key, other._key)

    __hash__ = None  # type: ignore[assignment] # a hash would reveal something of the key

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key can't be pickled or copied")

    def encrypt(self, plaintext: bytes, associated_data: bytes = b"") -> bytes:
        """Encrypt: sealed bytes with their tag (16 bytes), then the random iv (16 bytes) and nonce (12 bytes)."""
        random = urandom(_RANDOM_SIZE)
        cipher = _message_cipher(self._key, self.type, random[:_IV_SIZE])
        return cipher.encrypt(random[_IV_SIZE:], plaintext, associated_data) + random

    def decrypt(self, ciphertext: bytes, associated_data: bytes = b"") -> bytes:
        """Open a ciphertext of today's format or of one of the two older ones.

        Raises:
            DecryptionError: It is not authentic, whatever the reason.
        """
        if ciphertext[:1] and ciphertext[0] in _STRUCTURED:
            structured = parse_structured(ciphertext)
            if structured is not None:
                return self._open_structured(structured, associated_data)
        if len(ciphertext) < _TAG_SIZE + _RANDOM_SIZE:
            raise DecryptionError
        iv, nonce = ciphertext[-_RANDOM_SIZE:-_NONCE_SIZE], ciphertext[-_NONCE_SIZE:]
        return self._open(self.type, ciphertext[:-_RANDOM_SIZE], iv, nonce, associated_data)

    def _open_structured(self, structured: StructuredCiphertext, associated_data: bytes) -> bytes:
        named = KeyType(structured.key_type)
        if self._named_cipher and named is not self.type:
            raise DecryptionError
        if len(structured.iv) != _IV_SIZE or len(structured.nonce) != _NONCE_SIZE:
            raise DecryptionError
        return self._open(named, structured.sealed, structured.iv, structured.nonce, associated_data)

    def _open(self, key_type: KeyType, sealed: bytes, iv: bytes, nonce: bytes, associated_data: bytes) -> bytes:
        try:
            return _message_cipher(self._key, key_type, iv).decrypt(nonce, sealed, associated_data)
        except InvalidTag:
            raise DecryptionError from None


class HMACKey:
    """A key for HMAC-SHA-256 (RFC 2104)."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"an HMAC key has {KEY_SIZE} bytes")
        self._key = bytes(key)

    def __repr__(self) -> str:
        return "<HMACKey SHA256>"

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._key, other._key) if isinstance(other, HMACKey) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # as for SecretKey

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key can't be pickled or copied")

    def digest(self, message: bytes) -> bytes:
        """Return the 32 bytes of the message's authentication code."""
        return hmac.digest(self._key, message, hashlib.sha256)


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
        from kes_core import _stored_key_pb2 as pb  # noqa: PLC0415 # protobuf is slow to import and seldom needed

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
        from google.protobuf.message import DecodeError  # noqa: PLC0415 # as in encode

        from kes_core import _stored_key_pb2 as pb  # noqa: PLC0415 # as in encode

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

"""Secret keys: how they encrypt, decrypt and authenticate (protocol section 5)."""

from __future__ import annotations

import enum
import functools
import hashlib
import hmac
import platform
import struct
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from os import urandom
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from kes_core.keys.ciphertext import StructuredCiphertext, parse_structured

__all__ = [
    "KEY_SIZE",
    "MAX_VERSIONS",
    "CiphertextError",
    "HMACKey",
    "KeyType",
    "OldVersionError",
    "SecretKey",
    "SecretKeys",
    "default_key_type",
    "hinted_version",
]

KEY_SIZE: Final = 32
"""The size of every key, in bytes."""
MAX_VERSIONS: Final = 1000
"""The most versions of a key."""

_IV_SIZE: Final = 16
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_RANDOM_SIZE: Final = _IV_SIZE + _NONCE_SIZE
_HINT_SIZE: Final = 4
"""The bytes of an iv that name a version."""
_HINTED_RANDOM_SIZE: Final = _RANDOM_SIZE - _HINT_SIZE
_STRUCTURED: Final = frozenset((b"\x7b", b"\x95"))
"""First bytes of older ciphertexts: `{` and a MessagePack array of five."""
_MAX_PREPARED: Final = 4096
"""The largest number of keys that keep their HMAC object."""


class KeyType(enum.IntEnum):
    """The cipher of a key, as the number that is stored."""

    AES256 = 1
    CHACHA20 = 2

    @property
    def algorithm(self) -> str:
        """The cipher's name in answers to clients."""
        return "AES256" if self is KeyType.AES256 else "ChaCha20"

    @classmethod
    def from_cipher(cls, name: str) -> KeyType:
        """Return the type for the name of a cipher, of today or of older releases.

        Raises:
            ValueError: The name is unknown.
        """
        try:
            return _CIPHERS[name]
        except KeyError:
            raise ValueError(f"unknown cipher; known are {', '.join(_CIPHERS)}") from None


# Python 3.11 looks up each member of an enum by a function, which takes as long as the encryption.
_AES256: Final = KeyType.AES256
_CIPHERS: Final = {
    "AES256": KeyType.AES256,
    "AES256-GCM_SHA256": KeyType.AES256,
    "ChaCha20": KeyType.CHACHA20,
    "XCHACHA20-POLY1305": KeyType.CHACHA20,
}


@functools.cache
def default_key_type() -> KeyType:
    """Return the type of new keys: AES256 if the CPU has instructions for AES, else ChaCha20."""
    if platform.system() == "Linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return KeyType.AES256 if "aes" in features.split() else KeyType.CHACHA20
    # On other systems, CPUs of these architectures have had the instructions for a decade.
    return KeyType.AES256 if platform.machine().lower() in {"x86_64", "amd64", "arm64"} else KeyType.CHACHA20


class CiphertextError(Exception):
    """A ciphertext can't be decrypted. The message is the same for all causes: a cause would help an attacker."""

    def __init__(self) -> None:
        super().__init__("decryption failed: ciphertext is not authentic")


def _hchacha20(key: bytes, iv: bytes) -> bytes:
    """Derive a key from `key` (32 bytes) and `iv` (16 bytes): HChaCha20 of draft-irtf-cfrg-xchacha-03, section 2.2.

    A block of ChaCha20's key stream is the state after twenty rounds plus the initial state. HChaCha20 returns the
    first and the last four of the sixteen words after the rounds, so this subtracts the initial state again.
    """
    block = Cipher(ChaCha20(key, iv), None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    initial = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<4I", iv))
    return struct.pack(
        "<8I", *((word - start) & 0xFFFFFFFF for word, start in zip(words[:4] + words[12:], initial, strict=True))
    )


class SecretKey:
    """A key for encryption. It never leaves the process except into a key store."""

    __slots__ = ("__weakref__", "_derivation", "_key", "_named_cipher", "type")

    def __init__(self, key: bytes, type: KeyType, *, named_cipher: bool = True) -> None:  # noqa: A002 # the field's name
        """Create a key from its bytes.

        Args:
            key: The 32 bytes.
            type: Its cipher.
            named_cipher: False for a stored key that does not name its cipher: then the cipher that an older
                ciphertext names is used (`divergent` in the vectors).
        """
        if len(key) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes")
        self._key = bytes(key)
        self._derivation: HMAC | None = None
        """HMAC-SHA-256 with this key, of nothing yet, if it was used lately: copies are made faster than new ones."""
        self._named_cipher = named_cipher
        self.type = type

    def __repr__(self) -> str:
        return f"<SecretKey {self.type.algorithm}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return self.type is other.type and hmac.compare_digest(self._key, other._key)

    __hash__ = None  # type: ignore[assignment] # a hash would reveal information about the key

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key can't be pickled or copied")

    def encrypt(self, plaintext: bytes, associated_data: bytes = b"") -> bytes:
        """Return ciphertext with tag (16 bytes), followed by the random iv (16 bytes) and nonce (12 bytes)."""
        return self.seal(urandom(_RANDOM_SIZE), plaintext, associated_data)

    def seal(self, random: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Encrypt with a given iv and nonce, 28 bytes, which must never be used again."""
        cipher = self._message_cipher(self.type, random[:_IV_SIZE])
        return cipher.encrypt(random[_IV_SIZE:], plaintext, associated_data) + random

    def decrypt(self, ciphertext: bytes, associated_data: bytes = b"") -> bytes:
        """Decrypt a ciphertext in today's format or in one of the two older formats.

        Raises:
            CiphertextError: The ciphertext is not authentic.
        """
        if ciphertext[:1] in _STRUCTURED:
            structured = parse_structured(ciphertext)
            if structured is not None:
                return self._open_structured(structured, associated_data)
        return self.open(ciphertext, associated_data)

    def open(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Decrypt a ciphertext in today's format only, as `decrypt`."""
        if len(ciphertext) < _TAG_SIZE + _RANDOM_SIZE:
            raise CiphertextError
        cipher = self._message_cipher(self.type, ciphertext[-_RANDOM_SIZE:-_NONCE_SIZE])
        try:
            return cipher.decrypt(ciphertext[-_NONCE_SIZE:], ciphertext[:-_RANDOM_SIZE], associated_data)
        except InvalidTag:
            raise CiphertextError from None

    def _message_cipher(self, key_type: KeyType, iv: bytes) -> AESGCM | ChaCha20Poly1305:
        """Return the cipher for one message. Each message has its own key, derived from its random `iv`."""
        if key_type is not _AES256:
            return ChaCha20Poly1305(_hchacha20(self._key, iv))
        derivation = (self._derivation or self._prepare()).copy()
        derivation.update(iv)
        return AESGCM(derivation.finalize())

    def _prepare(self) -> HMAC:
        """Make the HMAC object and keep it. It takes as much memory as the rest of a key, so the latest are kept."""
        derivation = self._derivation = HMAC(self._key, SHA256())
        _PREPARED.append(weakref.ref(self))
        if len(_PREPARED) > _MAX_PREPARED and (oldest := _PREPARED.popleft()()) is not None:
            oldest._derivation = None  # noqa: SLF001 # of the same class
        return derivation

    def _open_structured(self, structured: StructuredCiphertext, associated_data: bytes) -> bytes:
        named = KeyType(structured.key_type)
        if self._named_cipher and named is not self.type:
            raise CiphertextError
        if len(structured.iv) != _IV_SIZE or len(structured.nonce) != _NONCE_SIZE:
            raise CiphertextError
        return self._open(named, structured.sealed, structured.iv, structured.nonce, associated_data)

    def _open(self, key_type: KeyType, sealed: bytes, iv: bytes, nonce: bytes, associated_data: bytes) -> bytes:
        try:
            return self._message_cipher(key_type, iv).decrypt(nonce, sealed, associated_data)
        except InvalidTag:
            raise CiphertextError from None


_PREPARED: Final[deque[weakref.ref[SecretKey]]] = deque()
"""The keys that have an HMAC object, oldest first."""


class OldVersionError(CiphertextError):
    """The ciphertext is authentic, of a version that does not decrypt any more."""


def _refusing(decrypt: Callable[[bytes, bytes], bytes]) -> Callable[[bytes, bytes], bytes]:
    """Return a function that decrypts, and refuses what it could decrypt."""

    def refuse(ciphertext: bytes, associated_data: bytes) -> bytes:
        decrypt(ciphertext, associated_data)
        raise OldVersionError

    return refuse


class SecretKeys:
    """The secret keys of a key with several versions. The newest one encrypts, each one decrypts what is its own.

    Ciphertexts of version 2 and later begin their iv with the number of the version: the hint. It is not authentic: a
    wrong one fails to decrypt. All bytes of version 1's iv are random. They look like the hint of another version once
    in four billion ciphertexts, so version 1 is tried too if the version of the hint fails.
    """

    __slots__ = ("_decrypt_first", "_hint", "_later", "_newest", "type", "version")

    def __init__(self, keys: Sequence[SecretKey], min_version: int = 1) -> None:
        """Take the keys of version 1, 2, ... in this order, at least two, and the oldest version that decrypts."""
        self._decrypt_first = keys[0].decrypt if min_version == 1 else _refusing(keys[0].decrypt)
        self._later = {
            _hint_of(version): key.open if version >= min_version else _refusing(key.open)
            for version, key in enumerate(keys[1:], 2)
        }
        self._newest = keys[-1]
        self.version = len(keys)
        self._hint = _hint_of(self.version)
        self.type = self._newest.type

    def __repr__(self) -> str:
        return f"<SecretKeys {self.version} versions>"

    def encrypt(self, plaintext: bytes, associated_data: bytes = b"") -> bytes:
        """Encrypt with the newest version, as `SecretKey.encrypt`; the iv has 12 random bytes."""
        return self._newest.seal(self._hint + urandom(_HINTED_RANDOM_SIZE), plaintext, associated_data)

    def decrypt(self, ciphertext: bytes, associated_data: bytes = b"") -> bytes:
        """Decrypt a ciphertext of any version. At most two of them are tried, however many there are.

        Raises:
            CiphertextError: The ciphertext is not authentic, or is of a version that is not known here.
            OldVersionError: It is of a version that does not decrypt any more.
        """
        decrypt = self._later.get(ciphertext[-28:-24])  # numbers, because every decryption comes here
        if decrypt is None:
            return self._decrypt_first(ciphertext, associated_data)
        try:
            return decrypt(ciphertext, associated_data)
        except OldVersionError:
            raise
        except CiphertextError:
            return self._decrypt_first(ciphertext, associated_data)


def _hint_of(version: int) -> bytes:
    return version.to_bytes(_HINT_SIZE, "big")


def hinted_version(ciphertext: bytes) -> int:
    """Return the version that the hint of a ciphertext names, or 1 if it names none.

    Whoever made the ciphertext chose the hint.
    """
    number = int.from_bytes(ciphertext[-_RANDOM_SIZE:-_HINTED_RANDOM_SIZE], "big")
    return number if len(ciphertext) >= _RANDOM_SIZE and 1 < number <= MAX_VERSIONS else 1


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

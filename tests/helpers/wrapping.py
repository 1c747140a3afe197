"""The wrapping keys of the test vectors: generating one takes seconds."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from kes_core.keys.stored import Timestamp
from kes_core.keys.wrapping import RSA_BITS
from kes_core.keys.wrapping_keys import StoredWrappingKey
from kes_core.names import wrapping_key_name
from tests.helpers.vectors import vectors

__all__ = ["DAY", "VECTORS", "entry", "private_key", "put", "wrapping_key"]

VECTORS: Final = vectors("wrapped_keys")
DAY: Final = 86400


def private_key(number: int = 0) -> rsa.RSAPrivateKey:
    """Return one of the two private keys of the vectors."""
    der = base64.b64decode(VECTORS["wrapping_keys"][number]["private_key"])
    key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == RSA_BITS
    return key


def wrapping_key(number: int = 0, *, days_left: float = 14) -> StoredWrappingKey:
    """Return one of the two wrapping keys of the vectors, which expires in `days_left` days."""
    made = StoredWrappingKey.make(private_key(number), "ad" * 32)
    return replace(made, expires_at=Timestamp(Timestamp.now().seconds + int(days_left * DAY)))


def entry(number: int = 0, *, days_left: float = 14) -> tuple[str, bytes]:
    """Return the entry of `wrapping_key` in a key store: its name and its value."""
    made = wrapping_key(number, days_left=days_left)
    return wrapping_key_name(made.id), made.encode()


def put(directory: Path, number: int = 0, *, days_left: float = 14) -> Path:
    """Put `wrapping_key` into a directory of keys, as a server would; return the directory."""
    directory.mkdir(mode=0o700, exist_ok=True)
    name, value = entry(number, days_left=days_left)
    (directory / name).touch(mode=0o600)
    (directory / name).write_bytes(value)
    return directory

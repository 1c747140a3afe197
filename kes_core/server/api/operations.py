"""What the HTTP API and the front ends do with keys. Each function takes the cache and the name of a key.

Failures are `RequestError`: the status of the answer and its text for the client. What the operator needs to know is in
the log.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kes_core.access.errors import RequestError
from kes_core.keys.secret import CiphertextError, OldVersionError, hinted_version
from kes_core.keys.stored import KeyState
from kes_core.keystore import EntryExistsError, EntryNotFoundError, EntryRefusedError, KeyStoreError
from kes_core.protocol import (
    KEY_DECRYPTS_ONLY,
    KEY_DELETING,
    KEY_DISABLED,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    KEY_SCHEDULED,
    KEY_VERSION_TOO_OLD,
    NOT_DECRYPTED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kes_core.keys.cache import KeyCache
    from kes_core.keys.versions import StoredKey

__all__ = ["DATA_KEY_SIZE", "check_state", "described_key", "key_at_hand", "open_all", "store_errors", "stored_key"]

logger = logging.getLogger("kes.keystore")

_ENABLED: Final = KeyState.ENABLED
"""Python 3.11 looks up each member of an enum by a function: too slow for each request."""
DATA_KEY_SIZE: Final = 32
"""The size of a data encryption key, in bytes."""


@contextlib.contextmanager
def store_errors(operation: str, name: str) -> Iterator[None]:
    """Answer for a failing key store: the client learns what failed, the operator why."""
    try:
        yield
    except EntryNotFoundError:
        raise RequestError(*KEY_NOT_FOUND) from None
    except EntryExistsError:
        raise RequestError(*KEY_EXISTS) from None
    except EntryRefusedError as error:
        raise RequestError(400, str(error)) from None
    except KeyStoreError as error:
        # The cache logs changes of the store's state, so do not log the same state again for every request.
        level = logging.DEBUG if error.reason is not None else logging.ERROR
        logger.log(level, "failed to %s %r: %s", operation, name, error)
        raise RequestError(502, f"failed to {operation}", error.reason) from None


async def stored_key(cache: KeyCache, name: str, *, decrypts: bool = False) -> StoredKey:
    """Return a key, to encrypt with it or, with `decrypts`, only to decrypt.

    Raises:
        RequestError: There is no such key, its state does not allow the use, or the key store fails.
    """
    key = key_at_hand(cache, name, decrypts=decrypts)
    if key is None:
        key = await described_key(cache, name)
        if key.state is not _ENABLED:
            check_state(key, decrypts=decrypts)
    return key


def key_at_hand(cache: KeyCache, name: str, *, decrypts: bool = False) -> StoredKey | None:
    """Return the key of `stored_key` if it is in memory. For handlers of frequent requests: a coroutine costs more.

    Raises:
        RequestError: Its state does not allow the use.
    """
    key = cache.peek(name)
    if key is not None and key.state is not _ENABLED:
        check_state(key, decrypts=decrypts)
    return key


def check_state(key: StoredKey, *, decrypts: bool) -> None:
    """Raise RequestError if a key's state does not allow the use: to encrypt or, with `decrypts`, only to decrypt."""
    if key.state is KeyState.DISABLED:
        raise RequestError(*KEY_DISABLED)
    if key.state is KeyState.DECRYPT_ONLY and not decrypts:
        raise RequestError(*KEY_DECRYPTS_ONLY)
    if key.condition.is_doomed:
        raise RequestError(*(KEY_DELETING if key.state is KeyState.DELETING else KEY_SCHEDULED))


async def described_key(cache: KeyCache, name: str) -> StoredKey:
    """Return a key, whatever its state is, to tell about it.

    Raises:
        RequestError: There is no such key, or the key store fails.
    """
    key = cache.peek(name)
    if key is not None:
        return key
    with store_errors("read key", name):
        return await cache.get(name)


async def open_all(
    cache: KeyCache, name: str, sealed: Sequence[tuple[bytes, bytes]], *, decrypts: bool = True
) -> tuple[StoredKey, list[bytes]]:
    """Decrypt pairs of ciphertext and context, all or none; return the key and the plaintexts.

    Another server may have rotated the key a moment ago. So if a ciphertext says that it is of a later version than
    those known here, look for that version before the answer is that it is not authentic.

    Without `decrypts` the key has to be one that may encrypt too.

    Raises:
        RequestError: A ciphertext is not authentic, there is no such key, its state does not allow the use, or the key
            store fails.
    """
    key = await stored_key(cache, name, decrypts=decrypts)
    try:
        return key, _decrypted(key, sealed)
    except CiphertextError as error:
        if all(hinted_version(ciphertext) <= key.version for ciphertext, _context in sealed):
            raise _not_decrypted(error) from None
    with store_errors("read key", name):
        key = await cache.look_for_versions(name)
    check_state(key, decrypts=decrypts)
    try:
        return key, _decrypted(key, sealed)
    except CiphertextError as error:
        raise _not_decrypted(error) from None


def _not_decrypted(error: CiphertextError) -> RequestError:
    return RequestError(*(KEY_VERSION_TOO_OLD if isinstance(error, OldVersionError) else NOT_DECRYPTED))


def _decrypted(key: StoredKey, sealed: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [key.key.decrypt(ciphertext, context) for ciphertext, context in sealed]

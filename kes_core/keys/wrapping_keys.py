"""Wrapping keys in the key store: how they are stored, found and replaced.

Each wrapping key is one entry, whose name has its id, so that no two servers can disagree about one. All servers on one
key store can unwrap what was wrapped for any of them. Entries are only created and deleted, never changed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from kes_core.encoding import decode_base64, encode_base64, parse_json_object
from kes_core.keys.changes import create_entry, damaged
from kes_core.keys.stored import StoredKeyError, Timestamp
from kes_core.keys.watched import WatchedStore
from kes_core.keys.wrapping import RSA_BITS, public_key_id, public_key_pem, unwrap
from kes_core.keystore import EntryNotFoundError, KeyStoreError
from kes_core.names import WRAPPING_KEY_PREFIX, parse_wrapping_key_name, wrapping_key_name

__all__ = ["LIFE", "MIN_USE", "StoredWrappingKey", "WrappingKeys", "find_wrapping_key"]

logger = logging.getLogger("kes.keystore")

LIFE: Final = 14 * 86400
"""Seconds for which a server imports what was wrapped for a wrapping key."""
MIN_USE: Final = 7 * 86400
"""Seconds that a client has at least to use the wrapping key that it got: one with less time left is not handed out."""


@dataclass(frozen=True, slots=True)
class StoredWrappingKey:
    """A wrapping key with its private key."""

    private_key: rsa.RSAPrivateKey = field(repr=False)
    created_at: Timestamp
    created_by: str
    """The identity that asked for a wrapping key when there was none."""
    expires_at: Timestamp

    @classmethod
    def make(cls, private_key: rsa.RSAPrivateKey, created_by: str) -> StoredWrappingKey:
        """Return a new wrapping key, which is not stored yet."""
        now = Timestamp.now()
        return cls(private_key, now, created_by, Timestamp(now.seconds + LIFE))

    @property
    def id(self) -> str:
        """The hash of the public key."""
        return public_key_id(self.private_key.public_key())

    @property
    def public_key(self) -> str:
        """The public key in PEM."""
        return public_key_pem(self.private_key.public_key())

    @property
    def seconds_left(self) -> float:
        """How long servers still import what is wrapped for it. Negative after that."""
        return self.expires_at.seconds - time.time()

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return the key material that was wrapped, as `wrapping.unwrap`."""
        return unwrap(self.private_key, wrapped)

    def encode(self) -> bytes:
        """Return the value to store: a JSON object."""
        der = self.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        members = {
            "wrapping_key": encode_base64(der),
            "created_at": self.created_at.rfc3339(),
            "created_by": self.created_by,
            "expires_at": self.expires_at.rfc3339(),
        }
        return json.dumps(members).encode("ascii")

    @classmethod
    def decode(cls, raw: bytes, key_id: str) -> StoredWrappingKey:
        """Decode the value of an entry whose name has this id.

        Raises:
            StoredKeyError: The value is not that wrapping key.
        """
        try:
            members = parse_json_object(raw.decode("utf-8"))
            der = decode_base64(members["wrapping_key"])
            created_at, expires_at = (Timestamp.parse(members[name]) for name in ("created_at", "expires_at"))
            created_by = members["created_by"]
            # The validation takes longer than all the rest, and the key store could as well hold keys of its own. The
            # id shows that the public half is the right one, and a wrong private half unwraps nothing.
            private_key = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
        except (AttributeError, KeyError, TypeError, ValueError, UnsupportedAlgorithm):
            raise StoredKeyError("the value is not a wrapping key") from None
        if not isinstance(private_key, rsa.RSAPrivateKey) or private_key.key_size != RSA_BITS:
            raise StoredKeyError("the value is not a wrapping key")
        if not isinstance(created_by, str) or not hmac.compare_digest(public_key_id(private_key.public_key()), key_id):
            raise StoredKeyError("the value is another wrapping key")
        return cls(private_key, created_at, created_by, expires_at)


async def find_wrapping_key(store: WatchedStore, key_id: str) -> StoredWrappingKey:
    """Return the wrapping key with this id.

    Raises:
        EntryNotFoundError: There is none, or it has expired.
        KeyStoreError: The store fails.
    """
    name = wrapping_key_name(key_id)
    if parse_wrapping_key_name(name) is None:
        raise EntryNotFoundError(key_id)
    try:
        found = StoredWrappingKey.decode(await store.get(name), key_id)
    except StoredKeyError as error:
        raise damaged(name, error) from None
    if found.seconds_left <= 0:
        raise EntryNotFoundError(key_id)
    return found


class WrappingKeys:
    """Finds the wrapping key for clients, and makes a new one if there is none. Belongs to one event loop."""

    def __init__(self, generate: Callable[[], Awaitable[rsa.RSAPrivateKey]]) -> None:
        """Take the function that generates a private key. It must not block the event loop."""
        self._generate = generate
        self._last_id = ""
        """The wrapping key that was found last. It saves the listing."""
        self._searches: dict[WatchedStore, asyncio.Task[StoredWrappingKey]] = {}
        """Searches that later requests share."""

    async def current(self, store: WatchedStore, created_by: str) -> StoredWrappingKey:
        """Return a wrapping key that clients can use for at least `MIN_USE`.

        The search continues if the caller is cancelled, so that another attempt finds the new wrapping key.

        Args:
            store: Holds the wrapping keys.
            created_by: The identity that asks for it.

        Raises:
            KeyStoreError: The store fails.
        """
        search = self._searches.get(store)
        if search is None:
            search = self._searches[store] = asyncio.create_task(self._search(store, created_by))
            search.add_done_callback(lambda done: self._forget(store, done))
        return await asyncio.shield(search)

    def _forget(self, store: WatchedStore, search: asyncio.Task[StoredWrappingKey]) -> None:
        del self._searches[store]
        if not search.cancelled():
            search.exception()  # retrieved, so that asyncio does not warn if the callers were cancelled

    async def _search(self, store: WatchedStore, created_by: str) -> StoredWrappingKey:
        found = await self._last(store) or await _newest(store)
        if found is None or found.seconds_left < MIN_USE:
            found = StoredWrappingKey.make(await self._generate(), created_by)
            await create_entry(store, wrapping_key_name(found.id), found.encode())
            logger.info("made the wrapping key %s, which expires at %s", found.id, found.expires_at.rfc3339())
        self._last_id = found.id
        return found

    async def _last(self, store: WatchedStore) -> StoredWrappingKey | None:
        if not self._last_id:
            return None
        try:
            found = await find_wrapping_key(store, self._last_id)
        except KeyStoreError as error:
            if error.reason is not None:
                raise
            return None  # it was removed, or is damaged
        return found if found.seconds_left >= MIN_USE else None


async def _newest(store: WatchedStore) -> StoredWrappingKey | None:
    """Return the wrapping key that expires last, if there is one, and remove those that have expired."""
    newest: StoredWrappingKey | None = None
    for name in await store.list_entries(WRAPPING_KEY_PREFIX):
        key_id = parse_wrapping_key_name(name)
        if key_id is None:
            continue
        try:
            found = StoredWrappingKey.decode(await store.get(name), key_id)
        except EntryNotFoundError:
            continue  # removed meanwhile
        except StoredKeyError as error:
            logger.warning("%s", damaged(name, error))
            continue
        except KeyStoreError as error:
            if error.reason is not None:
                raise
            logger.warning("%s", error)  # only this entry can't be read
            continue
        if found.seconds_left <= 0:
            await _remove(store, name, key_id)
        elif newest is None or newest.expires_at < found.expires_at:
            newest = found
    return newest


async def _remove(store: WatchedStore, name: str, key_id: str) -> None:
    """Remove a wrapping key that has expired. Nobody needs to wait for that, so a failure is only logged."""
    try:
        await store.delete(name)
    except EntryNotFoundError:
        pass  # another server was faster
    except KeyStoreError as error:
        logger.warning("failed to remove the wrapping key %s, which has expired: %s", key_id, error)
    else:
        logger.info("the wrapping key %s has expired and is removed", key_id)

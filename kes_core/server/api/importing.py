"""`/v1/key/import/`, `import-version` and `wrapping-key`: keys that clients bring, plain or wrapped."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kes_core.access.errors import RequestError
from kes_core.keys.changes import (
    KeyDoomedError,
    RotationConflictError,
    SameMaterialError,
    TooManyChangesError,
    TooManyVersionsError,
    rotate_key,
)
from kes_core.keys.secret import KEY_SIZE, KeyType
from kes_core.keys.stored import KeyVersion
from kes_core.keys.wrapping import ALGORITHM, WRAPPED_SIZE, UnwrapError
from kes_core.keys.wrapping_keys import WrappingKeys, find_wrapping_key
from kes_core.keystore import EntryNotFoundError
from kes_core.protocol import INVALID_IMPORT_BODY, WRAPPING_KEY_UNKNOWN
from kes_core.server.api.call import Call, binary_member, json_body
from kes_core.server.api.keys import store_key
from kes_core.server.api.operations import store_errors
from kes_core.server.generator import GenerationError, generate_private_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kes_core.keys.watched import WatchedStore
    from kes_core.keys.wrapping_keys import StoredWrappingKey

__all__ = ["handlers"]

logger = logging.getLogger("kes.server")

_READING: Final = "read wrapping key"
"""What failed, in answers and in the log."""


def handlers() -> Mapping[str, Callable[[Call], Awaitable[Any]]]:
    """Return the handlers, by the path of their route."""
    wrapping_keys = WrappingKeys(generate_private_key)

    async def wrapping_key(call: Call) -> dict[str, str]:
        return await _wrapping_key(call, wrapping_keys)

    return {
        "/v1/key/import/": _import,
        "/v1/key/import-version/": _import_version,
        "/v1/key/wrapping-key": wrapping_key,
    }


async def _wrapping_key(call: Call, wrapping_keys: WrappingKeys) -> dict[str, str]:
    try:
        with store_errors(_READING, ""):
            found = await wrapping_keys.current(call.server_state.cache.store, call.sender.identity)
    except GenerationError as error:
        logger.error("failed to make a wrapping key: %s", error)
        raise RequestError(500, "failed to make a wrapping key") from None
    answer = {
        "id": found.id,
        "public_key": found.public_key,
        "algorithm": ALGORITHM,
        "created_at": found.created_at.rfc3339(),
        "expires_at": found.expires_at.rfc3339(),
    }
    if found.created_by:
        answer["created_by"] = found.created_by
    return answer


async def _import(call: Call) -> None:
    body = await _body(call)
    key_type = _key_type(body.cipher)
    key = await _material(call, body)
    await store_key(call, KeyVersion.imported(key, key_type, call.sender.identity))


async def _import_version(call: Call) -> dict[str, Any]:
    name, identity = call.argument, call.sender.identity
    body = await _body(call)
    key_type = _key_type(body.cipher) if body.cipher else None
    key = await _material(call, body)

    def work(store: WatchedStore) -> Awaitable[tuple[KeyVersion, bool]]:
        return rotate_key(store, name, identity, material=(key, key_type))

    try:
        with store_errors("rotate key", name):
            version, is_rotated = await call.server_state.cache.change(name, work)
    except (
        KeyDoomedError,
        RotationConflictError,
        SameMaterialError,
        TooManyChangesError,
        TooManyVersionsError,
    ) as error:
        raise RequestError(409, str(error)) from None
    logger.info("key %r has a new version, which was imported: %d", name, version.version)
    return {"version": str(version.version), "created_at": version.created_at.rfc3339(), "rotated": is_rotated}


class _GivenKey(NamedTuple):
    """The body of a request to import a key, plain or wrapped."""

    key: bytes
    wrapped_key: bytes
    wrapping_key: str
    """The id of the wrapping key."""
    cipher: str


async def _body(call: Call) -> _GivenKey:
    members = json_body(await call.limited_body(), INVALID_IMPORT_BODY)
    body = _GivenKey(
        binary_member(members, "key", INVALID_IMPORT_BODY),
        binary_member(members, "wrapped_key", INVALID_IMPORT_BODY),
        _text_member(members, "wrapping_key"),
        _text_member(members, "cipher"),
    )
    if body.key and body.wrapped_key:
        raise RequestError(*INVALID_IMPORT_BODY)
    return body


def _text_member(members: Any, name: str) -> str:
    """Return the text of a member; missing and null are empty. `members` is an object or null."""
    text = None if members is None else members.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise RequestError(*INVALID_IMPORT_BODY)
    return text


def _key_type(cipher: str) -> KeyType:
    try:
        return KeyType.from_cipher(cipher)
    except ValueError:
        shown = cipher.encode("utf-8", "replace").decode("utf-8")  # JSON can name half a surrogate pair
        raise RequestError(406, f"algorithm '{shown}' is not supported") from None


async def _material(call: Call, body: _GivenKey) -> bytes:
    """Return the 32 bytes of the key in a body.

    Raises:
        RequestError: It has another size or can't be unwrapped, or the key store fails.
    """
    if not body.wrapped_key:
        if len(body.key) != KEY_SIZE:
            raise RequestError(406, f"invalid key size for '{body.cipher or call.argument}'")
        return body.key
    if len(body.wrapped_key) != WRAPPED_SIZE:
        raise RequestError(400, f"a wrapped key has {WRAPPED_SIZE} bytes, this one has {len(body.wrapped_key)}")
    wrapping_key = await _wrapping_key_of(call, body.wrapping_key)
    try:
        key = await asyncio.to_thread(wrapping_key.unwrap, body.wrapped_key)
    except UnwrapError as error:
        raise RequestError(400, str(error)) from None
    if len(key) != KEY_SIZE:
        raise RequestError(400, f"a key has {KEY_SIZE} bytes, the one that was wrapped has {len(key)}")
    return key


async def _wrapping_key_of(call: Call, key_id: str) -> StoredWrappingKey:
    """Return the wrapping key that a request names.

    Raises:
        RequestError: There is none, or the key store fails.
    """
    with store_errors(_READING, key_id):
        try:
            return await find_wrapping_key(call.server_state.cache.store, key_id)
        except EntryNotFoundError:
            raise RequestError(*WRAPPING_KEY_UNKNOWN) from None

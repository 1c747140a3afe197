"""`/v1/key/*`: create, import, describe, list, delete, and the cryptographic operations."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from os import urandom
from typing import TYPE_CHECKING, Any, Final

from kes_core.access.errors import RequestError
from kes_core.encoding import encode_base64
from kes_core.keys.secret import CiphertextError, KeyType, OldVersionError, hinted_version
from kes_core.keys.stored import KeyState, KeyVersion, Timestamp
from kes_core.keystore import EntryExistsError, EntryNotFoundError, EntryRefusedError, KeyStoreError
from kes_core.names import is_valid_name
from kes_core.protocol import (
    HMAC_UNSUPPORTED,
    INVALID_BODY,
    INVALID_IMPORT_BODY,
    KEY_DECRYPTS_ONLY,
    KEY_DELETING,
    KEY_DISABLED,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    KEY_SCHEDULED,
    KEY_VERSION_TOO_OLD,
    NOT_DECRYPTED,
    TOO_MANY_CIPHERTEXTS,
    TOO_MANY_ITEMS,
)
from kes_core.server.api.call import Call, binary_member, json_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kes_core.keys.versions import StoredKey

__all__ = [
    "HANDLERS",
    "described_key",
    "items_of",
    "open_all",
    "state_of",
    "store_errors",
    "stored_key",
    "with_version",
]

logger = logging.getLogger("kes.keystore")

_DATA_KEY_SIZE: Final = 32
_KEY_SIZE: Final = 32
_ENABLED: Final = KeyState.ENABLED
"""Python 3.11 looks up each member of an enum by a function: too slow for each request."""
_MAX_ITEMS: Final = 1000
"""The most items of a bulk request."""
_PLACE: Final = "~"
"""Separates the prefix from the position in a pattern that continues a listing. Names can't contain it."""


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


async def stored_key(call: Call, *, decrypts: bool = False) -> StoredKey:
    """Return the key that a request names, to encrypt with it or, with `decrypts`, only to decrypt.

    Raises:
        RequestError: There is no such key, its state does not allow the use, or the key store fails.
    """
    # As `described_key`, without the cost of another coroutine.
    key = call.server_state.cache.peek(call.argument) or await described_key(call)
    if key.state is not _ENABLED:
        _check_state(key, decrypts=decrypts)
    return key


def _check_state(key: StoredKey, *, decrypts: bool) -> None:
    if key.state is KeyState.DISABLED:
        raise RequestError(*KEY_DISABLED)
    if key.state is KeyState.DECRYPT_ONLY and not decrypts:
        raise RequestError(*KEY_DECRYPTS_ONLY)
    if key.condition.is_doomed:
        raise RequestError(*(KEY_DELETING if key.state is KeyState.DELETING else KEY_SCHEDULED))


async def described_key(call: Call) -> StoredKey:
    """Return the key that a request names, whatever its state is, to tell about it.

    Raises:
        RequestError: There is no such key, or the key store fails.
    """
    cache = call.server_state.cache
    key = cache.peek(call.argument)
    if key is not None:
        return key
    with store_errors("read key", call.argument):
        return await cache.get(call.argument)


async def _create(call: Call) -> None:
    await _store(call, KeyVersion.generate(call.sender.identity))


async def _store(call: Call, key: KeyVersion) -> None:
    with store_errors("create key", call.argument):
        await call.server_state.cache.create(call.argument, key)


async def _import(call: Call) -> None:
    members = json_body(await call.limited_body(), INVALID_IMPORT_BODY)
    key = binary_member(members, "key", INVALID_IMPORT_BODY)
    cipher = None if members is None else members.get("cipher")
    if cipher is None:
        cipher = ""
    if not isinstance(cipher, str):
        raise RequestError(*INVALID_IMPORT_BODY)
    try:
        key_type = KeyType.from_cipher(cipher)
    except ValueError:
        shown = cipher.encode("utf-8", "replace").decode("utf-8")  # JSON can name half a surrogate pair
        raise RequestError(406, f"algorithm '{shown}' is not supported") from None
    if len(key) != _KEY_SIZE:
        raise RequestError(406, f"invalid key size for '{cipher}'")
    await _store(call, KeyVersion.imported(key, key_type, call.sender.identity))


async def _describe(call: Call) -> dict[str, Any]:
    key = await described_key(call)
    answer = {
        "name": call.argument,
        "algorithm": key.key.type.algorithm,
        "created_at": key.created_at.rfc3339(),
    }
    if key.created_by:
        answer["created_by"] = key.created_by
    return with_version(key, answer | state_of(key))


def state_of(key: StoredKey) -> dict[str, str]:
    """Return the members of an answer that say what a key may be used for. An ordinary key has none."""
    members = {}
    if key.condition.min_version > 1:
        members["min_decryption_version"] = str(key.condition.min_version)
    if key.state is not KeyState.ENABLED:
        members["state"] = key.state.label
    if key.state is KeyState.SCHEDULED_FOR_DELETION:
        members["delete_at"] = Timestamp(key.condition.delete_at).rfc3339()
    return members


async def _delete(call: Call) -> None:
    with store_errors("delete key", call.argument):
        await call.server_state.cache.delete(call.argument)


async def _list(call: Call) -> dict[str, Any]:
    pattern, _, start = call.argument.partition(_PLACE)
    prefix = pattern.removesuffix("*")
    with store_errors("list keys", call.argument):
        page = await call.server_state.cache.list(prefix, start=start)
    # Only names that the other routes accept: a store may contain other programs' entries.
    answer: dict[str, Any] = {"names": [name for name in page.names if is_valid_name(name)]}
    if page.next:
        answer["continue_at"] = f"{prefix}{_PLACE}{page.next}"
    return answer


def with_version(key: StoredKey, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with the newest version of the key, if the key was rotated."""
    if key.version > 1:
        answer["version"] = str(key.version)  # as text: newer clients read it so
    return answer


async def _generate(call: Call) -> dict[str, Any]:
    body = await call.limited_body()
    context = binary_member(json_body(body), "context") if body else b""
    return _data_key(await stored_key(call), context)


def _data_key(key: StoredKey, context: bytes) -> dict[str, Any]:
    plaintext = urandom(_DATA_KEY_SIZE)
    answer = {
        "plaintext": encode_base64(plaintext),
        "ciphertext": encode_base64(key.key.encrypt(plaintext, context)),
    }
    return with_version(key, answer)


async def _generate_all(call: Call) -> list[dict[str, Any]]:
    contexts = [binary_member(item, "context") for item in items_of(await call.limited_body(), TOO_MANY_ITEMS)]
    key = await stored_key(call)
    return [_data_key(key, context) for context in contexts]


async def _encrypt(call: Call) -> dict[str, Any]:
    members = json_body(await call.limited_body())
    plaintext, context = binary_member(members, "plaintext"), binary_member(members, "context")
    key = await stored_key(call)
    return with_version(key, {"ciphertext": encode_base64(key.key.encrypt(plaintext, context))})


async def _encrypt_all(call: Call) -> list[dict[str, Any]]:
    items = items_of(await call.limited_body(), TOO_MANY_ITEMS)
    plain = [(binary_member(item, "plaintext"), binary_member(item, "context")) for item in items]
    key = await stored_key(call)
    return [
        with_version(key, {"ciphertext": encode_base64(key.key.encrypt(plaintext, context))})
        for plaintext, context in plain
    ]


async def _decrypt(call: Call) -> dict[str, str]:
    members = json_body(await call.limited_body())
    ciphertext, context = binary_member(members, "ciphertext"), binary_member(members, "context")
    key = await stored_key(call, decrypts=True)
    try:
        plaintext = key.key.decrypt(ciphertext, context)
    except CiphertextError:
        plaintext = (await open_all(call, [(ciphertext, context)]))[1][0]
    return {"plaintext": encode_base64(plaintext)}


async def _decrypt_all(call: Call) -> list[dict[str, str]]:
    items = items_of(await call.limited_body(), TOO_MANY_CIPHERTEXTS)
    sealed = [(binary_member(item, "ciphertext"), binary_member(item, "context")) for item in items]
    _key, plaintexts = await open_all(call, sealed)
    return [{"plaintext": encode_base64(plaintext)} for plaintext in plaintexts]


def items_of(body: bytes, too_many: tuple[int, str]) -> list[Any]:
    """Return the items of a bulk request.

    Raises:
        RequestError: The body is not a list, or with `too_many`.
    """
    items = json_body(body)
    if items is None:
        return []
    if not isinstance(items, list):
        raise RequestError(*INVALID_BODY)
    if len(items) > _MAX_ITEMS:
        raise RequestError(*too_many)
    return items


async def _hmac(call: Call) -> dict[str, str]:
    message = binary_member(json_body(await call.limited_body()), "message")
    key = await stored_key(call, decrypts=True)
    if key.hmac_key is None:
        raise RequestError(*HMAC_UNSUPPORTED)
    return {"hmac": encode_base64(key.hmac_key.digest(message))}


async def open_all(
    call: Call, sealed: Sequence[tuple[bytes, bytes]], *, decrypts: bool = True
) -> tuple[StoredKey, list[bytes]]:
    """Decrypt pairs of ciphertext and context, all or none; return the key and the plaintexts.

    Another server may have rotated the key a moment ago. So if a ciphertext says that it is of a later version than
    those known here, look for that version before the answer is that it is not authentic.

    Without `decrypts` the key has to be one that may encrypt too.

    Raises:
        RequestError: A ciphertext is not authentic, there is no such key, its state does not allow the use, or the key
            store fails.
    """
    key = await stored_key(call, decrypts=decrypts)
    try:
        return key, _decrypted(key, sealed)
    except CiphertextError as error:
        if all(hinted_version(ciphertext) <= key.version for ciphertext, _context in sealed):
            raise _not_decrypted(error) from None
    with store_errors("read key", call.argument):
        key = await call.server_state.cache.look_for_versions(call.argument)
    _check_state(key, decrypts=decrypts)
    try:
        return key, _decrypted(key, sealed)
    except CiphertextError as error:
        raise _not_decrypted(error) from None


def _not_decrypted(error: CiphertextError) -> RequestError:
    return RequestError(*(KEY_VERSION_TOO_OLD if isinstance(error, OldVersionError) else NOT_DECRYPTED))


def _decrypted(key: StoredKey, sealed: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [key.key.decrypt(ciphertext, context) for ciphertext, context in sealed]


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/v1/key/create/": _create,
    "/v1/key/import/": _import,
    "/v1/key/describe/": _describe,
    "/v1/key/list/": _list,
    "/v1/key/delete/": _delete,
    "/v1/key/generate/": _generate,
    "/v1/key/encrypt/": _encrypt,
    "/v1/key/decrypt/": _decrypt,
    "/v1/key/hmac/": _hmac,
    "/v1/key/bulk/decrypt/": _decrypt_all,
    "/v1/key/bulk/generate/": _generate_all,
    "/v1/key/bulk/encrypt/": _encrypt_all,
}

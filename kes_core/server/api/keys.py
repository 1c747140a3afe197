"""`/v1/key/*`: create, import, describe, list, delete, and the cryptographic operations."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from os import urandom
from typing import TYPE_CHECKING, Any, Final

from kes_core.access.errors import RequestError
from kes_core.encoding import encode_base64
from kes_core.keys.secret import CiphertextError, KeyType
from kes_core.keys.stored import KeyVersion
from kes_core.keystore import EntryExistsError, EntryNotFoundError, EntryRefusedError, KeyStoreError
from kes_core.names import is_valid_name
from kes_core.protocol import (
    HMAC_UNSUPPORTED,
    INVALID_BODY,
    INVALID_IMPORT_BODY,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    NOT_DECRYPTED,
    TOO_MANY_CIPHERTEXTS,
)
from kes_core.server.api.call import Call, binary_member, json_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["HANDLERS"]

logger = logging.getLogger("kes.keystore")

_DATA_KEY_SIZE: Final = 32
_KEY_SIZE: Final = 32
_MAX_CIPHERTEXTS: Final = 1000
_PLACE: Final = "~"
"""Separates the prefix from the position in a pattern that continues a listing. Names can't contain it."""


@contextlib.contextmanager
def _store_errors(operation: str, name: str) -> Iterator[None]:
    """Turn a key store's error into an answer: the client learns what failed, and the operator why."""
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


async def _key(call: Call) -> KeyVersion:
    cache = call.server_state.cache
    key = cache.peek(call.argument)
    if key is not None:
        return key
    with _store_errors("read key", call.argument):
        return await cache.get(call.argument)


async def _create(call: Call) -> None:
    await _store(call, KeyVersion.generate(call.sender.identity))


async def _store(call: Call, key: KeyVersion) -> None:
    with _store_errors("create key", call.argument):
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
    key = await _key(call)
    answer = {
        "name": call.argument,
        "algorithm": key.key.type.algorithm,
        "created_at": key.created_at.rfc3339(),
    }
    if key.created_by:
        answer["created_by"] = key.created_by
    return answer


async def _delete(call: Call) -> None:
    with _store_errors("delete key", call.argument):
        await call.server_state.cache.delete(call.argument)


async def _list(call: Call) -> dict[str, Any]:
    pattern, _, start = call.argument.partition(_PLACE)
    prefix = pattern.removesuffix("*")
    with _store_errors("list keys", call.argument):
        page = await call.server_state.cache.list(prefix, start=start)
    # Only names that the other routes accept: a store may contain other programs' entries.
    answer: dict[str, Any] = {"names": [name for name in page.names if is_valid_name(name)]}
    if page.next:
        answer["continue_at"] = f"{prefix}{_PLACE}{page.next}"
    return answer


async def _generate(call: Call) -> dict[str, str]:
    body = await call.limited_body()
    context = binary_member(json_body(body), "context") if body else b""
    key = await _key(call)
    plaintext = urandom(_DATA_KEY_SIZE)
    return {
        "plaintext": encode_base64(plaintext),
        "ciphertext": encode_base64(key.key.encrypt(plaintext, context)),
    }


async def _encrypt(call: Call) -> dict[str, str]:
    members = json_body(await call.limited_body())
    plaintext, context = binary_member(members, "plaintext"), binary_member(members, "context")
    key = await _key(call)
    return {"ciphertext": encode_base64(key.key.encrypt(plaintext, context))}


async def _decrypt(call: Call) -> dict[str, str]:
    members = json_body(await call.limited_body())
    ciphertext, context = binary_member(members, "ciphertext"), binary_member(members, "context")
    key = await _key(call)
    return {"plaintext": encode_base64(_open(key, ciphertext, context))}


async def _decrypt_all(call: Call) -> list[dict[str, str]]:
    items = json_body(await call.limited_body())
    if items is None:
        items = []
    if not isinstance(items, list):
        raise RequestError(*INVALID_BODY)
    if len(items) > _MAX_CIPHERTEXTS:
        raise RequestError(*TOO_MANY_CIPHERTEXTS)
    sealed = [(binary_member(item, "ciphertext"), binary_member(item, "context")) for item in items]
    key = await _key(call)
    return [{"plaintext": encode_base64(_open(key, ciphertext, context))} for ciphertext, context in sealed]


async def _hmac(call: Call) -> dict[str, str]:
    message = binary_member(json_body(await call.limited_body()), "message")
    key = await _key(call)
    if key.hmac_key is None:
        raise RequestError(*HMAC_UNSUPPORTED)
    return {"hmac": encode_base64(key.hmac_key.digest(message))}


def _open(key: KeyVersion, ciphertext: bytes, context: bytes) -> bytes:
    try:
        return key.key.decrypt(ciphertext, context)
    except CiphertextError:
        raise RequestError(*NOT_DECRYPTED) from None


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
}

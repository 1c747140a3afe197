"""`/v1/key/*`: create, import, describe, list, delete, and the cryptographic operations."""

from __future__ import annotations

from os import urandom
from typing import TYPE_CHECKING, Any, Final

from kes_core.access.errors import RequestError
from kes_core.encoding import encode_base64
from kes_core.keys.changes import NoSuchVersionError
from kes_core.keys.secret import MAX_VERSIONS, CiphertextError, HMACKey
from kes_core.keys.stored import KeyState, KeyVersion, Timestamp
from kes_core.names import is_valid_name
from kes_core.protocol import (
    HMAC_UNSUPPORTED,
    INVALID_BODY,
    TOO_MANY_CIPHERTEXTS,
    TOO_MANY_ITEMS,
)
from kes_core.server.api.call import Call, binary_member, json_body
from kes_core.server.api.operations import (
    DATA_KEY_SIZE,
    check_state,
    described_key,
    key_at_hand,
    open_all,
    store_errors,
    stored_key,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kes_core.keys.versions import StoredKey

__all__ = ["HANDLERS", "items_of", "state_of", "store_key", "with_version"]

_MAX_ITEMS: Final = 1000
"""The most items of a bulk request."""
_PLACE: Final = "~"
"""Separates the prefix from the position in a pattern that continues a listing. Names can't contain it."""


async def _create(call: Call) -> None:
    await store_key(call, KeyVersion.generate(call.sender.identity))


async def store_key(call: Call, key: KeyVersion) -> None:
    """Store a new key under the name in the request.

    Raises:
        RequestError: There is a key of this name, or the key store fails.
    """
    with store_errors("create key", call.argument):
        await call.server_state.cache.create(call.argument, key)


async def _describe(call: Call) -> dict[str, Any]:
    key = await described_key(call.server_state.cache, call.argument)
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
    body = call.whole_body or await call.limited_body()
    context = binary_member(json_body(body), "context") if body else b""
    cache = call.server_state.cache
    return _data_key(key_at_hand(cache, call.argument) or await stored_key(cache, call.argument), context)


def _data_key(key: StoredKey, context: bytes) -> dict[str, Any]:
    plaintext = urandom(DATA_KEY_SIZE)
    answer = {
        "plaintext": encode_base64(plaintext),
        "ciphertext": encode_base64(key.key.encrypt(plaintext, context)),
    }
    return with_version(key, answer)


async def _generate_all(call: Call) -> list[dict[str, Any]]:
    contexts = [binary_member(item, "context") for item in items_of(await call.limited_body(), TOO_MANY_ITEMS)]
    key = await stored_key(call.server_state.cache, call.argument)
    return [_data_key(key, context) for context in contexts]


async def _encrypt(call: Call) -> dict[str, Any]:
    members = json_body(call.whole_body or await call.limited_body())
    plaintext, context = binary_member(members, "plaintext"), binary_member(members, "context")
    cache = call.server_state.cache
    key = key_at_hand(cache, call.argument) or await stored_key(cache, call.argument)
    return with_version(key, {"ciphertext": encode_base64(key.key.encrypt(plaintext, context))})


async def _encrypt_all(call: Call) -> list[dict[str, Any]]:
    items = items_of(await call.limited_body(), TOO_MANY_ITEMS)
    plain = [(binary_member(item, "plaintext"), binary_member(item, "context")) for item in items]
    key = await stored_key(call.server_state.cache, call.argument)
    return [
        with_version(key, {"ciphertext": encode_base64(key.key.encrypt(plaintext, context))})
        for plaintext, context in plain
    ]


async def _decrypt(call: Call) -> dict[str, str]:
    members = json_body(call.whole_body or await call.limited_body())
    ciphertext, context = binary_member(members, "ciphertext"), binary_member(members, "context")
    cache = call.server_state.cache
    key = key_at_hand(cache, call.argument, decrypts=True) or await stored_key(cache, call.argument, decrypts=True)
    try:
        plaintext = key.key.decrypt(ciphertext, context)
    except CiphertextError:
        plaintext = (await open_all(cache, call.argument, [(ciphertext, context)]))[1][0]
    return {"plaintext": encode_base64(plaintext)}


async def _decrypt_all(call: Call) -> list[dict[str, str]]:
    items = items_of(await call.limited_body(), TOO_MANY_CIPHERTEXTS)
    sealed = [(binary_member(item, "ciphertext"), binary_member(item, "context")) for item in items]
    _key, plaintexts = await open_all(call.server_state.cache, call.argument, sealed)
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
    members = json_body(await call.limited_body())
    message = binary_member(members, "message")
    key = await stored_key(call.server_state.cache, call.argument, decrypts=True)
    version = None if members is None else members.get("hmac_version")
    # MinIO derives credentials from HMACs, so they change only for a client that asks for that.
    hmac_key = key.hmac_key if version is None else await _hmac_key(call, key, version)
    if hmac_key is None:
        raise RequestError(*HMAC_UNSUPPORTED)
    return {"hmac": encode_base64(hmac_key.digest(message))}


async def _hmac_key(call: Call, key: StoredKey, version: Any) -> HMACKey | None:
    """Return the HMAC key of a version."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise RequestError(*INVALID_BODY)
    if key.version < version <= MAX_VERSIONS:  # another server may have added it a moment ago
        with store_errors("read key", call.argument):
            key = await call.server_state.cache.look_for_versions(call.argument)
        check_state(key, decrypts=True)
    if not 1 <= version <= key.version:
        raise RequestError(400, str(NoSuchVersionError(version, key.version)))
    return key.versions[version - 1].hmac_key


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/v1/key/create/": _create,
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

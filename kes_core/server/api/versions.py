"""`/v1/key/rotate/`, `rewrap`, `versions`, `disable` and `enable`: what is added to keys after their creation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from kes_core.access.errors import RequestError
from kes_core.encoding import encode_base64
from kes_core.keys.changes import RotationConflictError, TooManyChangesError, TooManyVersionsError
from kes_core.keys.stored import KeyState
from kes_core.protocol import INVALID_BODY, TOO_MANY_CIPHERTEXTS
from kes_core.server.api.call import Call, binary_member, json_body
from kes_core.server.api.keys import described_key, items_of, open_all, store_errors, with_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

__all__ = ["HANDLERS"]

logger = logging.getLogger("kes.server")

_MAX_SECONDS: Final = 10**11


async def _rotate(call: Call) -> dict[str, Any]:
    body = await call.limited_body()
    seconds = _seconds(json_body(body)) if body else 0
    try:
        with store_errors("rotate key", call.argument):
            version, is_rotated = await call.server_state.cache.rotate(call.argument, call.sender.identity, seconds)
    except (RotationConflictError, TooManyChangesError, TooManyVersionsError) as error:
        raise RequestError(409, str(error)) from None
    if is_rotated:
        logger.info("key %r has a new version: %d", call.argument, version.version)
    return {"version": str(version.version), "created_at": version.created_at.rfc3339(), "rotated": is_rotated}


def _seconds(members: Any) -> float:
    """Return the member `if_older_than`: a number of seconds, 0 if it is missing."""
    if members is None:
        return 0
    if not isinstance(members, dict):
        raise RequestError(*INVALID_BODY)
    seconds = members.get("if_older_than")
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_SECONDS:
        raise RequestError(*INVALID_BODY)
    return seconds


async def _rewrap(call: Call) -> dict[str, Any]:
    members = json_body(await call.limited_body())
    sealed = (binary_member(members, "ciphertext"), binary_member(members, "context"))
    return (await _sealed_again(call, [sealed]))[0]


async def _rewrap_all(call: Call) -> list[dict[str, Any]]:
    items = items_of(await call.limited_body(), TOO_MANY_CIPHERTEXTS)
    return await _sealed_again(
        call, [(binary_member(item, "ciphertext"), binary_member(item, "context")) for item in items]
    )


async def _sealed_again(call: Call, sealed: Sequence[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """Encrypt what is in ciphertexts under the newest version of the key."""
    key, plaintexts = await open_all(call, sealed, decrypts=False)
    return [
        with_version(key, {"ciphertext": encode_base64(key.key.encrypt(plaintext, context))})
        for plaintext, (_ciphertext, context) in zip(plaintexts, sealed, strict=True)
    ]


async def _disable(call: Call) -> dict[str, str]:
    body = await call.limited_body()
    members = json_body(body) if body else None
    if members is not None and not isinstance(members, dict):
        raise RequestError(*INVALID_BODY)
    allow_decrypt = (members or {}).get("allow_decrypt", False)
    if not isinstance(allow_decrypt, bool):
        raise RequestError(*INVALID_BODY)
    return await _change_state(call, KeyState.DECRYPT_ONLY if allow_decrypt else KeyState.DISABLED)


async def _enable(call: Call) -> dict[str, str]:
    return await _change_state(call, KeyState.ENABLED)


async def _change_state(call: Call, state: KeyState) -> dict[str, str]:
    try:
        with store_errors("change key", call.argument):
            await call.server_state.cache.change_state(call.argument, state, call.sender.identity)
    except TooManyChangesError as error:
        raise RequestError(409, str(error)) from None
    logger.info("key %r is %s", call.argument, state.label)
    return {"state": state.label}


async def _versions(call: Call) -> dict[str, Any]:
    key = await described_key(call)
    versions = []
    for version in key.versions:
        facts = {
            "version": str(version.version),
            "algorithm": version.key.type.algorithm,
            "created_at": version.created_at.rfc3339(),
        }
        if version.created_by:
            facts["created_by"] = version.created_by
        versions.append(facts)
    return {"name": call.argument, "versions": versions}


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/v1/key/rotate/": _rotate,
    "/v1/key/rewrap/": _rewrap,
    "/v1/key/versions/": _versions,
    "/v1/key/bulk/rewrap/": _rewrap_all,
    "/v1/key/disable/": _disable,
    "/v1/key/enable/": _enable,
}

"""`/v1/key/rotate/`, `rewrap`, `versions`, and the states of keys: what is added to keys after their creation."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, Final

from kes_core.access.errors import RequestError
from kes_core.encoding import encode_base64
from kes_core.keys.changes import (
    KeyDoomedError,
    NoSuchVersionError,
    RotationConflictError,
    TooManyChangesError,
    TooManyVersionsError,
    change_condition,
    with_min_version,
    with_state,
)
from kes_core.keys.deletion import planned, restored
from kes_core.keys.stored import Condition, KeyState, Timestamp
from kes_core.protocol import DELETIONS_NOT_SCHEDULED, INVALID_BODY, TOO_MANY_CIPHERTEXTS
from kes_core.server.api.call import Call, binary_member, json_body
from kes_core.server.api.keys import items_of, state_of, with_version
from kes_core.server.api.operations import described_key, open_all, store_errors
from kes_core.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kes_core.keys.versions import StoredKey
    from kes_core.keys.watched import WatchedStore

__all__ = ["HANDLERS"]

logger = logging.getLogger("kes.server")

_MAX_SECONDS: Final = 10**11


async def _rotate(call: Call) -> dict[str, Any]:
    body = await call.limited_body()
    seconds = _seconds(json_body(body), "if_older_than") or 0 if body else 0
    try:
        with store_errors("rotate key", call.argument):
            version, is_rotated = await call.server_state.cache.rotate(call.argument, call.sender.identity, seconds)
    except (KeyDoomedError, RotationConflictError, TooManyChangesError, TooManyVersionsError) as error:
        raise RequestError(409, str(error)) from None
    if is_rotated:
        logger.info("key %r has a new version: %d", call.argument, version.version)
    return {"version": str(version.version), "created_at": version.created_at.rfc3339(), "rotated": is_rotated}


def _seconds(members: Any, name: str) -> float | None:
    """Return a member that is a number of seconds, or None if it is missing."""
    if members is None:
        return None
    if not isinstance(members, dict):
        raise RequestError(*INVALID_BODY)
    seconds = members.get(name)
    if seconds is None:
        return None
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
    key, plaintexts = await open_all(call.server_state.cache, call.argument, sealed, decrypts=False)
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
    return await _change(call, with_state(KeyState.DECRYPT_ONLY if allow_decrypt else KeyState.DISABLED))


async def _enable(call: Call) -> dict[str, str]:
    return await _change(call, with_state(KeyState.ENABLED))


async def _schedule_deletion(call: Call) -> dict[str, str]:
    settings = call.server_state.config.deletion
    if not settings.scheduled:
        raise RequestError(*DELETIONS_NOT_SCHEDULED)
    body = await call.limited_body()
    seconds = _seconds(json_body(body), "in") if body else None
    if seconds is None:
        seconds = settings.delay
    if seconds < settings.delay:
        raise RequestError(400, f"this server deletes keys after {format_duration(settings.delay)} or later")
    return await _change(call, planned(math.ceil(time.time() + seconds)))


async def _undelete(call: Call) -> dict[str, str]:
    return await _change(call, restored)


async def _set_min_version(call: Call) -> dict[str, str]:
    members = json_body(await call.limited_body())
    version = members.get("version") if isinstance(members, dict) else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise RequestError(*INVALID_BODY)
    return await _change(call, with_min_version(version))


async def _change(call: Call, change: Callable[[StoredKey], Condition]) -> dict[str, str]:
    """Change the condition of a key; return it."""
    name, identity = call.argument, call.sender.identity

    def work(store: WatchedStore) -> Awaitable[Condition]:
        return change_condition(store, name, change, identity)

    try:
        with store_errors("change key", name):
            condition = await call.server_state.cache.change(name, work)
    except NoSuchVersionError as error:
        raise RequestError(400, str(error)) from None
    except (KeyDoomedError, TooManyChangesError) as error:
        raise RequestError(409, str(error)) from None
    answer = {"state": condition.state.label}
    if condition.min_version > 1:
        answer["min_decryption_version"] = str(condition.min_version)
    if condition.is_doomed:
        answer["delete_at"] = Timestamp(condition.delete_at).rfc3339()
        logger.warning("key %r is scheduled for deletion at %s, by %s", name, answer["delete_at"], identity)
    else:
        logger.info("key %r is %s and decrypts from version %d on", name, condition.state.label, condition.min_version)
    return answer


async def _versions(call: Call) -> dict[str, Any]:
    key = await described_key(call.server_state.cache, call.argument)
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
    return {"name": call.argument, "versions": versions} | state_of(key)


HANDLERS: Final[Mapping[str, Callable[[Call], Awaitable[Any]]]] = {
    "/v1/key/rotate/": _rotate,
    "/v1/key/rewrap/": _rewrap,
    "/v1/key/versions/": _versions,
    "/v1/key/bulk/rewrap/": _rewrap_all,
    "/v1/key/disable/": _disable,
    "/v1/key/enable/": _enable,
    "/v1/key/schedule-delete/": _schedule_deletion,
    "/v1/key/undelete/": _undelete,
    "/v1/key/min-version/": _set_min_version,
}

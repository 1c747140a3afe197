"""Clauses on single keys: create, get, delete, the bytes of values and the characters of names."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Iterable, Sequence
from typing import Final

from kes_core.keystore import KeyExistsError, KeyNotFoundError, KeyStore
from kes_core.names import MAX_NAME_LENGTH, is_valid_name
from kes_core.testing._running import BrokenError, check, described, refused, same_bytes, shown
from kes_core.testing._trial import StoreTrial, store_check

__all__ = ["MAX_VALUE_SIZE", "large_value"]

MAX_VALUE_SIZE: Final = 64 * 1024

FIRST: Final = b"the first value"
SECOND: Final = b"a second value"


def large_value(size: int = MAX_VALUE_SIZE) -> bytes:
    """Return bytes in which every part differs from its neighbours."""
    return b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]


async def _round_trip(store: KeyStore, values: Iterable[bytes]) -> None:
    """Store each value under a name of its own, and read all of them."""
    stored = {f"key{number}": value for number, value in enumerate(values)}
    for name, value in stored.items():
        await store.create(name, value)
    for name, value in stored.items():
        same_bytes(await store.get(name), value, f"get({name!r})")


async def _different_keys(store: KeyStore, names: Sequence[str]) -> None:
    """Use every name for a key of its own."""
    invalid = [name for name in names if not is_valid_name(name)]
    check(not invalid, f"the kit is wrong: {invalid} are not valid names")

    async def create(name: str) -> None:
        try:
            await store.create(name, name.encode())
        except KeyExistsError:
            check(False, f"create({name!r}) raised KeyExistsError: it is taken for another name")

    for name in names:
        await create(name)
    found = await asyncio.gather(*(store.get(name) for name in names))
    for name, value in zip(names, found, strict=True):
        same_bytes(value, name.encode(), f"get({name!r})")


@store_check("KS-CREATE-1")
async def _created_key_is_there(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    try:
        found = await trial.store.get("key")
    except KeyNotFoundError:
        check(False, "get raised KeyNotFoundError after create had returned")
    else:
        same_bytes(found, FIRST, "get('key')")


@store_check("KS-CREATE-2")
async def _taken_name_is_refused(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    await refused(KeyExistsError, trial.store.create("key", SECOND), "create('key') of another value")
    await refused(KeyExistsError, trial.store.create("key", FIRST), "create('key') of the same value")


@store_check("KS-CREATE-3")
async def _refused_create_changes_nothing(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    for value in (SECOND, b"", FIRST + SECOND):
        await asyncio.gather(trial.store.create("key", value), return_exceptions=True)
        same_bytes(await trial.store.get("key"), FIRST, "after a second create, get('key')")


@store_check("KS-GET-1")
async def _values_are_bytes(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    found = await trial.store.get("key")
    check(isinstance(found, bytes), f"get('key') returned a {type(found).__name__}")


@store_check("KS-GET-2")
async def _absent_key_is_not_found(trial: StoreTrial) -> None:
    await refused(KeyNotFoundError, trial.store.get("absent"), "get('absent') in an empty store")
    await trial.store.create("key", FIRST)
    await refused(KeyNotFoundError, trial.store.get("absent"), "get('absent')")


@store_check("KS-GET-3")
async def _reading_changes_nothing(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    for time in ("first", "second", "third"):
        same_bytes(await trial.store.get("key"), FIRST, f"the {time} get('key')")


@store_check("KS-BYTES-1")
async def _all_bytes(trial: StoreTrial) -> None:
    every = bytes(range(256))
    await _round_trip(trial.store, [every, every[::-1], every * 3])


@store_check("KS-BYTES-2")
async def _empty_value(trial: StoreTrial) -> None:
    await _round_trip(trial.store, [b""])


@store_check("KS-BYTES-3")
async def _large_values(trial: StoreTrial) -> None:
    await _round_trip(trial.store, [large_value(size) for size in (1, 255, 4096, 4097, MAX_VALUE_SIZE)])


@store_check("KS-BYTES-4")
async def _not_utf8(trial: StoreTrial) -> None:
    await _round_trip(
        trial.store, [b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"text \x80 text", "naïve".encode("latin-1")]
    )


@store_check("KS-BYTES-5")
async def _ends_of_values(trial: StoreTrial) -> None:
    ends = [b"\n", b"\r\n", b"\r", b" ", b"\t", b"\0", b"\x1a"]
    values = [b"text" + end for end in ends] + [end + b"text" for end in ends] + ends
    await _round_trip(trial.store, [*values, b"one\r\ntwo\rthree\n\nfour"])


@store_check("KS-BYTES-6")
async def _looks_like_something_else(trial: StoreTrial) -> None:
    texts = [b'{"a": 1, "a": 1.0}', b"[]", b"null", b"true", b'"quoted"', b"0", b"007", b"1e5", b"aGVsbG8=", b"aGVsbG8"]
    markers = [b"base64:aGVsbG8=", b"vault:v1:aGVsbG8=", b"binary:base64,aGVsbG8=", b"0x00", b"\\x00", b"\\n", b"%41"]
    await _round_trip(
        trial.store, [*texts, *markers, b"$HOME", b"${HOME}", b"{{name}}", b"%s", b"&amp;", b"+", b"';--"]
    )


@store_check("KS-NAME-1")
async def _every_character(trial: StoreTrial) -> None:
    letters = string.ascii_letters + string.digits
    names = [f"{letter}{place}" for place, letter in enumerate(letters)]
    names += [f"{place}x{letter}" for place, letter in enumerate(letters)]
    await _different_keys(trial.store, [*names, "_a", "a_", "a_b", "a-b", "a--b", "_-_", "__", "a-_-b"])


@store_check("KS-NAME-2")
async def _length_of_names(trial: StoreTrial) -> None:
    longest = [letter * MAX_NAME_LENGTH for letter in "a0_"]
    same_beginning = ["a" * (MAX_NAME_LENGTH - 1) + end for end in "bc"]
    await _different_keys(trial.store, ["z", "1", *longest, *same_beginning, "a" * (MAX_NAME_LENGTH - 1)])


@store_check("KS-NAME-3")
async def _case_of_names(trial: StoreTrial) -> None:
    await _different_keys(trial.store, ["key", "Key", "KEY", "keY", "kEy"])


@store_check("KS-NAME-4")
async def _beginnings_of_names(trial: StoreTrial) -> None:
    await _different_keys(trial.store, ["ab", "abc", "a", "abcd", "ab-c", "ab_c", "ab-c-d"])
    await refused(KeyNotFoundError, trial.store.get("ab-x"), "get('ab-x')")
    await refused(KeyNotFoundError, trial.store.get("abcde"), "get('abcde')")


@store_check("KS-NAME-5")
async def _ordinary_names(trial: StoreTrial) -> None:
    elsewhere = (
        "data metadata config list keys index tmp lock nul con aux null true None default version 0 00 7 007 1e5"
    )
    await _different_keys(trial.store, [*elsewhere.split(), "__init__", "_tmp"])


@store_check("KS-DELETE-1")
async def _deleted_key_is_not_found(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    await trial.store.get("key")
    await trial.store.delete("key")
    await refused(KeyNotFoundError, trial.store.get("key"), "get('key') after delete")


@store_check("KS-DELETE-2")
async def _deleted_key_is_not_listed(trial: StoreTrial) -> None:
    await trial.store.create("key", FIRST)
    await trial.store.delete("key")
    names = (await trial.store.list()).names
    check("key" not in names, f"list() returned {shown(names)} after delete('key')")


@store_check("KS-DELETE-3")
async def _delete_of_absent_key(trial: StoreTrial) -> None:
    async def delete(name: str, when: str) -> None:
        try:
            await trial.store.delete(name)
        except KeyNotFoundError:
            return
        except Exception as error:
            raise BrokenError(f"delete({name!r}) {when} raised {described(error)}") from None

    await delete("absent", "in an empty store")
    await trial.store.create("key", FIRST)
    await delete("absent", "of another key")
    await trial.store.delete("key")
    await delete("key", "of a deleted key")


@store_check("KS-DELETE-4")
async def _create_after_delete(trial: StoreTrial) -> None:
    for value in (FIRST, SECOND, b""):
        try:
            await trial.store.create("key", value)
        except KeyExistsError:
            check(False, "create('key') after delete raised KeyExistsError")
        same_bytes(await trial.store.get("key"), value, "get('key')")
        await trial.store.delete("key")


@store_check("KS-DELETE-5")
async def _delete_leaves_others(trial: StoreTrial) -> None:
    others = ["ke", "key2", "key_", "k", "ykey", "key-y"]
    for name in [*others, "key"]:
        await trial.store.create(name, name.encode())
    await trial.store.delete("key")
    listed = (await trial.store.list()).names
    lost = [name for name in others if name not in listed]
    check(not lost, f"list() misses {lost} after delete('key')")
    for name in others:
        same_bytes(await trial.store.get(name), name.encode(), f"after delete('key'), get({name!r})")


@store_check("KS-STATUS-1")
async def _status(trial: StoreTrial) -> None:
    await trial.store.status()
    await trial.store.create("key", FIRST)
    await trial.store.status()

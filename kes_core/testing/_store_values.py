"""Clauses on the bytes of values and the characters of names."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Iterable, Sequence

from kes_core.keystore import EntryExistsError, EntryNotFoundError, KeyStore
from kes_core.names import MAX_NAME_LENGTH, is_valid_entry, revision_name, wrapping_key_name
from kes_core.testing._clause import clause
from kes_core.testing._running import check, refused, same_bytes
from kes_core.testing._store import StoreSuite, StoreTrial
from kes_core.testing._store_calls import large_value

__all__ = ["ValueClauses"]


async def _round_trip(store: KeyStore, values: Iterable[bytes]) -> None:
    """Store each value under its own name, and read all of them."""
    stored = {f"key{number}": value for number, value in enumerate(values)}
    for name, value in stored.items():
        await store.create(name, value)
    for name, value in stored.items():
        same_bytes(await store.get(name), value, f"get({name!r})")


async def _different_keys(trial: StoreTrial, names: Sequence[str]) -> None:
    """Create a different key under each name that the store can hold."""
    invalid = [name for name in names if not is_valid_entry(name)]
    check(not invalid, f"the kit is wrong: {invalid} are not valid names")
    store, names = trial.store, trial.usable(names)

    async def create(name: str) -> None:
        try:
            await store.create(name, name.encode())
        except EntryExistsError:
            check(False, f"create({name!r}) raised EntryExistsError: the store confuses it with another name")

    for name in names:
        await create(name)
    found = await asyncio.gather(*(store.get(name) for name in names))
    for name, value in zip(names, found, strict=True):
        same_bytes(value, name.encode(), f"get({name!r})")


class ValueClauses(StoreSuite):
    """The bytes of values and the characters of names."""

    @clause()
    async def test_value_of_all_bytes(self, trial: StoreTrial) -> None:
        """A value with every byte from 0 to 255 comes back exactly."""
        every = bytes(range(256))
        await _round_trip(trial.store, [every, every[::-1], every * 3])

    @clause()
    async def test_empty_value(self, trial: StoreTrial) -> None:
        """An empty value comes back empty."""
        await _round_trip(trial.store, [b""])

    @clause()
    async def test_large_values(self, trial: StoreTrial) -> None:
        """Values of up to 64 KiB (or `max_value_size`) come back exactly."""
        sizes = [size for size in (1, 255, 4096, 4097) if size < trial.max_value_size]
        await _round_trip(trial.store, [large_value(size) for size in (*sizes, trial.max_value_size)])

    @clause()
    async def test_value_that_is_not_utf8(self, trial: StoreTrial) -> None:
        """A value that is not UTF-8 comes back exactly."""
        await _round_trip(
            trial.store, [b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"text \x80 text", "naïve".encode("latin-1")]
        )

    @clause()
    async def test_line_ends_and_spaces_are_kept(self, trial: StoreTrial) -> None:
        """Line ends, spaces and zero bytes at the ends of a value are kept."""
        ends = [b"\n", b"\r\n", b"\r", b" ", b"\t", b"\0", b"\x1a"]
        values = [b"text" + end for end in ends] + [end + b"text" for end in ends] + ends
        await _round_trip(trial.store, [*values, b"one\r\ntwo\rthree\n\nfour"])

    @clause()
    async def test_value_is_not_interpreted(self, trial: StoreTrial) -> None:
        """A value that looks like JSON, base64, a number or an escape is not interpreted."""
        texts = [
            b'{"a": 1, "a": 1.0}',
            b"[]",
            b"null",
            b"true",
            b'"quoted"',
            b"0",
            b"007",
            b"1e5",
            b"aGVsbG8=",
            b"aGVsbG8",
        ]
        markers = [
            b"base64:aGVsbG8=",
            b"vault:v1:aGVsbG8=",
            b"binary:base64,aGVsbG8=",
            b"0x00",
            b"\\x00",
            b"\\n",
            b"%41",
        ]
        await _round_trip(
            trial.store, [*texts, *markers, b"$HOME", b"${HOME}", b"{{name}}", b"%s", b"&amp;", b"+", b"';--"]
        )

    @clause()
    async def test_every_character_of_names(self, trial: StoreTrial) -> None:
        """Every character of a valid name can be used, at every place where it is valid."""
        letters = string.ascii_letters + string.digits
        names = [f"{letter}{place}" for place, letter in enumerate(letters)]
        names += [f"{place}x{letter}" for place, letter in enumerate(letters)]
        await _different_keys(trial, [*names, "_a", "a_", "a_b", "a-b", "a--b", "_-_", "__", "a-_-b"])

    @clause()
    async def test_shortest_and_longest_names(self, trial: StoreTrial) -> None:
        """Names of 1 and of 80 characters can be used."""
        longest = [letter * MAX_NAME_LENGTH for letter in "a0_"]
        same_beginning = ["a" * (MAX_NAME_LENGTH - 1) + end for end in "bc"]
        await _different_keys(trial, ["z", "1", *longest, *same_beginning, "a" * (MAX_NAME_LENGTH - 1)])

    @clause()
    async def test_names_of_versions(self, trial: StoreTrial) -> None:
        """The names of versions and wrapping keys, which have up to 104 characters and end in a hyphen, can be used."""
        keys = ["k", "b" * MAX_NAME_LENGTH]
        names = [revision_name(key, number, f"{number:016x}") for key in keys for number in (2, 1000)]
        wrapping = [wrapping_key_name(digit * 64) for digit in "0f"]
        await _different_keys(trial, [*keys, *names, revision_name("k", 2, "f" * 16), *wrapping])

    @clause(excluded_by="folds_case")
    async def test_names_are_case_sensitive(self, trial: StoreTrial) -> None:
        """Names that differ in case only are different keys."""
        await _different_keys(trial, ["key", "Key", "KEY", "keY", "kEy"])

    @clause()
    async def test_name_that_begins_another(self, trial: StoreTrial) -> None:
        """A name that is the beginning of another is a different key."""
        await _different_keys(trial, ["ab", "abc", "a", "abcd", "ab-c", "ab_c", "ab-c-d"])
        await refused(EntryNotFoundError, trial.store.get("ab-x"), "get('ab-x')")
        await refused(EntryNotFoundError, trial.store.get("abcde"), "get('abcde')")

    @clause()
    async def test_names_with_a_meaning_elsewhere(self, trial: StoreTrial) -> None:
        """Names with a meaning elsewhere (data, nul, 007, __init__) are ordinary names."""
        elsewhere = (
            "data metadata config list keys index tmp lock nul con aux null true None default version 0 00 7 007 1e5"
        )
        await _different_keys(trial, [*elsewhere.split(), "__init__", "_tmp"])

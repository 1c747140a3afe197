"""A chain over audit records: each carries the hash of all before it, so that no line can be changed unnoticed.

A line of a chained file is an audit record with one more member at its end:

    {"time":…,"request":{…},"response":{…},"chain":{"n":17,"hash":"8c1f…"}}

`n` counts the records, from 1. `hash` is SHA-256(previous hash, 32 bytes ‖ n in decimal ‖ space ‖ record), in hex, or
HMAC-SHA-256 under a key of the same; the record is the line without `,"chain":{…}`, and the previous hash of the first
record is 32 zero bytes. The first line of each file also has `prev`, the previous hash, so that a file can be verified
without the one before it; in what is hashed `n` is then followed by ` first`, so that who takes away the beginning of a
file can't make another line its first.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["GENESIS", "ChainLink", "Problem", "Verification", "chained", "link_of"]

GENESIS: Final = bytes(32)
"""The hash before the first record."""
_LINE: Final = re.compile(
    r'(?P<record>\{.*),"chain":\{"n":(?P<n>[1-9]\d{0,18})(?:,"prev":"(?P<prev>[0-9a-f]{64})")?,"hash":"(?P<hash>[0-9a-f]{64})"\}\}',
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A place in a chain: how many records there are up to it, and the hash over them."""

    number: int = 0
    hash: bytes = GENESIS


def chained(record: str, last: ChainLink, key: bytes = b"", *, first: bool = False) -> tuple[str, ChainLink]:
    """Return a record as a line of the chain, without its end of line, and the chain's new end.

    Args:
        record: A JSON object on one line.
        last: The end of the chain so far.
        key: For HMAC; without one anybody who may write the file can make a new chain.
        first: Whether the line is the first of its file.
    """
    number = last.number + 1
    digest = _hash(record, number, last.hash, key, first=first)
    previous = f',"prev":"{last.hash.hex()}"' if first else ""
    line = f'{record[:-1]},"chain":{{"n":{number}{previous},"hash":"{digest.hex()}"}}}}'
    return line, ChainLink(number, digest)


def link_of(line: str) -> ChainLink | None:
    """Return the place that a line says it has in a chain; nothing if it is no line of one."""
    match = _LINE.fullmatch(line)
    return ChainLink(int(match["n"]), bytes.fromhex(match["hash"])) if match else None


def _hash(record: str, number: int, previous: bytes, key: bytes, *, first: bool) -> bytes:
    place = b"%d first " if first else b"%d "
    data = previous + place % number + record.encode("utf-8", "surrogateescape")
    return hmac.digest(key, data, "sha256") if key else hashlib.sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that has been done to a chain."""

    file: str
    line: int
    """Counted from 1."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Verification:
    """Follows a chain through one file or several, oldest first."""

    def __init__(self, key: bytes = b"") -> None:
        """Begin. `key` is the one that the chain was made with, if there was one."""
        self._key = key
        self.records = 0
        """Lines that have been looked at."""
        self.first: int | None = None
        """The number of the first record."""
        self.end: ChainLink | None = None
        """The end of the chain, as far as was looked."""

    def check(self, file: str, lines: Iterable[str]) -> Iterator[Problem]:
        """Yield what is wrong with the lines of the next file."""
        for number, line in enumerate(lines, 1):
            self.records += 1
            match = _LINE.fullmatch(line.removesuffix("\n"))
            if match is None:
                yield Problem(file, number, "is no record of a chain: it was changed, cut off or put in")
                continue
            yield from (Problem(file, number, text) for text in self._follow(match))

    def _follow(self, match: re.Match[str]) -> Iterator[str]:
        number, digest = int(match["n"]), bytes.fromhex(match["hash"])
        previous = bytes.fromhex(match["prev"]) if match["prev"] else None
        expected = self.end
        if expected is None:
            expected = ChainLink(number - 1, previous if previous is not None else GENESIS)
            self.first = number
            if previous is None and number > 1:
                # The middle of a file: what is before it is not known, and this record can't be judged.
                self.first, self.end = number, ChainLink(number, digest)
                yield f"the records before {number} are missing"
                return
        sound = _hash(match["record"] + "}", number, expected.hash, self._key, first=previous is not None)
        if number != expected.number + 1:
            yield _gap(number, expected.number + 1)
            previous = None
            if number <= expected.number:
                return  # the chain goes on where it was
        elif not hmac.compare_digest(sound, digest) or (previous is not None and previous != expected.hash):
            yield f"record {number} was changed, or does not follow from the record before it"
        self.end = ChainLink(number, digest)


def _gap(found: int, expected: int) -> str:
    if found < expected:
        return f"record {found} is out of order: {expected} was expected"
    if found == expected + 1:
        return f"record {expected} is missing"
    return f"the records {expected} to {found - 1} are missing"

"""A hash chain over audit records: each line has a hash of all records before it, which reveals changed lines.

A line of a file with a chain is an audit record with one more member at its end:

    {"time":…,"request":{…},"response":{…},"chain":{"n":17,"hash":"8c1f…"}}

`n` counts the records, from 1. `hash` is SHA-256(previous hash, 32 bytes ‖ n in decimal ‖ space ‖ record), in hex, or
HMAC-SHA-256 of the same data if there is a key. The record is the line without `,"chain":{…}`. The previous hash of the
first record is 32 zero bytes.

The first line of each file also has `prev`, the previous hash. So a file can be verified without the file before it. In
the hashed data of this line, ` first` follows `n`: after the beginning of a file was removed, no other line can become
the first one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["GENESIS", "ChainLink", "Problem", "Verification", "make_line", "parse_link"]

GENESIS: Final = bytes(32)
"""The hash before the first record."""
_LINE: Final = re.compile(
    r'(?P<record>\{.*),"chain":\{"n":(?P<n>[1-9]\d{0,18})(?:,"prev":"(?P<prev>[0-9a-f]{64})")?,"hash":"(?P<hash>[0-9a-f]{64})"\}\}',
    re.ASCII,
)


class ChainLink(NamedTuple):
    """A position in a chain: the number of records up to it, and the hash over them."""

    number: int = 0
    hash: bytes = GENESIS


def make_line(record: str, last: ChainLink, key: bytes = b"", *, first: bool = False) -> tuple[str, ChainLink]:
    """Return a record as a line of the chain, without a line feed, and the new end of the chain.

    Args:
        record: A JSON object on one line.
        last: The end of the chain before this record.
        key: The key for HMAC. Without a key, any process that can write the file can forge a new chain.
        first: Whether the line is the first of its file.
    """
    number = last.number + 1
    digest = _hash(record, number, last.hash, key, first=first)
    previous = f',"prev":"{last.hash.hex()}"' if first else ""
    line = f'{record[:-1]},"chain":{{"n":{number}{previous},"hash":"{digest.hex()}"}}}}'
    return line, ChainLink(number, digest)


def parse_link(line: str) -> ChainLink | None:
    """Return the position in the chain that a line states, or None if it is not a line of a chain."""
    match = _LINE.fullmatch(line)
    return ChainLink(int(match["n"]), bytes.fromhex(match["hash"])) if match else None


def _hash(record: str, number: int, previous: bytes, key: bytes, *, first: bool) -> bytes:
    place = b"%d first " if first else b"%d "
    data = previous + place % number + record.encode("utf-8", "surrogateescape")
    return hmac.digest(key, data, "sha256") if key else hashlib.sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A defect of a chain."""

    file: str
    line: int
    """Counted from 1."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Verification:
    """Verifies a chain over one or several files, oldest first."""

    def __init__(self, key: bytes = b"") -> None:
        """Start a verification. `key` is the key that the chain was made with, if any."""
        self._key = key
        self.records = 0
        """Lines checked so far."""
        self.first: int | None = None
        """The number of the first record."""
        self.end: ChainLink | None = None
        """The end of the chain so far."""

    def check(self, file: str, lines: Iterable[str]) -> Iterator[Problem]:
        """Yield the defects of the lines of the next file."""
        for number, line in enumerate(lines, 1):
            self.records += 1
            match = _LINE.fullmatch(line.removesuffix("\n"))
            if match is None:
                yield Problem(file, number, "is not a record of a chain: it was changed, cut off or inserted")
                continue
            yield from (Problem(file, number, text) for text in self._check_link(match))

    def _check_link(self, match: re.Match[str]) -> Iterator[str]:
        number, digest = int(match["n"]), bytes.fromhex(match["hash"])
        previous = bytes.fromhex(match["prev"]) if match["prev"] else None
        expected = self.end
        if expected is None:
            expected = ChainLink(number - 1, previous if previous is not None else GENESIS)
            self.first = number
            if previous is None and number > 1:
                # This is the middle of a file. Without the hash before it, this record can't be verified.
                self.first, self.end = number, ChainLink(number, digest)
                yield f"the records before {number} are missing"
                return
        correct = _hash(match["record"] + "}", number, expected.hash, self._key, first=previous is not None)
        if number != expected.number + 1:
            yield _describe_gap(number, expected.number + 1)
            previous = None
            if number <= expected.number:
                return  # the expected position stays the same
        elif not hmac.compare_digest(correct, digest) or (previous is not None and previous != expected.hash):
            yield f"record {number} was changed, or does not follow from the record before it"
        self.end = ChainLink(number, digest)


def _describe_gap(found: int, expected: int) -> str:
    if found < expected:
        return f"record {found} is out of order: {expected} was expected"
    if found == expected + 1:
        return f"record {expected} is missing"
    return f"the records {expected} to {found - 1} are missing"

"""Searches texts for secrets: in plain text, hexadecimal and base64."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Iterable, Iterator
from typing import Final

from kes_core.testing._running import BrokenError

__all__ = ["Secrets", "marker", "texts_of_error", "texts_of_records"]

MIN_LENGTH: Final = 8
"""A shorter secret could occur by chance."""


def marker() -> bytes:
    """Return unique bytes. A value that repeats them can be recognized by a part of it."""
    return secrets.token_hex(12).encode()


class Secrets:
    """A set of secrets to search for."""

    def __init__(self, values: Iterable[bytes]) -> None:
        self._needles: dict[str, str] = {}
        self._hexadecimal: list[str] = []
        for value in values:
            if len(value) < MIN_LENGTH:
                raise ValueError(
                    f"a secret of {len(value)} bytes is too short to be looked for, {MIN_LENGTH} are needed"
                )
            self._add(value)

    def _add(self, value: bytes) -> None:
        self._needles[value.decode("utf-8", "backslashreplace")] = "as it is"
        self._needles[repr(value)[2:-1]] = "as it is"
        self._hexadecimal.append(value.hex())
        for offset in range(3):  # base64 encodes groups of three bytes; the secret may start anywhere in a group
            encoded = base64.b64encode(bytes(offset) + value).decode()
            whole = encoded[-(-offset * 8 // 6) : (offset + len(value)) * 8 // 6]
            self._needles[whole] = self._needles[whole.translate(_URL_SAFE)] = "in base64"

    def look_in(self, where: str, texts: Iterable[tuple[str, str]]) -> None:
        """Search texts, each with its name.

        Raises:
            BrokenError: A text contains a secret. The message does not show the secret.
        """
        for what, text in texts:
            for needle, form in self._needles.items():
                if needle in text:
                    raise BrokenError(f"{where}: {what} holds it {form}")
            lower = text.lower()
            if any(needle in lower for needle in self._hexadecimal):
                raise BrokenError(f"{where}: {what} holds it in hexadecimal")


_URL_SAFE: Final = str.maketrans("+/", "-_")


def texts_of_error(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield all texts of an error and of the errors behind it, each with its name."""
    waiting, seen = [(error, "")], set[int]()
    while waiting:
        each, of = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        name = f"{type(each).__name__}{of}"
        yield f"the message of {name}", str(each)
        yield f"the repr() of {name}", repr(each)
        for position, argument in enumerate(each.args):
            yield f"args[{position}] of {name}", f"{argument} {argument!r}"
        for attribute, value in vars(each).items():
            yield f"{attribute} of {name}", f"{value} {value!r}"
        for behind, kind in ((each.__cause__, "__cause__"), (each.__context__, "__context__")):
            if behind is not None:
                waiting.append((behind, f", {kind} of {type(each).__name__}"))
        if isinstance(each, BaseExceptionGroup):
            waiting += [(inner, f" in {type(each).__name__}") for inner in each.exceptions]


_STANDARD: Final = frozenset(vars(logging.makeLogRecord({})))


def texts_of_records(records: Iterable[logging.LogRecord]) -> Iterator[tuple[str, str]]:
    """Yield all texts of log records, each with its name."""
    for record in records:
        name = f"of a {record.levelname} record of {record.name!r}"
        yield f"the message {name}", record.getMessage()
        yield f"the arguments {name}", repr(record.args)
        if record.exc_info and record.exc_info[1] is not None:
            for what, text in texts_of_error(record.exc_info[1]):
                yield f"{what} {name}", text
        for attribute in vars(record).keys() - _STANDARD:
            yield f"{attribute} {name}", repr(vars(record)[attribute])

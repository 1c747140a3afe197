"""Base64 and JSON, read as strictly as clients and stored keys of the protocol expect. Private."""

from __future__ import annotations

import binascii
import json
from typing import Any, Final

__all__ = ["decode_base64", "decode_json", "encode_base64", "parse_json_object"]

_LINE_ENDS: Final = {ord("\r"): None, ord("\n"): None}


def decode_base64(text: str) -> bytes:
    """Decode standard base64 (RFC 4648, section 4) with its padding. Line ends are skipped, nothing else is.

    Raises:
        ValueError: It is none.
    """
    if "\n" in text or "\r" in text:
        text = text.translate(_LINE_ENDS)
    return binascii.a2b_base64(text, strict_mode=True)


def encode_base64(data: bytes) -> str:
    """Return `data` as standard base64."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _small_integer(text: str) -> float:
    """Return what a number is worth. Python refuses to make an integer of very many digits; nobody needs one here."""
    return int(text) if len(text) <= _INTEGER_LENGTH else float(text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members. Names match without regard to case, and the last of several wins.

    That is how Go's encoding/json reads into a struct (protocol section 4), and clients rely on it. There are two
    letters outside ASCII that it takes for `k` and `s`: the Kelvin sign, which `lower` knows, and the long s.
    """
    return {name.lower().replace("\u017f", "s"): value for name, value in pairs}


_INTEGER_LENGTH: Final = 20
_NAMES: Final = frozenset(
    (
        *("ciphertext", "cipher", "context", "key", "message", "plaintext", "version"),  # bodies
        *("algorithm", "bytes", "created_at", "created_by"),  # stored keys
        *("aead", "id", "iv", "nonce"),  # ciphertexts
    )
)
"""The members of all bodies, stored keys and ciphertexts, in the spelling that nearly everybody uses."""
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_small_integer)
_FOLDING_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_small_integer, object_pairs_hook=_members
)


def _is_usual(value: Any) -> bool:
    """Tell whether an object, or each of a list, has only members in their usual spelling."""
    if isinstance(value, list):
        return all(not isinstance(item, dict) or item.keys() <= _NAMES for item in value)
    return not isinstance(value, dict) or value.keys() <= _NAMES


def decode_json(text: str) -> Any:
    """Return the first JSON value of `text`, ignoring what follows it. Objects have lower-case names.

    Raises:
        ValueError: There is none, or one nested too deeply.
    """
    text = text.lstrip(" \t\r\n")
    try:
        value, _end = _DECODER.raw_decode(text)
        if not (type(value) is dict and value.keys() <= _NAMES) and not _is_usual(value):
            # Read again, in the order of the members. The first test is of an ordinary body, and cheap.
            value, _end = _FOLDING_DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def parse_json_object(text: str) -> dict[str, Any]:
    """Return the members of the one JSON object that `text` is, by their lower-case names.

    Raises:
        ValueError: `text` is not valid JSON, or another kind of value.
    """
    try:
        value = _DECODER.decode(text)
        if not _is_usual(value):
            value = _FOLDING_DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # what is wrong is the text
    return value

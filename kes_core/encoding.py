"""Base64 and JSON, decoded as strictly as the protocol requires for clients and stored keys. Private."""

from __future__ import annotations

import binascii
import json
from typing import Any, Final

__all__ = ["decode_base64", "decode_json", "encode_base64", "encode_json", "parse_json_object"]

_LINE_ENDS: Final = {ord("\r"): None, ord("\n"): None}


def decode_base64(text: str) -> bytes:
    """Decode standard base64 (RFC 4648, section 4) with its padding. Only line ends are ignored.

    Raises:
        ValueError: `text` is not valid base64.
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
    """Return the value of a number, as a float if it is long: Python limits the digits of an integer."""
    return int(text) if len(text) <= _INTEGER_LENGTH else float(text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with lower-case names. The last of several members of one name wins.

    Go's encoding/json fills a struct this way (protocol section 4), and clients rely on it. Like Go, this function
    takes two letters outside ASCII for `k` and `s`: the Kelvin sign, which `lower` converts, and the long s.
    """
    return {name.lower().replace("\u017f", "s"): value for name, value in pairs}


_INTEGER_LENGTH: Final = 20
_NAMES: Final = frozenset(
    (
        *(
            "allow_decrypt",
            "ciphertext",
            "cipher",
            "context",
            "hmac_version",
            "if_older_than",
            "in",
            "key",
            "message",
            "plaintext",
            "version",
            "wrapped_key",
            "wrapping_key",
        ),  # bodies
        *("algorithm", "bytes", "created_at", "created_by", "expires_at"),  # stored keys
        *("aead", "id", "iv", "nonce"),  # ciphertexts
    )
)
"""The members of all bodies, stored keys and ciphertexts, in their usual spelling."""
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_small_integer)
_FOLDING_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_small_integer, object_pairs_hook=_members
)


def _is_usual(value: Any) -> bool:
    """Return whether an object, or each object of a list, has only members in their usual spelling."""
    if isinstance(value, list):
        return all(not isinstance(item, dict) or item.keys() <= _NAMES for item in value)
    return not isinstance(value, dict) or value.keys() <= _NAMES


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_quoted: Final = json.encoder.encode_basestring_ascii


def encode_json(value: Any) -> bytes:
    """Return `value` as JSON in ASCII, without spaces."""
    if type(value) is dict:
        # Nearly all answers are objects whose members are text. Setting up an encoder takes longer than encoding them.
        try:
            members = [f"{_quoted(name)}:{_quoted(text)}" for name, text in value.items()]
        except TypeError:
            pass  # other members
        else:
            return f"{{{','.join(members)}}}".encode("ascii")
    return _ENCODER.encode(value).encode("ascii")


def decode_json(text: str) -> Any:
    """Return the first JSON value of `text` and ignore the rest. The names of members are in lower case.

    Raises:
        ValueError: `text` does not begin with a JSON value, or the value is nested too deeply.
    """
    text = text.lstrip(" \t\r\n")
    try:
        value, _end = _DECODER.raw_decode(text)
        if not (type(value) is dict and value.keys() <= _NAMES) and not _is_usual(value):
            # Decode again, in the order of the members. The first test covers ordinary bodies and is cheap.
            value, _end = _FOLDING_DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def parse_json_object(text: str) -> dict[str, Any]:
    """Return the members of the JSON object in `text`, by their lower-case names.

    Raises:
        ValueError: `text` is not valid JSON, or not an object.
    """
    try:
        value = _DECODER.decode(text)
        if not _is_usual(value):
            value = _FOLDING_DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # not a TypeError: the text is wrong
    return value

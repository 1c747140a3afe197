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
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def decode_json(text: str) -> Any:
    """Return the first JSON value of `text`, ignoring what follows it.

    Raises:
        ValueError: There is none, or one nested too deeply.
    """
    try:
        value, _end = _DECODER.raw_decode(text.lstrip(" \t\r\n"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def parse_json_object(text: str) -> dict[str, Any]:
    """Return the members of the one JSON object that `text` is.

    Raises:
        ValueError: It is no JSON, or another kind of value.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")  # what is wrong is the text
    return value

"""The two older formats of ciphertexts, which have named parts (protocol section 5)."""

from __future__ import annotations

from typing import Final, NamedTuple

from kes_core.encoding import decode_base64, parse_json_object

__all__ = ["StructuredCiphertext", "parse_structured"]

_AES256, _CHACHA20 = 1, 2
_JSON_NAMES: Final = {"AES-256-GCM-HMAC-SHA-256": _AES256, "ChaCha20Poly1305": _CHACHA20}
_MSGPACK_NAMES: Final = {
    "AES256-GCM_SHA256": _AES256,
    "AES256": _AES256,
    "XCHACHA20-POLY1305": _CHACHA20,
    "ChaCha20": _CHACHA20,
}


class StructuredCiphertext(NamedTuple):
    """The parts of a ciphertext in an older format."""

    key_type: int
    """The number of its `KeyType`."""
    iv: bytes
    nonce: bytes
    sealed: bytes


def parse_structured(ciphertext: bytes) -> StructuredCiphertext | None:
    """Return the parts of a ciphertext in one of the older formats, or None if it has neither."""
    try:
        return _parse_json(ciphertext) if ciphertext[:1] == b"{" else _parse_msgpack(ciphertext)
    except (ValueError, KeyError, TypeError):
        return None


def _parse_json(ciphertext: bytes) -> StructuredCiphertext:
    members = parse_json_object(ciphertext.decode("utf-8"))
    return StructuredCiphertext(
        _JSON_NAMES[members["aead"]],
        decode_base64(members["iv"]),
        decode_base64(members["nonce"]),
        decode_base64(members["bytes"]),
    )


def _parse_msgpack(ciphertext: bytes) -> StructuredCiphertext | None:
    import msgpack  # only old ciphertexts need it

    size = len(ciphertext)
    try:
        parts = msgpack.unpackb(
            ciphertext, raw=False, max_array_len=5, max_map_len=0, max_ext_len=0, max_bin_len=size, max_str_len=size
        )
    except (msgpack.UnpackException, RecursionError):
        return None
    name, key_id, iv, nonce, sealed = parts
    if not isinstance(key_id, str) or not all(isinstance(part, bytes) for part in (iv, nonce, sealed)):
        return None
    return StructuredCiphertext(_MSGPACK_NAMES[name], iv, nonce, sealed)

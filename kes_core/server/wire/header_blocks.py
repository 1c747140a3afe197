"""The header blocks of HTTP/2 that a connection has read or written before, and the requests that they make.

A client sends the same header block with each request to the same key, and gets the same one back, because both sides
have the headers in their tables (RFC 7541, section 2.3). What a block means depends on its bytes and on the table. So a
block is remembered until the table changes, and one that changes the table itself is not remembered at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import h2.utilities
from hpack import Decoder, Encoder, HeaderTuple
from hpack.table import HeaderTable
from hypercorn.utils import filter_pseudo_headers

from kes_core.server.wire.repeated import CREDENTIALS
from kes_core.server.wire.stream import Headers

__all__ = ["RememberingDecoder", "RememberingEncoder", "RequestHead", "request_head"]

_MAX_BLOCKS: Final = 32
"""The largest number of blocks that a connection remembers, in each direction."""
_MAX_BLOCK: Final = 512
"""The longest block that is remembered, in bytes."""
_MAX_HEADS: Final = 1024
_MAX_HEAD: Final = 2048
"""The longest headers of a request that are remembered, in bytes."""
_REQUEST_HEADERS: Final = h2.utilities.HeaderValidationFlags(
    is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False
)


class _WatchedTable(HeaderTable):
    """A table that calls `on_change` whenever it changes."""

    def __init__(self, on_change: Any) -> None:
        self._on_change = on_change
        super().__init__()

    def add(self, name: bytes, value: bytes) -> None:
        self._on_change()
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self._on_change()
        HeaderTable.maxsize.__set__(self, newmax)  # type: ignore[attr-defined] # mypy sees no property here


class _Memory:
    """What blocks mean under the current table. It forgets them all when the table changes."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}
        self.changes = 0

    def forget(self) -> None:
        self.known.clear()
        self.changes += 1

    def remember(self, key: Any, value: Any, changes: int) -> None:
        """Remember a result, unless the table has changed since there were `changes`."""
        if changes == self.changes and len(self.known) < _MAX_BLOCKS:
            self.known[key] = value


class RememberingDecoder(Decoder):
    """A decoder that remembers blocks."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._memory = _Memory()
        self.header_table = _WatchedTable(self._memory.forget)

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        if not raw or len(data) > _MAX_BLOCK:
            return super().decode(data, raw)
        data, memory = bytes(data), self._memory
        headers = memory.known.get(data)
        if headers is None:
            changes = memory.changes
            headers = super().decode(data, raw)
            memory.remember(data, headers, changes)
        return headers


class RememberingEncoder(Encoder):
    """An encoder that remembers blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = _Memory()
        self.header_table = _WatchedTable(self._memory.forget)

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        if self.header_table.resized or not huffman or isinstance(headers, dict):
            return super().encode(headers, huffman)
        key, memory = tuple(headers), self._memory
        block: bytes | None = memory.known.get(key)
        if block is None:
            changes = memory.changes
            block = super().encode(key, huffman)
            if len(block) <= _MAX_BLOCK:
                memory.remember(key, block, changes)
        return block


class RequestHead(NamedTuple):
    """What the headers of a valid request say."""

    method: bytes
    target: bytes
    headers: Headers
    """The headers without those that begin with a colon."""


_heads: dict[tuple[HeaderTuple, ...], RequestHead] = {}


def request_head(headers: list[Any]) -> RequestHead:
    """Return what the headers of a request say.

    Raises:
        ProtocolError: They are not valid.
    """
    key = tuple(headers)
    found = _heads.get(key)
    if found is not None:
        return found
    for _header in h2.utilities.validate_headers(headers, _REQUEST_HEADERS):
        pass  # the iterator validates
    pseudo = {name: value for name, value in headers if name[:1] == b":"}
    head = RequestHead(pseudo.get(b":method", b""), pseudo.get(b":path", b""), filter_pseudo_headers(headers))
    size = sum(len(name) + len(value) for name, value in headers)
    if size <= _MAX_HEAD and CREDENTIALS.isdisjoint(name for name, _value in headers):
        if len(_heads) >= _MAX_HEADS:
            _heads.clear()
        _heads[key] = head
    return head

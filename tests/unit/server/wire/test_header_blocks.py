"""A connection that remembers header blocks reads and writes what one does that remembers none."""

from __future__ import annotations

import h2.exceptions
import h2.utilities
import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypercorn.utils import filter_pseudo_headers
from hypothesis import given
from hypothesis import strategies as st

from kes_core.server.wire.header_blocks import RememberingDecoder, RememberingEncoder, request_head

NAMES = st.sampled_from([b":path", b"a", b"b", b"content-length", b"user-agent", b"x" * 40])
VALUES = st.sampled_from([b"", b"1", b"2", b"/v1/key/generate/a", b"y" * 900])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
STEPS = st.lists(HEADERS | st.sampled_from([0, 60, 100, 4096]), min_size=1, max_size=8)
"""Headers to encode, or a new size of the table."""


@given(STEPS)
def test_blocks_written_and_read(steps: list[list[tuple[bytes, bytes]] | int]) -> None:
    pairs = [(Encoder(), Decoder()), (RememberingEncoder(), RememberingDecoder(1 << 16))]
    for step in steps * 2:  # most of the second half is known
        if isinstance(step, int):
            for encoder, _decoder in pairs:
                encoder.header_table_size = step
            continue
        plain, remembering = ((encoder.encode(step), decoder) for encoder, decoder in pairs)
        assert remembering[0] == plain[0]
        assert [tuple(header) for header in remembering[1].decode(remembering[0], raw=True)] == step
        assert [tuple(header) for header in plain[1].decode(plain[0], raw=True)] == step


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\x82\x86\xbe", b"@\x01a\x01b", b"\x3f\x45", b"\x20\x82"])))
def test_any_blocks(blocks: list[bytes]) -> None:
    """Also hostile ones: each is read as if nothing were remembered, up to the first error."""
    plain, remembering = Decoder(), RememberingDecoder(1 << 16)
    for block in blocks * 2:
        results: list[object] = []
        for decoder in (plain, remembering):
            try:
                results.append([(type(header), *header) for header in decoder.decode(block, raw=True)])
            except HPACKError as error:
                results.append(type(error))
        assert results[0] == results[1]
        if isinstance(results[0], type):
            return
        assert list(plain.header_table.dynamic_entries) == list(remembering.header_table.dynamic_entries)


def test_a_connection_remembers_few_blocks() -> None:
    encoder = RememberingEncoder()
    for number in range(200):
        encoder.encode([(b":status", b"200"), (b"content-length", b"%d" % (number % 60))])
    assert len(encoder._memory.known) <= 32


REQUEST = [(b":method", b"PUT"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/a"), (b"b", b"c")]


@given(st.lists(st.sampled_from([*REQUEST, (b"B", b"c"), (b"connection", b"x"), (b":path", b"/b"), (b"b", b"c\n")])))
def test_the_head_of_a_request(headers: list[tuple[bytes, bytes]]) -> None:
    for _time in range(2):
        try:
            flags = h2.utilities.HeaderValidationFlags(
                is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False
            )
            list(h2.utilities.validate_headers(headers, flags))
        except h2.exceptions.ProtocolError:
            with pytest.raises(h2.exceptions.ProtocolError):
                request_head(headers)
        else:
            pseudo = dict(headers)
            expected = (pseudo[b":method"], pseudo[b":path"], filter_pseudo_headers(headers))
            assert request_head(headers) == expected

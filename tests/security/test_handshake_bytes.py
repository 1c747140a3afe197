"""Whatever bytes a client sends in its handshake, the server refuses it or waits, and identifies nobody else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from kes_core.identity import identity_of_chain
from tests.helpers.handshakes import CHUNK, Contexts, Shaking, client_context, own, p256

CLIENT = own(p256())
VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]
PLACES = st.integers(0, 4096)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), PLACES, st.integers(1, 255)),
        st.tuples(st.just("cut"), PLACES, st.integers(1, 100)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 100)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"))


def edited(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for what, place, number in edits:
        at = place % max(1, len(data))
        if what == "change":
            data = data[:at] + bytes(byte ^ number for byte in data[at : at + 1]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at] + data[at + number :]
        else:
            data = data[:at] + data[at : at + number] + data[at:]
    return data


@contextmanager
def no_fault() -> Iterator[None]:
    """Fail if the server logs an error: an exception that it does not expect."""
    errors: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    handler, logger = Handler(logging.ERROR), logging.getLogger("kes")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert errors == []


@pytest.mark.parametrize("version", VERSIONS, ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("auth", ["off", "on"])
@given(flight=st.sampled_from([0, 1]), edits=EDITS, size=st.one_of(st.just(CHUNK), st.integers(50, 2000)))
def test_changed_handshake_identifies_nobody_else(
    contexts: Contexts, auth: str, version: int, flight: int, edits: list[tuple[str, int, int]], size: int
) -> None:
    """The client's first or second flight is changed, and comes in pieces."""
    context = client_context(CLIENT)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    with no_fault():
        server = Shaking(getattr(contexts, auth), verifies_clients=auth == "on")
        for number in (0, 1):
            try:
                client.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error:
                break
            try:
                data = client.bio_read(CHUNK)
            except SSL.WantReadError:
                break
            data = edited(data, edits) if number == flight else data
            for start in range(0, len(data), size):
                if not server.transport.closed:
                    server.tls.data_received(data[start : start + size])
            if not server.transport.sent:
                break
            client.bio_write(bytes(server.transport.sent))
            server.transport.sent.clear()
    if server.client is not None:  # the changed bytes mean nothing, as the version of the first record
        assert server.client.identity == identity_of_chain(CLIENT.chain)[0]

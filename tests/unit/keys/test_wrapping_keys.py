"""Wrapping keys in a key store that several servers share."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from kes_core.counters import StoreCounters
from kes_core.keys.stored import StoredKeyError
from kes_core.keys.watched import WatchedStore
from kes_core.keys.wrapping import UnwrapError, wrap
from kes_core.keys.wrapping_keys import LIFE, StoredWrappingKey, WrappingKeys, find_wrapping_key
from kes_core.keystore import EntryNotFoundError, KeyStoreError, KeyStoreReason, KeyStoreUnreachableError
from kes_core.names import is_valid_name, wrapping_key_name
from tests.helpers.shared_store import CrashError, Store
from tests.helpers.wrapping import DAY, VECTORS, entry, private_key, wrapping_key

ME = "ab" * 32


class Generator:
    """Returns the private keys of the vectors, one after the other."""

    def __init__(self) -> None:
        self.count = 0
        self.parties: asyncio.Barrier | None = None
        """If there is one, all parties have to come before a key is generated."""

    async def __call__(self) -> rsa.RSAPrivateKey:
        number = self.count
        self.count += 1
        if self.parties is not None:
            await self.parties.wait()
        return private_key(number)


class Shared:
    """A key store, and the wrapping keys as servers see them."""

    def __init__(self) -> None:
        self.entries = Store()
        self.store = WatchedStore(self.entries, StoreCounters(), lambda: 0.0)
        self.generator = Generator()

    def server(self) -> WrappingKeys:
        return WrappingKeys(self.generator)

    async def add(self, number: int, days_left: float) -> str:
        name, value = entry(number, days_left=days_left)
        await self.entries.create(name, value)
        return name

    def calls(self, kind: str) -> int:
        return sum(call == kind for call, _name in self.entries.calls)


def run(test: Callable[[Shared], Awaitable[None]]) -> None:
    async def start() -> None:
        await test(Shared())

    asyncio.run(start())


def test_servers_hand_out_one_wrapping_key_until_it_has_a_week_left() -> None:
    async def test(s: Shared) -> None:
        one, other = s.server(), s.server()
        made = await one.current(s.store, ME)
        assert made.created_by == ME
        assert LIFE - 60 < made.seconds_left <= LIFE
        for server in (one, other, one, s.server()):
            found = await server.current(s.store, "cd" * 32)
            assert (found.id, found.created_by, found.expires_at) == (made.id, ME, made.expires_at)
        assert s.generator.count == 1
        assert s.entries.entries == [wrapping_key_name(made.id)]

    run(test)


@pytest.mark.parametrize(("days_left", "is_reused"), [(7.1, True), (6.9, False), (0.1, False)])
def test_wrapping_key_without_enough_time_is_replaced_and_still_unwraps(days_left: float, is_reused: bool) -> None:
    async def test(s: Shared) -> None:
        old = wrapping_key(1)
        await s.add(1, days_left)
        found = await s.server().current(s.store, ME)
        assert (found.id == old.id) is is_reused
        again = await find_wrapping_key(s.store, old.id)
        assert again.unwrap(wrap(old.private_key.public_key(), bytes(32))) == bytes(32)

    run(test)


def test_expired_wrapping_key_is_refused_and_removed() -> None:
    async def test(s: Shared) -> None:
        name = await s.add(1, -0.1)
        with pytest.raises(EntryNotFoundError):
            await find_wrapping_key(s.store, wrapping_key(1).id)
        made = await s.server().current(s.store, ME)
        assert s.entries.entries == [wrapping_key_name(made.id)] != [name]

    run(test)


def test_expired_wrapping_key_that_can_not_be_removed_hinders_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def test(s: Shared) -> None:
        await s.add(1, -0.1)

        async def forbid(call: str, _name: str) -> None:
            if call == "delete":
                raise KeyStoreError("permission denied", reason=KeyStoreReason.FORBIDDEN)

        s.entries.before = forbid
        assert (await s.server().current(s.store, ME)).id == wrapping_key(0).id
        assert f"failed to remove the wrapping key {wrapping_key(1).id}" in caplog.text

    run(test)


def test_the_one_with_the_most_time_is_handed_out() -> None:
    async def test(s: Shared) -> None:
        await s.add(0, 8)
        await s.add(1, 9)
        assert (await s.server().current(s.store, ME)).id == wrapping_key(1).id
        assert s.generator.count == 0

    run(test)


def test_requests_at_one_time_share_the_work_and_none_loses_it() -> None:
    async def test(s: Shared) -> None:
        s.generator.parties = asyncio.Barrier(2)
        server = s.server()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):  # as the request that begins it
                await server.current(s.store, ME)
        tasks = [asyncio.create_task(server.current(s.store, ME)) for _ in range(10)]
        await s.generator.parties.wait()
        ids = {found.id for found in await asyncio.gather(*tasks)}
        assert len(ids) == s.generator.count == 1
        assert s.entries.entries == [wrapping_key_name(ids.pop())]

    run(test)


def test_two_servers_at_one_time_make_two_that_both_work() -> None:
    async def test(s: Shared) -> None:
        s.generator.parties = asyncio.Barrier(2)
        made = await asyncio.gather(*(s.server().current(s.store, ME) for _ in range(2)))
        for each in made:
            assert (await find_wrapping_key(s.store, each.id)).id == each.id
        assert len({each.id for each in made}) == 2

    run(test)


def test_a_wrapping_key_that_somebody_removed_is_replaced() -> None:
    async def test(s: Shared) -> None:
        server = s.server()
        first = await server.current(s.store, ME)
        await s.entries.delete(wrapping_key_name(first.id))
        assert (await server.current(s.store, ME)).id != first.id

    run(test)


def test_handing_out_a_known_wrapping_key_costs_one_read() -> None:
    async def test(s: Shared) -> None:
        await s.add(0, 14)
        server = s.server()
        await server.current(s.store, ME)
        s.entries.calls.clear()
        await server.current(s.store, ME)
        assert [call for call, _name in s.entries.calls] == ["get"]

    run(test)


def test_failing_key_store_is_reported_and_asked_again() -> None:
    async def test(s: Shared) -> None:
        server = s.server()

        async def fail(_call: str, _name: str) -> None:
            raise KeyStoreUnreachableError("cut off")

        s.entries.before = fail
        with pytest.raises(KeyStoreUnreachableError):
            await server.current(s.store, ME)
        s.entries.before = None
        assert (await server.current(s.store, ME)).created_by == ME

    run(test)


def test_server_that_dies_leaves_a_whole_wrapping_key_or_none() -> None:
    for done in (False, True):

        async def test(s: Shared, done: bool = done) -> None:
            s.entries.crash_at = (1, done)  # the first call is the creation: a listing is not counted
            with pytest.raises(CrashError):
                await s.server().current(s.store, ME)
            s.entries.crash_at = None
            found = await s.server().current(s.store, ME)
            assert s.generator.count == (1 if done else 2)
            assert s.entries.entries == [wrapping_key_name(found.id)]

        run(test)


@pytest.mark.parametrize(
    "value",
    {
        "empty": b"",
        "no text": b"\xff",
        "no members": b"{}",
        "no object": b"[]",
        "a number": b'{"wrapping_key": 1}',
        "no key": b'{"wrapping_key": "AAAA", "created_at": "x", "created_by": "", "expires_at": "x"}',
        "another one": entry(1)[1],
        "cut off": entry(0)[1][:-10],
        "created by a number": entry(0)[1].replace(b'"' + b"ad" * 32 + b'"', b"7"),
    }.items(),
    ids=lambda value: value[0],
)
def test_damaged_entry_is_reported_and_hinders_nobody(
    value: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(s: Shared) -> None:
        damaged, _value = entry(0)
        await s.entries.create(damaged, value[1])
        s.generator.count = 1
        with pytest.raises(KeyStoreError, match=r"is damaged: the value is (not a|another) wrapping key"):
            await find_wrapping_key(s.store, wrapping_key(0).id)
        with caplog.at_level(logging.WARNING):
            assert (await s.server().current(s.store, ME)).id == wrapping_key(1).id
        assert "is damaged: the value is " in caplog.text

    run(test)


def test_entry_of_the_vectors_is_read() -> None:
    facts = VECTORS["wrapping_keys"][0]
    ((name, text),) = VECTORS["entry"].items()
    assert name == wrapping_key_name(facts["id"])
    found = StoredWrappingKey.decode(text.encode(), facts["id"])
    assert (found.id, found.public_key, found.created_by) == (facts["id"], facts["public_key"], "ad" * 32)
    assert found.expires_at.seconds - found.created_at.seconds == 14 * DAY
    assert found.encode() == text.encode()
    assert base64.b64decode(VECTORS["wrapping_keys"][0]["private_key"]) not in repr(found).encode()
    assert "private" not in repr(found)


@given(st.text(max_size=70) | st.from_regex(r"[0-9a-fA-F]{63,65}", fullmatch=True))
def test_what_clients_call_an_id_reads_no_other_entry(key_id: str) -> None:
    async def test(s: Shared) -> None:
        with pytest.raises(EntryNotFoundError):
            await find_wrapping_key(s.store, key_id)
        assert all(not is_valid_name(name) for _call, name in s.entries.calls)
        assert len(s.entries.calls) == (len(key_id) == 64 and not set(key_id) - set("0123456789abcdef"))

    run(test)


def _with_der(der: bytes) -> bytes:
    """Return an entry with some bytes as its private key."""
    members = json.loads(entry(0)[1]) | {"wrapping_key": base64.b64encode(der).decode()}
    return json.dumps(members).encode()


def _changed(bit: int) -> bytes:
    """Return an entry whose private key has one changed bit."""
    der = bytearray(base64.b64decode(VECTORS["wrapping_keys"][0]["private_key"]))
    bit %= len(der) * 8
    der[bit // 8] ^= 1 << bit % 8
    return _with_der(bytes(der))


@given(st.binary(max_size=300) | st.builds(_with_der, st.binary(max_size=300)) | st.builds(_changed, st.integers(0)))
def test_decoding_returns_the_wrapping_key_or_reports_the_defect(value: bytes) -> None:
    right = wrapping_key(0)
    try:
        found = StoredWrappingKey.decode(value, right.id)
    except StoredKeyError as error:
        defects = {"the value is not a wrapping key", "the value is another wrapping key"}
        assert (str(error) in defects, error.__cause__) == (True, None)  # noqa: PT017 # a cause could show the value
    else:
        assert found.id == right.id
        with contextlib.suppress(UnwrapError):  # its private half may be damaged
            assert found.unwrap(wrap(right.private_key.public_key(), bytes(32))) == bytes(32)

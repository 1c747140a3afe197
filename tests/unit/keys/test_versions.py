"""Keys with several versions: their entries in the key store, and what other servers do meanwhile."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from os import urandom

import pytest

from kes_core.keys.changes import RotationConflictError, TooManyVersionsError
from kes_core.keys.secret import CiphertextError, KeyType, hinted_version
from kes_core.keys.stored import KeyState, KeyVersion, Revision, StateChange, Timestamp, fingerprint
from kes_core.keystore import (
    KeyStoreError,
)
from kes_core.names import parse_revision_name, revision_name
from tests.helpers.shared_store import Store, made, run, sealed
from tests.helpers.vectors import vectors

# Entries


def test_rotation_adds_an_entry_and_changes_none() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server)
        before = dict(store._values)
        old = await sealed(server)
        code = (await server.get("k")).hmac_key
        key, is_rotated = await server.rotate("k", "you")
        assert (key.version, is_rotated, key.created_by) == (2, True, "you")
        first = fingerprint(before["k"]).hex()[:16]
        assert store.entries == ["k", f"k-r2-{first}-"]
        assert store._values["k"] == before["k"]
        for cache in (server, store.server()):
            rotated = await cache.get("k")
            assert (rotated.version, len(rotated.versions), rotated.hmac_key) == (2, 2, code)
            assert rotated.key.decrypt(old) == b"text"
        assert hinted_version(await sealed(server)) == 2

    run(check)


def test_rotated_key_keeps_its_cipher() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await server.create("k", KeyVersion.imported(urandom(32), KeyType.CHACHA20, "me"))
        await server.rotate("k", "me")
        assert (await server.get("k")).key.type is KeyType.CHACHA20

    run(check)


def test_key_without_versions_costs_one_look_when_it_is_read() -> None:
    async def check(store: Store) -> None:
        await made(store.server())
        server = store.server()
        store.calls.clear()
        await server.get("k")
        assert len(store.calls) == 2
        for _ in range(100):
            await server.get("k")
        assert len(store.calls) == 2

    run(check)


def test_key_with_many_versions_is_read_in_few_steps() -> None:
    async def check(store: Store) -> None:
        await made(store.server(), versions=40)
        server = store.server()
        store.calls.clear()
        assert (await server.get("k")).version == 40
        assert len(store.calls) <= 1 + 2 * 40

    run(check)


def test_versions_end_at_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kes_core.keys.changes.MAX_VERSIONS", 3)

    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=3)
        with pytest.raises(TooManyVersionsError):
            await server.rotate("k", "me")
        assert (await server.get("k")).version == 3

    run(check)


@pytest.mark.parametrize(
    "fault", ["other version", "other key", "no version", "no key", "state of another key", "unknown state"]
)
def test_entry_that_is_not_what_its_name_says_is_refused(fault: str) -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server)
        first = fingerprint(store._values["k"])
        good = KeyVersion.generate("me")
        value = {
            "other version": good.at(Revision(2, 3, first)).encode(),
            "other key": good.at(Revision(2, 2, bytes(32))).encode(),
            "no version": good.encode(),
            "no key": b"something",
            "state of another key": StateChange(KeyState.DISABLED, Timestamp(), "", Revision(2, 1, bytes(32))).encode(),
            "unknown state": StateChange(6, Timestamp(), "", Revision(2, 1, first)).encode(),  # type: ignore[arg-type]
        }[fault]
        await store.create(revision_name("k", 2, first.hex()[:16]), value)
        with pytest.raises(KeyStoreError, match=r"the entry 'k' in the key store is damaged: entry 2"):
            await store.server().get("k")

    run(check)


def test_policy_of_a_store_that_names_each_key_goes_on_to_work() -> None:
    async def check(store: Store) -> None:
        await made(store.server())
        store.forbidden = lambda name: name != "k"
        server = store.server()
        assert (await server.get("k")).version == 1
        with pytest.raises(KeyStoreError, match="permission denied"):
            await server.rotate("k", "me")
        assert (await server.get("k")).version == 1
        await server.delete("k")
        assert store.entries == []

    run(check)


def test_key_of_an_old_release_can_be_rotated() -> None:
    """It is JSON, without an HMAC key; it opens ciphertexts of older formats, in its first version only."""

    async def check(store: Store) -> None:
        cases = [case for case in vectors("ciphertext_decrypt")["cases"] if case["key"] == "A" * 43 + "="]
        cases = [case for case in cases if case["key_type"] == "AES256" and not case.get("should_fail")]
        await store.create("k", b'{"bytes":"' + b"A" * 43 + b'=","algorithm":"AES256"}')
        server = store.server()
        for _ in range(3):
            await server.rotate("k", "me")
        key = await server.get("k")
        assert (key.version, key.hmac_key, key.created_by) == (4, None, "")
        formats = set()
        for case in cases:
            opened = key.key.decrypt(b64decode(case["ciphertext"]), b64decode(case["associated_data"]))
            assert opened == b64decode(case["plaintext"])
            formats.add(case["format"])
        assert {"json"} <= formats

    run(check)


# Several servers


def test_one_of_two_rotations_at_once_wins() -> None:
    async def check(store: Store) -> None:
        one, other = store.server(), store.server()
        await made(one)

        async def win(call: str, _name: str) -> None:
            if call == "create":
                await other.rotate("k", "other")

        store.before = win
        with pytest.raises(RotationConflictError, match="version 2 of the key was just created"):
            await one.rotate("k", "me")
        store.before = None
        assert [version.created_by for version in (await one.get("k")).versions] == ["me", "other"]

    run(check)


def test_rotation_if_older_than_happens_once() -> None:
    async def check(store: Store) -> None:
        servers = [store.server() for _ in range(3)]
        await made(servers[0])
        results = [await server.rotate("k", "me", 3600) for server in servers]
        assert [is_rotated for _key, is_rotated in results] == [False] * 3  # it is young

        async def win(call: str, _name: str) -> None:
            if call == "create":
                await servers[1].rotate("k", "other")

        await servers[0].delete("k")
        old = KeyVersion.generate("me")
        await servers[0].create("k", KeyVersion(old.key, old.hmac_key, old.created_at._replace(seconds=0), "me"))
        store.before = win
        key, is_rotated = await servers[0].rotate("k", "me", 3600)
        assert (key.version, is_rotated) == (2, False)

    run(check)


def test_many_rotations_at_once_leave_no_gap_and_lose_nothing() -> None:
    async def check(store: Store) -> None:
        servers = [store.server() for _ in range(3)]
        await made(servers[0])
        ciphertexts = []

        async def rotate(number: int) -> bool:
            server = servers[number % 3]
            try:
                await server.rotate("k", "me")
            except RotationConflictError:
                return False
            ciphertexts.append(await sealed(server))
            return True

        rotated = sum(await asyncio.gather(*(rotate(number) for number in range(16))))
        assert rotated >= 1
        names = [parse_revision_name(name) for name in store.entries if name != "k"]
        assert sorted(name.number for name in names if name) == list(range(2, rotated + 2))
        for server in servers:
            key = await server.look_for_versions("k")
            assert [key.key.decrypt(ciphertext) for ciphertext in ciphertexts] == [b"text"] * rotated

    run(check)


def test_version_of_another_server_is_found_by_its_hint_once_a_second() -> None:
    async def check(store: Store) -> None:
        one, other = store.server(), store.server()
        await made(one)
        await other.get("k")
        await one.rotate("k", "me")
        ciphertext = await sealed(one)
        with pytest.raises(CiphertextError):
            (await other.get("k")).key.decrypt(ciphertext)
        store.calls.clear()
        loop = asyncio.get_running_loop()
        started = loop.time()
        keys = await asyncio.gather(*(other.look_for_versions("k") for _ in range(100)))
        assert [key.key.decrypt(ciphertext) for key in keys] == [b"text"] * 100
        assert len(store.calls) == 3  # version 2, and then that there is no version 3 and 4
        await asyncio.gather(*(other.look_for_versions("k") for _ in range(100)))
        assert len(store.calls) == 4
        assert loop.time() - started > 1

    run(check)

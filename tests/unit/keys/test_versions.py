"""Keys with several versions: ciphertexts, entries in the key store, and what other servers do meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from base64 import b64decode
from os import urandom
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from kes_core.config.sections import CacheExpiry
from kes_core.keys import changes
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import RotationConflictError, TooManyVersionsError
from kes_core.keys.secret import CiphertextError, KeyType, SecretKey, SecretKeys, hinted_version
from kes_core.keys.stored import KeyState, KeyVersion, Revision, StateChange, Timestamp, fingerprint
from kes_core.keystore import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreUnreachableError,
)
from kes_core.names import parse_revision_name, revision_name
from tests.helpers.shared_store import CrashError, Store, made, run, sealed, set_state
from tests.helpers.vectors import vectors


def secrets(count: int, key_type: KeyType = KeyType.AES256) -> list[SecretKey]:
    return [SecretKey(urandom(32), key_type) for _ in range(count)]


# Ciphertexts


@pytest.mark.parametrize("key_type", KeyType)
def test_each_version_opens_what_is_its_own(key_type: KeyType) -> None:
    keys = secrets(20, key_type)
    ciphertexts = [keys[0].encrypt(b"text", b"context")]
    ciphertexts += [SecretKeys(keys[:count]).encrypt(b"text", b"context") for count in range(2, 21)]
    rotated = SecretKeys(keys)
    assert [rotated.decrypt(ciphertext, b"context") for ciphertext in ciphertexts] == [b"text"] * 20
    assert [hinted_version(ciphertext) for ciphertext in ciphertexts[1:]] == list(range(2, 21))
    for ciphertext in ciphertexts:
        with pytest.raises(CiphertextError):
            rotated.decrypt(ciphertext, b"another context")


def test_ciphertext_of_a_later_version_is_an_ordinary_one_to_its_key() -> None:
    """A server without versions that has the key of the version decrypts it: the iv is just an iv."""
    keys = secrets(3)
    assert keys[2].decrypt(SecretKeys(keys).encrypt(b"text", b"c"), b"c") == b"text"


def test_iv_of_version_1_that_looks_like_a_hint_decrypts() -> None:
    keys = secrets(3)
    for hint in (1, 2, 3, 4, 1000, 2**32 - 1):
        ciphertext = keys[0].seal(hint.to_bytes(4, "big") + urandom(24), b"text", b"")
        assert SecretKeys(keys).decrypt(ciphertext) == b"text"


def test_iv_has_12_random_bytes_and_never_repeats() -> None:
    rotated = SecretKeys(secrets(2))
    ivs = {rotated.encrypt(b"")[-28:-12] for _ in range(1000)}
    assert len({iv[4:] for iv in ivs}) == 1000
    assert {iv[:4] for iv in ivs} == {b"\0\0\0\2"}


@given(st.binary(max_size=80))
def test_no_ciphertext_of_an_attacker_is_authentic(ciphertext: bytes) -> None:
    with pytest.raises(CiphertextError):
        ROTATED.decrypt(ciphertext)
    assert 1 <= hinted_version(ciphertext) <= 1000


ROTATED = SecretKeys(secrets(3))


@given(st.integers(2, 5), st.integers(2, 5))
def test_hint_of_another_version_opens_nothing(version: int, claimed: int) -> None:
    """An attacker moves a ciphertext from one version to another."""
    keys = secrets(5)
    ciphertext = bytearray(SecretKeys(keys[:version]).encrypt(b"text"))
    ciphertext[-28:-24] = claimed.to_bytes(4, "big")
    if version == claimed:
        assert SecretKeys(keys).decrypt(bytes(ciphertext)) == b"text"
    else:
        with pytest.raises(CiphertextError):
            SecretKeys(keys).decrypt(bytes(ciphertext))


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


# States


def test_state_is_one_more_entry_and_the_last_one_counts() -> None:
    async def check(store: Store) -> None:
        one, other = store.server(), store.server()
        await made(one)
        ciphertext = await sealed(one)
        for state in (KeyState.DISABLED, KeyState.DECRYPT_ONLY, KeyState.ENABLED, KeyState.DISABLED):
            await set_state(one, state)
            await set_state(other, state)  # which it has: nothing is added
            assert (await one.get("k")).state is state
            assert (await store.server().get("k")).state is state
        assert len(store.entries) == 5
        await one.rotate("k", "me")
        await set_state(other, KeyState.ENABLED)
        await one.rotate("k", "me")
        key = await store.server().get("k")
        assert (key.state, key.version, len(key.later)) == (KeyState.ENABLED, 3, 7)
        assert hinted_version(key.key.encrypt(b"")) == 3
        assert key.key.decrypt(ciphertext) == b"text"
        await one.delete("k")
        assert store.entries == []

    run(check)


def test_disabling_prevails_over_rotations_at_the_same_moment() -> None:
    async def check(store: Store) -> None:
        one, other = store.server(), store.server()
        await made(one)
        rotations = 0

        async def rotate(call: str, _name: str) -> None:
            nonlocal rotations
            if call == "create" and rotations < 3:
                rotations += 1
                await other.rotate("k", "other")

        store.before = rotate
        await set_state(one, KeyState.DISABLED)
        store.before = None
        key = await one.get("k")
        assert (key.state, key.version) == (KeyState.DISABLED, 4)

    run(check)


def test_another_server_notices_a_state_when_it_checks_the_key() -> None:
    async def check(store: Store) -> None:
        store.check_interval = 10.0
        now = 0.0
        one, other = store.server(), KeyCache(store, CacheExpiry(), clock=lambda: now)
        await made(one)
        assert (await other.get("k")).state is KeyState.ENABLED
        await set_state(one, KeyState.DISABLED)
        now = 11.0
        assert (await other.get("k")).state is KeyState.ENABLED  # it reads the key in the background
        await asyncio.gather(*other._tasks)
        assert (await other.get("k")).state is KeyState.DISABLED

    run(check)


@pytest.mark.parametrize("operation", ["rotate", "disable"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyStoreError("permission denied", reason=KeyStoreReason.FORBIDDEN), "permission denied"),
        (EntryNotFoundError("it is not there yet"), "says that 'k-r2-.*-' exists, but does not return it"),
    ],
    ids=["forbidden", "late"],
)
def test_change_ends_if_the_server_cannot_see_the_next_entry(
    operation: str, error: KeyStoreError, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server, which may read more, has changed the key."""
    monkeypatch.setattr(changes, "_HIDDEN_TIME", 0.1)

    class Blind(Store):
        async def get(self, name: str) -> bytes:
            if parse_revision_name(name) is not None:
                raise error
            return await super().get(name)

    async def check(store: Store) -> None:
        await made(store.server(), versions=2)
        blind = Blind()
        blind._values = store._values
        async with asyncio.timeout(10):
            if operation == "disable":
                with pytest.raises(KeyStoreError, match=message):
                    await set_state(blind.server(), KeyState.DISABLED)
            else:
                expected = RotationConflictError if isinstance(error, EntryNotFoundError) else KeyStoreError
                with pytest.raises(expected):
                    await blind.server().rotate("k", "me")
        key = await store.server().get("k")
        assert (key.version, key.state) == (2, KeyState.ENABLED)

    run(check)


def test_state_changes_as_soon_as_a_late_entry_appears() -> None:
    class Late(Store):
        hidden = 3

        async def get(self, name: str) -> bytes:
            if parse_revision_name(name) is not None and self.hidden:
                self.hidden -= 1
                raise EntryNotFoundError("it is not there yet")
            return await super().get(name)

    async def check(store: Store) -> None:
        await made(store.server(), versions=2)
        late = Late()
        late._values = store._values
        await set_state(late.server(), KeyState.DISABLED)
        key = await store.server().get("k")
        assert (key.version, key.state, len(key.later)) == (2, KeyState.DISABLED, 2)

    run(check)


def test_state_of_a_missing_key() -> None:
    async def check(store: Store) -> None:
        with pytest.raises(EntryNotFoundError):
            await set_state(store.server(), KeyState.DISABLED)
        assert store.entries == []

    run(check)


# Deletion


def test_deleted_key_leaves_nothing() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=3)
        await made(server, "k-r2", versions=2)
        store.calls.clear()
        await server.delete("k")
        deleted = [name for call, name in store.calls if call == "delete"]
        assert deleted[0] == "k"  # from then on nobody can use it
        assert [parse_revision_name(name).number for name in deleted[1:]] == [3, 2]  # type: ignore[union-attr]
        assert all(name.startswith("k-r2") and not name.startswith("k-r2-r3") for name in store.entries)
        assert (await server.get("k-r2")).version == 2

    run(check)


def test_rest_of_a_deleted_key_is_no_version_of_a_new_one() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=3)
        old = await sealed(server)
        del store._values["k"]  # a deletion whose server was killed
        other = store.server()
        await made(other)
        assert (await other.get("k")).version == 1
        await other.rotate("k", "me")
        key = await other.get("k")
        assert key.version == 2
        with pytest.raises(CiphertextError):
            key.key.decrypt(old)
        await other.delete("k")
        assert len(store.entries) == 2  # of the first key
        await other.delete("k")
        assert store.entries == []
        with pytest.raises(EntryNotFoundError):
            await other.delete("k")

    run(check)


def test_deletion_of_a_key_that_cannot_be_read_removes_its_versions() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=3)

        async def damaged(call: str, name: str) -> None:
            if (call, name) == ("get", "k"):
                raise KeyStoreError("the entry is damaged")

        store.before = damaged
        with pytest.raises(KeyStoreError, match="the entry is damaged"):
            await store.server().get("k")
        store.before = damaged
        await server.delete("k")
        store.before = None
        assert store.entries == []

    run(check)


def test_key_deleted_while_it_is_rotated_leaves_nothing() -> None:
    async def check(store: Store) -> None:
        one, other = store.server(), store.server()
        await made(one, versions=2)

        async def delete(call: str, _name: str) -> None:
            if call == "create":
                await other.delete("k")

        store.before = delete
        with pytest.raises(EntryNotFoundError):
            await one.rotate("k", "me")
        assert store.entries == []

    run(check)


def test_key_replaced_while_it_is_rotated_is_not_touched() -> None:
    async def check(store: Store) -> None:
        one, other = store.server(), store.server()
        await made(one)

        async def replace(call: str, _name: str) -> None:
            if call == "create":
                await other.delete("k")
                await made(other, versions=2)

        store.before = replace
        with pytest.raises(EntryNotFoundError):
            await one.rotate("k", "me")
        store.before = None
        assert (await one.get("k")).version == 2
        assert len(store.entries) == 2

    run(check)


@pytest.mark.parametrize("fault", ["cuts it off", "loses it", "has the version of another server"])
def test_store_that_does_not_return_a_new_version_spoils_no_key(fault: str) -> None:
    class Faulty(Store):
        async def create(self, name: str, value: bytes) -> None:
            if name == "k":
                await super().create(name, value)
            elif fault == "cuts it off":
                await super().create(name, value[:-8])
            elif fault == "has the version of another server":
                other = KeyVersion.generate("other").at(Revision(2, 2, fingerprint(self._values["k"])))
                await super().create(name, other.encode())

    async def check() -> None:
        store = Faulty()
        server = store.server()
        await made(server)
        ciphertext = await sealed(server)
        expected = RotationConflictError if "another" in fault else KeyStoreError
        with pytest.raises(expected, match="just created by another rotation" if "another" in fault else "accepted"):
            await server.rotate("k", "me")
        for cache in (server, store.server()):
            key = await cache.get("k")
            assert (key.version, key.key.decrypt(ciphertext)) == (2 if "another" in fault else 1, b"text")

    asyncio.run(check())


def test_outage_during_a_rotation_takes_no_key_away() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server)
        key = await server.get("k")

        async def cut(_call: str, _name: str) -> None:
            raise KeyStoreUnreachableError("cut off")

        store.before = cut
        with pytest.raises(KeyStoreUnreachableError):
            await server.rotate("k", "me")
        assert server.peek("k") is key

    run(check)


async def crashed(store: Store, operation: str, moment: int, *, done: bool) -> tuple[bool, list[bytes]]:
    """Let a server die in an operation; return whether it did, and ciphertexts that it made before."""
    server = store.server()
    ciphertexts = []
    if operation != "create":
        await made(server)
        for _ in range(3):
            ciphertexts.append(await sealed(server))
            await server.rotate("k", "me")
    store.crash_at = (len(store.calls) + moment, done)
    calls = {"create": lambda: made(server), "rotate": lambda: server.rotate("k", "me")}
    calls["delete"] = lambda: server._delete("k")
    calls["disable"] = lambda: set_state(server, KeyState.DISABLED)
    try:
        await calls[operation]()  # type: ignore[no-untyped-call]
    except CrashError:
        return True, ciphertexts
    finally:
        store.crash_at = None
    return False, ciphertexts


async def check_rest(store: Store, operation: str, ciphertexts: list[bytes]) -> None:
    """Let another server work with what is left."""
    other = store.server()
    try:
        key = await other.get("k")
    except EntryNotFoundError:
        assert operation not in {"rotate", "disable"}
        with pytest.raises(EntryNotFoundError):
            await other.rotate("k", "me")
        await made(other)
        key = await other.get("k")
        assert key.version == 1
        for ciphertext in ciphertexts:
            with pytest.raises(CiphertextError):
                key.key.decrypt(ciphertext)
    else:
        assert key.version in {1, 4, 5}
        assert [key.key.decrypt(ciphertext) for ciphertext in ciphertexts] == [b"text"] * len(ciphertexts)
    ciphertext = await sealed(other)
    await other.rotate("k", "me")
    rotated = await other.get("k")
    assert rotated.version == key.version + 1
    assert rotated.key.decrypt(ciphertext) == b"text"
    await other.delete("k")
    with contextlib.suppress(EntryNotFoundError):
        await other.delete("k")  # what the crash left
    assert store.entries == []


@pytest.mark.parametrize("operation", ["create", "rotate", "disable", "delete"])
def test_server_that_dies_at_any_moment_loses_nothing(operation: str) -> None:
    """Between any two calls of the store."""

    async def check() -> None:
        moments = set()
        for moment in range(1, 20):
            for done in (False, True):
                store = Store()
                has_crashed, ciphertexts = await crashed(store, operation, moment, done=done)
                if has_crashed:
                    moments.add(store.calls[-1][0])
                await check_rest(store, operation, ciphertexts)
        assert moments >= {"get", "delete" if operation == "delete" else "create"}

    asyncio.run(check())


# Listing


def test_listing_hides_versions_and_fills_its_pages() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        names = [f"key-{number:02}" for number in range(12)]
        for name in names:
            await made(server, name, versions=4)
        for limit in (1, 2, 3, 5, 11, 12, 13, 0):
            found: list[str] = []
            start = ""
            while True:
                page = await server.list("key-", start=start, limit=limit)
                assert len(page.names) == limit or not page.next
                found += page.names
                start = page.next
                if not start:
                    break
                assert parse_revision_name(start) is None
            assert found == names
        assert (await server.list("key-00-r2")).names == []

    run(check)


def test_name_of_a_version_is_taken_by_no_key() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=2)
        entry = next(name for name in store.entries if name != "k")
        with pytest.raises(EntryExistsError):
            await store.create(entry, b"")
        assert parse_revision_name(entry) is not None

    run(check)


# What was stored and encrypted once is read for ever

VECTORS = vectors("key_versions")["cases"]


@pytest.mark.parametrize("case", VECTORS, ids=[case["key_type"] for case in VECTORS])
def test_vectors(case: dict[str, Any]) -> None:
    async def check(store: Store) -> None:
        for name, value in case["entries"].items():
            await store.create(name, value.encode())
        key = await store.server().get("my-key")
        assert key.version == 3
        for vector in case["ciphertexts"]:
            ciphertext, context = b64decode(vector["ciphertext"]), b64decode(vector["context"])
            assert key.key.decrypt(ciphertext, context) == b64decode(vector["plaintext"])
            assert vector["version"] == 1 or hinted_version(ciphertext) == vector["version"]
        assert key.hmac_key is not None
        assert key.hmac_key.digest(b64decode(case["hmac"]["message"])) == b64decode(case["hmac"]["hmac"])

    run(check)


def test_vectors_decrypt_as_the_protocol_says() -> None:
    """With nothing but HMAC-SHA-256 and AES-GCM, as a server without versions does it with the key of a version."""
    case = next(case for case in VECTORS if case["key_type"] == "AES256")
    for name, value in case["entries"].items():
        parts = parse_revision_name(name)
        secret = KeyVersion.decode(value.encode()).key._key
        for vector in case["ciphertexts"]:
            if vector["version"] == (parts.number if parts else 1):
                ciphertext = b64decode(vector["ciphertext"])
                derived = AESGCM(hmac.digest(secret, ciphertext[-28:-12], "sha256"))
                plaintext = derived.decrypt(ciphertext[-12:], ciphertext[:-28], b64decode(vector["context"]))
                assert plaintext == b64decode(vector["plaintext"])

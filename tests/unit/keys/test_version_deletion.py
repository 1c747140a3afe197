"""What a deletion, an outage or a crash leaves of a key with several versions, and what a listing shows."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kes_core.keys.changes import RotationConflictError
from kes_core.keys.secret import CiphertextError
from kes_core.keys.stored import KeyState, KeyVersion, Revision, fingerprint
from kes_core.keystore import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreUnreachableError,
)
from kes_core.names import parse_revision_name
from tests.helpers.shared_store import CrashError, Store, made, run, sealed, set_state


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

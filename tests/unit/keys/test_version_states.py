"""The states of keys with several versions: how they change, and how other servers notice."""

from __future__ import annotations

import asyncio

import pytest

from kes_core.config.sections import CacheExpiry
from kes_core.keys import changes
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import RotationConflictError
from kes_core.keys.secret import hinted_version
from kes_core.keys.stored import KeyState
from kes_core.keystore import (
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreReason,
)
from kes_core.names import parse_revision_name
from tests.helpers.shared_store import Store, made, run, sealed, set_state


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

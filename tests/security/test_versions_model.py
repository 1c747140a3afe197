"""Two servers rotate, delete and use one key in any order, and die in between: what they encrypt opens while it should.

The model remembers which key each ciphertext belongs to. A key is what was created once: a new one of the same name is
another key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import change_condition, with_state
from kes_core.keys.secret import CiphertextError
from kes_core.keys.stored import Condition, KeyState, KeyVersion, fingerprint
from kes_core.keys.watched import WatchedStore
from kes_core.keystore import EntryExistsError, EntryNotFoundError
from kes_core.names import parse_revision_name
from tests.helpers.effort import scaled

pytestmark = pytest.mark.nightly

T = TypeVar("T")
SERVERS = st.integers(0, 1)


class DeathError(BaseException):
    """The process is killed."""


class MortalStore(MemoryKeyStore):
    """A store that kills its server before or after a write."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = 0
        """Moments until the death; 0: never."""

    def _live(self) -> None:
        if self.lives:
            self.lives -= 1
            if not self.lives:
                raise DeathError

    async def create(self, name: str, value: bytes) -> None:
        self._live()
        await super().create(name, value)
        self._live()

    async def delete(self, name: str) -> None:
        self._live()
        await super().delete(name)
        self._live()


class Versions(RuleBasedStateMachine):
    """The rules. `alive` is the fingerprint of the key that is there, if there is one."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = MortalStore()
        self.servers = [self._server(), self._server()]
        self.sealed: dict[bytes, list[bytes]] = {}
        """The ciphertexts of each key, by its fingerprint."""
        self.newest = 0
        """The version of the key that is there, at least."""

    def _server(self) -> KeyCache:
        return KeyCache(self.store, CacheExpiry())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @property
    def alive(self) -> bytes | None:
        value = self.store._values.get("k")
        return None if value is None else fingerprint(value)

    def change(self, server: int, work: Coroutine[Any, Any, Any], lives: int) -> Any:
        """Let a server change the key; it may die, and starts again then. The other one notices another key in time."""
        before = self.alive
        self.has_died = False
        self.store.lives = lives
        try:
            return self.run(work)
        except DeathError:
            self.has_died = True
            self.servers[server] = self._server()
            return None
        finally:
            self.store.lives = 0
            if self.alive != before:
                self.newest = 0
                for each in self.servers:
                    each.forget_all()

    @rule(server=SERVERS, lives=st.integers(0, 3))
    def create(self, server: int, lives: int) -> None:
        exists = self.alive is not None
        try:
            self.change(server, self.servers[server].create("k", KeyVersion.generate("me")), lives)
        except EntryExistsError:
            assert exists

    @rule(server=SERVERS, lives=st.integers(0, 3))
    def rotate(self, server: int, lives: int) -> None:
        exists = self.alive is not None
        try:
            done = self.change(server, self.servers[server]._rotate("k", "me", 0), lives)
        except EntryNotFoundError:
            assert not exists
            return
        assert exists
        if done is not None:
            assert done[0].version > self.newest
            self.newest = done[0].version

    @staticmethod
    def _change_to(state: KeyState) -> Callable[[WatchedStore], Awaitable[Condition]]:
        return lambda store: change_condition(store, "k", with_state(state), "me")

    @rule(
        server=SERVERS,
        state=st.sampled_from([KeyState.ENABLED, KeyState.DECRYPT_ONLY, KeyState.DISABLED]),
        lives=st.integers(0, 3),
    )
    def change_state(self, server: int, state: KeyState, lives: int) -> None:
        exists = self.alive is not None
        try:
            self.change(server, self.servers[server].change("k", self._change_to(state)), lives)
        except EntryNotFoundError:
            assert not exists
            return
        assert exists
        if not self.has_died:
            assert self.run(self._server().get("k")).state is state

    @rule(server=SERVERS, lives=st.integers(0, 6))
    def delete(self, server: int, lives: int) -> None:
        exists, rests = self.alive is not None, len(self.store._values) > 0
        try:
            self.change(server, self.servers[server]._delete("k"), lives)
        except EntryNotFoundError:
            assert not rests
        else:
            assert exists or rests or self.has_died

    @rule(server=SERVERS)
    def encrypt(self, server: int) -> None:
        alive = self.alive
        try:
            key = self.run(self.servers[server].get("k"))
        except EntryNotFoundError:
            assert alive is None
            return
        assert alive is not None
        self.sealed.setdefault(alive, []).append(key.key.encrypt(b"text"))

    @rule(server=SERVERS)
    def decrypt(self, server: int) -> None:
        alive = self.alive
        if alive is None:
            return
        key = self.run(self.servers[server].get("k"))
        for owner, ciphertexts in self.sealed.items():
            for ciphertext in ciphertexts:
                try:
                    opened = key.key.decrypt(ciphertext)
                except CiphertextError:
                    if owner == alive:  # of a version that the other server has added
                        key = self.run(self.servers[server].look_for_versions("k"))
                        assert key.key.decrypt(ciphertext) == b"text"
                else:
                    assert (owner, opened) == (alive, b"text")

    @rule(server=SERVERS)
    def restart(self, server: int) -> None:
        self.servers[server] = self._server()
        if self.alive is not None:
            assert self.run(self.servers[server].get("k")).version >= max(self.newest, 1)

    @invariant()
    def versions_have_no_gaps(self) -> None:
        if not hasattr(self, "store") or self.alive is None:
            return
        parts = [parse_revision_name(name) for name in self.store._values]
        own = sorted(part.number for part in parts if part and part.first == self.alive[:8].hex())
        assert own == list(range(2, len(own) + 2))

    @invariant()
    def listing_has_keys_only(self) -> None:
        if hasattr(self, "store"):
            listed = self.run(self.servers[0].list("")).names
            assert listed == (["k"] if self.alive is not None else [])

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()


def test_two_servers_and_their_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kes_core.keys.cache.LOOK_INTERVAL", 0.0)
    run_state_machine_as_test(Versions, settings=scaled(40))

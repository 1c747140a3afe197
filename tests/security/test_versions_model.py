"""Two servers rotate, change, delete and use one key in any order, and die in between: what they encrypt opens while it
should, and the key is what the last change made of it.

The model remembers the condition of the key, and which key and version each ciphertext belongs to. A key is what was
created once: a new one of the same name is another key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.keys import changes, deletion
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import KeyDoomedError, NoSuchVersionError, change_condition, with_min_version, with_state
from kes_core.keys.deletion import LEASE, DeletionSchedule, ScheduledDeletion, delete_due, planned, restored
from kes_core.keys.secret import CiphertextError, OldVersionError, hinted_version
from kes_core.keys.stored import Condition, KeyState, KeyVersion, fingerprint
from kes_core.keys.versions import StoredKey
from kes_core.keystore import EntryExistsError, EntryNotFoundError
from kes_core.names import parse_revision_name
from tests.helpers.effort import scaled

pytestmark = pytest.mark.nightly

T = TypeVar("T")
SERVERS = st.integers(0, 1)
LIVES = st.integers(0, 3)
START = 1_800_000_000.0
STATES = st.sampled_from([KeyState.ENABLED, KeyState.DECRYPT_ONLY, KeyState.DISABLED])


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


class Clock:
    """The time of day, for the modules that read it."""

    now = START
    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        return self.now


CLOCK = Clock()


class Sealed(NamedTuple):
    """A ciphertext."""

    text: bytes
    version: int
    """The version of its key that made it."""


class Versions(RuleBasedStateMachine):
    """The rules. `alive` is the fingerprint of the key that is there, if there is one."""

    @initialize()
    def begin(self) -> None:
        CLOCK.now = START
        self.loop = asyncio.new_event_loop()
        self.store = MortalStore()
        self.servers = [self._server(), self._server()]
        self.found: list[Sequence[ScheduledDeletion]] = [(), ()]
        """The keys to be deleted that each server has found when it looked last."""
        self.sealed: dict[bytes, list[Sealed]] = {}
        """The ciphertexts of each key, by its fingerprint."""
        self.newest = 0
        """The version of the key that is there, at least."""
        self.condition = self.kept = Condition()
        """What the key that is there may be used for, and the same before its deletion was scheduled."""

    def _server(self) -> KeyCache:
        return KeyCache(self.store, CacheExpiry())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @property
    def alive(self) -> bytes | None:
        value = self.store._values.get("k")
        return None if value is None else fingerprint(value)

    @property
    def is_doomed(self) -> bool:
        return self.alive is not None and self.condition.is_doomed

    def change(self, server: int, work: Coroutine[Any, Any, Any], lives: int, new: Condition | None = None) -> Any:
        """Let a server change the key; it may die, and starts again then. The other one notices another key in time.

        `new` is the condition of the key afterwards, if the server lives; without it, that does not change.
        """
        before = self.alive
        self.has_died = False
        self.store.lives = lives
        try:
            result = self.run(work)
        except DeathError:
            self.has_died = True
            self.servers[server] = self._server()
            result = None
        finally:
            self.store.lives = 0
            if self.alive != before:
                self.newest = 0
                self.condition = self.kept = Condition()
                for each in self.servers:
                    each.forget_all()
        if self.alive == before is not None:
            self._check_condition(new or self.condition)
        return result

    def _check_condition(self, new: Condition) -> None:
        """Check the condition of the key in the store. A server that died may have changed it, or not."""
        found = self.run(self._server().get("k")).condition
        assert found in ({self.condition, new} if self.has_died else {new})
        self.condition = found
        if not found.is_doomed:
            self.kept = found

    def _changed(
        self,
        server: int,
        lives: int,
        change: Callable[[StoredKey], Condition],
        new: Condition,
        fails: type[Exception] | None,
    ) -> None:
        """Change the condition of the key, which becomes `new`, or fails with an error."""
        exists = self.alive is not None
        work = self.servers[server].change("k", lambda store: change_condition(store, "k", change, "me"))
        try:
            self.change(server, work, lives, new)
        except EntryNotFoundError:
            assert not exists
        except KeyDoomedError:
            assert exists
            assert fails is KeyDoomedError
        except NoSuchVersionError:
            assert exists
            assert fails is NoSuchVersionError
        else:
            assert self.has_died or (exists and fails is None)
            if not self.has_died:
                assert self.run(self.servers[server].get("k")).condition == new  # at once

    # Changes

    @rule(server=SERVERS, lives=LIVES)
    def create(self, server: int, lives: int) -> None:
        exists = self.alive is not None
        try:
            self.change(server, self.servers[server].create("k", KeyVersion.generate("me")), lives)
        except EntryExistsError:
            assert exists

    @rule(server=SERVERS, lives=LIVES)
    def rotate(self, server: int, lives: int) -> None:
        exists, is_doomed = self.alive is not None, self.is_doomed
        try:
            done = self.change(server, self.servers[server].rotate("k", "me"), lives)
        except EntryNotFoundError:
            assert not exists
            return
        except KeyDoomedError:
            assert is_doomed
            return
        assert exists
        assert not is_doomed
        if done is not None:
            assert done[0].version > self.newest
            self.newest = done[0].version

    @rule(server=SERVERS, state=STATES, lives=LIVES)
    def change_state(self, server: int, state: KeyState, lives: int) -> None:
        fails = KeyDoomedError if self.is_doomed else None
        self._changed(server, lives, with_state(state), self.condition._replace(state=state), fails)

    @rule(server=SERVERS, version=st.integers(0, 4), lives=LIVES)
    def set_min_version(self, server: int, version: int, lives: int) -> None:
        fails: type[Exception] | None = KeyDoomedError if self.is_doomed else None
        if self.alive is not None and not self.is_doomed:
            newest = self.run(self._server().get("k")).version
            fails = None if 1 <= version <= newest else NoSuchVersionError
        new = self.condition if fails else self.condition._replace(min_version=version)
        self._changed(server, lives, with_min_version(version), new, fails)

    @rule(server=SERVERS, seconds=st.integers(0, 3), lives=LIVES)
    def schedule(self, server: int, seconds: int, lives: int) -> None:
        moment = int(CLOCK.now) + 1000 * seconds
        new = self.condition._replace(state=KeyState.SCHEDULED_FOR_DELETION, delete_at=moment)
        fails = KeyDoomedError if self.alive and self.condition.state is KeyState.DELETING else None
        self._changed(server, lives, planned(moment), new, fails)

    @rule(server=SERVERS, lives=LIVES)
    def undelete(self, server: int, lives: int) -> None:
        fails = KeyDoomedError if self.alive and self.condition.state is KeyState.DELETING else None
        self._changed(server, lives, restored, self.kept, fails)

    @rule(server=SERVERS, lives=st.integers(0, 6))
    def delete(self, server: int, lives: int) -> None:
        exists, rests = self.alive is not None, len(self.store._values) > 0
        try:
            self.change(server, self.servers[server]._delete("k"), lives)
        except EntryNotFoundError:
            assert not rests
        else:
            assert exists or rests or self.has_died

    # Scheduled deletions

    @rule(seconds=st.sampled_from([1, LEASE, 1000, 5000]))
    def wait(self, seconds: int) -> None:
        CLOCK.now += seconds

    @rule(server=SERVERS)
    def look(self, server: int) -> None:
        self.found[server] = self.run(DeletionSchedule().read(self.servers[server].store))
        if self.alive is not None:
            mine = [found for found in self.found[server] if found.first == self.alive[:8].hex()]
            assert [found.condition for found in mine] == [self.condition] * self.is_doomed

    @rule(server=SERVERS, lives=st.integers(0, 9))
    def delete_what_is_due(self, server: int, lives: int) -> None:
        """Much may have happened since the server looked."""
        for found in self.found[server]:
            is_due = self.is_doomed and self.condition.delete_at <= CLOCK.now
            is_this = self.alive is not None and found.first == self.alive[:8].hex()
            begun = self.condition._replace(state=KeyState.DELETING, delete_at=int(CLOCK.now) + LEASE)
            before = self.alive
            work = self.servers[server].change("k", lambda store, due=found: delete_due(store, found=due))  # type: ignore[misc]
            deleted = self.change(server, work, lives, begun if is_this and is_due else None)
            if self.has_died:
                assert self.alive in ({before, None} if is_this and is_due else {before})
                continue
            assert deleted == (is_this and is_due)
            assert self.alive == (None if deleted else before)
            if deleted:
                assert not [name for name in self.store._values if f"-{found.first}-" in name]

    # Use

    @rule(server=SERVERS)
    def encrypt(self, server: int) -> None:
        alive = self.alive
        try:
            key = self.run(self.servers[server].get("k"))
        except EntryNotFoundError:
            assert alive is None
            return
        assert alive is not None
        self.sealed.setdefault(alive, []).append(Sealed(key.key.encrypt(b"text"), key.version))

    @rule(server=SERVERS)
    def decrypt(self, server: int) -> None:
        alive = self.alive
        if alive is None:
            return
        key = self.run(self.servers[server].get("k"))
        for owner, ciphertexts in self.sealed.items():
            for sealed in ciphertexts:
                if owner == alive and sealed.version > key.version:  # which the other server has added
                    assert hinted_version(sealed.text) == sealed.version
                    key = self.run(self.servers[server].look_for_versions("k"))
                try:
                    opened = key.key.decrypt(sealed.text)
                except OldVersionError:
                    assert owner == alive
                    assert sealed.version < key.condition.min_version
                except CiphertextError:
                    assert owner != alive
                else:
                    assert (owner, opened) == (alive, b"text")
                    assert sealed.version >= key.condition.min_version

    @rule(server=SERVERS)
    def rewrap(self, server: int) -> None:
        """The new ciphertext is of the newest version that the server knows, and opens on both servers."""
        alive = self.alive
        if alive is None or not self.sealed.get(alive):
            return
        key = self.run(self.servers[server].look_for_versions("k"))
        sealed = self.sealed[alive][0]
        if sealed.version < key.condition.min_version:
            return
        again = Sealed(key.key.encrypt(key.key.decrypt(sealed.text)), key.version)
        assert again.version >= sealed.version
        self.sealed[alive].append(again)

    @rule(server=SERVERS)
    def notice(self, server: int) -> None:
        """Two check intervals pass, or the server starts again: then it knows the key as it is in the store."""
        self.servers[server] = self._server()
        if self.alive is not None:
            key = self.run(self.servers[server].get("k"))
            assert key.version >= max(self.newest, 1)
            assert key.condition == self.condition

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
    for module in (deletion, changes):
        monkeypatch.setattr(module, "time", CLOCK)
    run_state_machine_as_test(Versions, settings=scaled(40))

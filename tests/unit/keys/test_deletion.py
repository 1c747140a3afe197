"""Keys whose deletion is scheduled: who deletes them, and what crashes and other servers can do meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest

from kes_core.keys import changes, deletion
from kes_core.keys.cache import KeyCache
from kes_core.keys.changes import KeyDoomedError, with_state
from kes_core.keys.deletion import LEASE, DeletionSchedule, delete_due, planned, restored
from kes_core.keys.secret import CiphertextError
from kes_core.keys.stored import KeyState, KeyVersion, Revision, StateChange, StoredKeyError, Timestamp, decode_later
from kes_core.keystore import EntryNotFoundError
from tests.helpers.shared_store import CrashError, Store, made, run, sealed, set_condition, set_state

SOON = int(time.time()) + 1000
LATER = SOON + 1000


class Clock:
    """The time of day, for the modules that read it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        for module in (deletion, changes):
            monkeypatch.setattr(module, "time", self)

    def time(self) -> float:
        return self.now

    @staticmethod
    def monotonic() -> float:
        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def sweep(cache: KeyCache, schedule: DeletionSchedule | None = None) -> list[bool]:
    """Let a server delete what is due; return what it says of each key that is to be deleted."""
    found = await (schedule or DeletionSchedule()).read(cache.store)
    return [await delete_due(cache.store, found=each) for each in found]


def test_key_is_deleted_after_its_time_and_not_before(clock: Clock) -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=3)
        await made(server, "other", versions=2)
        await set_condition(server, planned(SOON))
        assert (await server.get("k")).state is KeyState.SCHEDULED_FOR_DELETION
        assert await sweep(server) == [False]
        assert len(store.entries) == 6
        clock.now = SOON
        assert await sweep(store.server()) == [True]
        assert {entry[:5] for entry in store.entries} == {"other"}
        assert len(store.entries) == 2

    run(check)


def test_undeleted_key_has_its_earlier_state_and_all_its_versions(clock: Clock) -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=2)
        ciphertext = await sealed(server)
        for state in (KeyState.ENABLED, KeyState.DECRYPT_ONLY, KeyState.DISABLED):
            await set_state(server, state)
            await set_condition(server, planned(SOON))
            await set_condition(server, planned(LATER))
            assert (await store.server().get("k")).condition.delete_at == LATER
            assert (await set_condition(server, restored)).state is state
        clock.now = LATER + 1
        assert await sweep(server) == []
        assert (await server.get("k")).key.decrypt(ciphertext) == b"text"

    run(check)


def test_scheduled_key_is_neither_changed_nor_rotated() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server)
        await set_condition(server, planned(SOON))
        for state in (KeyState.ENABLED, KeyState.DISABLED):
            with pytest.raises(KeyDoomedError, match="is scheduled for deletion"):
                await set_condition(server, with_state(state))
        with pytest.raises(KeyDoomedError):
            await server.rotate("k", "me")
        assert len(store.entries) == 2
        await server.delete("k")  # a client need not wait
        assert store.entries == []

    run(check)


def test_of_several_servers_one_deletes_and_none_touches_a_new_key(clock: Clock) -> None:
    """At each call of the slower server, the faster one deletes the key and a client creates a new one."""

    async def race(moment: int) -> bool:
        store = Store()
        slow, fast = store.server(), store.server()
        await made(slow, versions=2)
        await set_condition(slow, planned(SOON))
        clock.now = SOON
        calls = 0
        outcome: list[bool] = []

        async def overtake(_call: str, _name: str) -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                outcome.extend(await sweep(fast))
                if outcome == [True]:
                    await made(fast, versions=2)

        store.before = overtake
        slowly = await sweep(slow)
        store.before = None
        if not outcome:
            assert slowly == [True]
            return False
        assert (outcome + slowly).count(True) == 1
        if outcome == [True]:
            assert (await store.server().get("k")).version == 2
            assert len(store.entries) == 2
        else:
            assert store.entries == []
        return True

    async def check() -> None:
        moment = 1
        while await race(moment):
            moment += 1
        assert moment > 10

    asyncio.run(check())


def test_undeletion_at_the_last_moment_wins_or_is_refused(clock: Clock) -> None:
    async def race(moment: int) -> bool:
        store = Store()
        server, other = store.server(), store.server()
        await made(server, versions=2)
        await set_condition(server, planned(SOON))
        clock.now = SOON
        calls = 0
        outcome = ""

        async def undelete(_call: str, _name: str) -> None:
            nonlocal calls, outcome
            calls += 1
            if calls == moment:
                try:
                    outcome = (await set_condition(other, restored)).state.label
                except (KeyDoomedError, EntryNotFoundError) as error:
                    outcome = type(error).__name__

        store.before = undelete
        deleted = await sweep(server)
        store.before = None
        if outcome == "enabled":
            assert True not in deleted
            assert (await store.server().get("k")).state is KeyState.ENABLED
        else:
            assert deleted == [True]
            assert store.entries == []
        return bool(outcome)

    async def check() -> None:
        moment = 1
        while await race(moment):
            moment += 1
        assert moment > 10

    asyncio.run(check())


def test_another_server_continues_after_a_crash(clock: Clock) -> None:
    """A server dies before or after each call; another one completes the deletion when the first one's time is over."""

    async def die(moment: int, *, done: bool) -> bool:
        store = Store()
        server = store.server()
        await made(server, versions=3)
        ciphertext = await sealed(server)
        await set_condition(server, planned(SOON))
        clock.now = SOON
        store.crash_at = (len(store.calls) + moment, done)
        try:
            await sweep(server)
        except CrashError:
            has_died = True
        else:
            has_died = False
        store.crash_at = None
        other = store.server()
        clock.now += LEASE + 1
        await sweep(other)
        assert store.entries == []
        await made(other)
        with pytest.raises(CiphertextError):
            (await other.get("k")).key.decrypt(ciphertext)
        return has_died

    async def check() -> None:
        for done in (False, True):
            moment = 1
            while await die(moment, done=done) or moment < 30:
                moment += 1

    asyncio.run(check())


def test_rest_of_a_deletion_is_removed_beside_a_new_key(clock: Clock) -> None:
    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=2)
        await set_condition(server, planned(SOON))
        clock.now = SOON
        value = await store.get("k")
        first = [found.first for found in await DeletionSchedule().read(server.store)]
        store.crash_at = None

        async def die_after_the_first(call: str, name: str) -> None:
            if call == "delete" and name != "k":
                raise CrashError

        store.before = die_after_the_first
        with pytest.raises(CrashError):
            await sweep(server)
        store.before = None
        await made(server, versions=2)
        assert await store.get("k") != value
        clock.now += LEASE + 1
        assert await sweep(store.server()) == [False]
        assert not [entry for entry in store.entries if first[0] in entry]
        assert len(store.entries) == 2

    run(check)


def test_key_that_is_just_being_copied_is_left_alone(clock: Clock) -> None:
    """A migration writes the later entries first: without the first entry, a scheduled key is no rest of a deletion."""

    async def check(store: Store) -> None:
        server = store.server()
        await made(server, versions=2)
        await set_condition(server, planned(SOON))
        clock.now = SOON
        del store._values["k"]
        before = store.entries
        assert await sweep(server) == [False]
        assert store.entries == before

    run(check)


def test_each_entry_is_read_once() -> None:
    async def check(store: Store) -> None:
        server = store.server()
        for number in range(5):
            await made(server, f"k{number}", versions=3)
        await made(server)
        await set_condition(server, planned(SOON))
        schedule = DeletionSchedule()
        store.calls.clear()
        assert [found.key for found in await schedule.read(server.store)] == ["k"]
        assert len(store.calls) == 6  # one entry of each key that has more than one
        store.calls.clear()
        assert [(found.key, found.asked_by) for found in await schedule.read(server.store)] == [("k", "me")]
        assert store.calls == []
        await set_condition(server, restored)
        assert await schedule.read(server.store) == []

    run(check)


@pytest.mark.parametrize(
    ("state", "delete_at"),
    [(KeyState.SCHEDULED_FOR_DELETION, 0), (KeyState.DELETING, 2**63), (KeyState.ENABLED, 5)],
)
def test_time_that_does_not_fit_the_state_is_refused(state: KeyState, delete_at: int) -> None:
    value = StateChange(state, Timestamp(), "", Revision(2, 1, bytes(32)), delete_at).encode()
    with pytest.raises(StoredKeyError, match="the time of the deletion is not valid"):
        decode_later(value)


def test_oldest_version_that_decrypts_is_one_of_the_key() -> None:
    value = StateChange(KeyState.ENABLED, Timestamp(), "", Revision(3, 2, bytes(32)), 0, 3).encode()
    with pytest.raises(StoredKeyError, match="the oldest version that decrypts is not one of the key"):
        decode_later(value)


def test_entry_reads_as_it_was_written() -> None:
    change = StateChange(KeyState.SCHEDULED_FOR_DELETION, Timestamp(5), "me", Revision(2, 1, bytes(32)), SOON, 1)
    assert decode_later(change.encode()) == change
    assert KeyVersion.generate("me").condition == KeyVersion.condition

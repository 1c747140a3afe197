"""Key stores that behave wrongly on purpose: in races and outages, when cancelled, and in what they reveal."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from kes_core import Credential, EntryExistsError, EntryNotFoundError, KeyStore, KeyStoreUnreachableError, Page
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.keystore import PAGE_SIZE
from kes_core.testing import KeyStoreContract
from tests.conformance.mutant_stores import PATIENT, Mutant

TOKEN = "a-token-that-nobody-may-see"

# Concurrency, cancellation, slowness


class TestChecksThenWrites(Mutant):
    breaks = "concurrent_creates_have_one_winner"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name in self._values:
                raise EntryExistsError(f"key {name!r} already exists")
            await asyncio.sleep(0)
            self._values[name] = value


class TestIsSlow(Mutant):
    breaks = "calls_are_fast"
    longest_call = 0.1

    class Subject(MemoryKeyStore):
        async def status(self) -> None:
            await asyncio.sleep(0.2)


class TestMixesUpValues(Mutant):
    breaks = "concurrent_creates_have_one_winner concurrent_creates_of_different_keys"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            self._latest = value
            await asyncio.sleep(0)
            await super().create(name, self._latest)


class TestShowsHalves(Mutant):
    breaks = "get_during_create cancelled_create"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value[: len(value) // 2])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._values[name] = value


class TestLeavesHalves(Mutant):
    breaks = "cancelled_create"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            try:
                await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                self._values.setdefault(name, value[: len(value) // 2])
                raise
            await super().create(name, value)


class TestKeepsItsLock(Mutant):
    breaks = "store_works_after_cancelled_calls"
    time_limit = 1.5

    class Subject(MemoryKeyStore):
        def __init__(self) -> None:
            super().__init__()
            self._lock = asyncio.Lock()

        async def status(self) -> None:
            await self._lock.acquire()
            await asyncio.sleep(0.001)
            self._lock.release()


class TestBlocks(Mutant):
    breaks = "calls_do_not_block"
    longest_block = 0.1

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if len(value) == 1 << 16:
                time.sleep(0.15)  # noqa: ASYNC251 # the mistake
            await super().create(name, value)


class TestHangs(Mutant):
    breaks = (
        "calls_are_fast status_while_store_works store_works_after_cancelled_calls calls_do_not_block "
        "errors_show_no_value log_shows_no_value"
    )
    time_limit = 0.8

    class Subject(MemoryKeyStore):
        async def status(self) -> None:
            await asyncio.Event().wait()


class TestClosesOnce(Mutant):
    breaks = "close_twice"

    class Subject(MemoryKeyStore):
        async def close(self) -> None:
            del self._values


# Secrets


class TestShowsValuesInRepr(Mutant):
    breaks = "repr_shows_no_value"

    class Subject(MemoryKeyStore):
        def __repr__(self) -> str:
            return f"<Store {self._values}>"


class TestShowsValuesInErrors(Mutant):
    breaks = "errors_show_no_value"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name in self._values:
                raise EntryExistsError(f"{name!r} is {base64.urlsafe_b64encode(b'of ' + value)[:70]!r} already")
            self._values[name] = value


class TestShowsValuesInCauses(Mutant):
    breaks = "errors_show_no_value"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name in self._values:
                try:
                    int(value.hex() + "h")
                except ValueError:
                    raise EntryExistsError(f"key {name!r} already exists") from None
            self._values[name] = value


class TestLogsValues(Mutant):
    breaks = "log_shows_no_value"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            logging.getLogger("mutant").debug("create %s = %r", name, value)
            await super().create(name, value)


class TestSaysNothing(Mutant):
    breaks = "messages_of_errors"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            if name not in self._values:
                raise EntryNotFoundError
            return self._values[name]


# Stores with optional features: persistent data, a server that may be unreachable, a credential


class RemoteStore(MemoryKeyStore):
    """Keeps its keys in a dictionary that it shares with other stores; fails while `down` is set."""

    def __init__(self, server: dict[str, bytes]) -> None:
        super().__init__()
        self._values = server
        self.token = TOKEN
        self.down = False

    def _ask(self) -> None:
        if self.down:
            raise KeyStoreUnreachableError("the server can't be reached")

    async def status(self) -> None:
        self._ask()

    async def create(self, name: str, value: bytes) -> None:
        self._ask()
        await super().create(name, value)

    async def get(self, name: str) -> bytes:
        self._ask()
        return await super().get(name)

    async def delete(self, name: str) -> None:
        self._ask()
        await super().delete(name)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        self._ask()
        return await super().list(prefix, start=start, limit=limit)

    async def close(self) -> None:
        """Keep the data."""


class RemoteMutant(KeyStoreContract):
    Subject: ClassVar[type[RemoteStore]]
    breaks: ClassVar[str] = ""
    time_limit = 5.0

    async def make_store(self) -> RemoteStore:
        self.server: dict[str, bytes] = {}
        return self.Subject(self.server)

    async def reopen(self, store: KeyStore) -> RemoteStore:
        return self.Subject(self.server)

    @contextlib.asynccontextmanager
    async def make_unreachable(self, store: KeyStore) -> AsyncIterator[None]:
        assert isinstance(store, RemoteStore)
        store.down = True
        yield
        store.down = False

    def secrets(self) -> Sequence[str]:
        return [TOKEN]


class TestSoundRemote(RemoteMutant):
    time_limit = PATIENT
    Subject = RemoteStore


class TestForgets(RemoteMutant):
    breaks = "reopened_store_has_its_keys reopened_store_refuses_taken_names"

    class Subject(RemoteStore):
        async def close(self) -> None:
            self._values.clear()


class TestBringsBackWhatWasDeleted(RemoteMutant):
    breaks = "reopened_store_lacks_deleted_keys"

    class Subject(RemoteStore):
        def __init__(self, server: dict[str, bytes]) -> None:
            super().__init__(server)
            self._deleted: dict[str, bytes] = {}

        async def delete(self, name: str) -> None:
            value = self._values.get(name, b"")
            await super().delete(name)
            self._deleted[name] = value

        async def close(self) -> None:
            self._values |= self._deleted


class TestReadsOnceOnly(RemoteMutant):
    breaks = "two_stores_see_each_other concurrent_creates_by_two_stores"

    class Subject(RemoteStore):
        def __init__(self, server: dict[str, bytes]) -> None:
            super().__init__(dict(server))
            self._server = server

        async def close(self) -> None:
            self._server.clear()
            self._server |= self._values


class TestListsNothingWhileDown(RemoteMutant):
    breaks = "unreachable_store_says_so"

    class Subject(RemoteStore):
        async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
            return Page([], "") if self.down else await super().list(prefix, start=start, limit=limit)


class TestRaisesConnectionError(RemoteMutant):
    breaks = "unreachable_store_says_so"

    class Subject(RemoteStore):
        def _ask(self) -> None:
            if self.down:
                raise ConnectionRefusedError("the server can't be reached")


class TestNeverRecovers(RemoteMutant):
    breaks = "store_works_after_outage"

    class Subject(RemoteStore):
        _lost = False

        def _ask(self) -> None:
            self._lost |= self.down
            if self._lost:
                raise KeyStoreUnreachableError("the server can't be reached")


class TestShowsItsToken(RemoteMutant):
    breaks = "store_shows_no_credential outage_shows_no_secret"

    class Subject(RemoteStore):
        def __repr__(self) -> str:
            return f"<Store with {self.token}>"


class TestLendsItsToken(RemoteMutant):
    breaks = "credentials_are_facts"

    class Subject(RemoteStore):
        def credentials(self) -> Sequence[Credential]:
            return [Credential("token"), Credential(self.token.replace("-", "_"))]

    def secrets(self) -> Sequence[str]:
        return [TOKEN, TOKEN.replace("-", "_")]


class TestCountsInWords(RemoteMutant):
    breaks = "credentials_are_facts"

    class Subject(RemoteStore):
        def credentials(self) -> Sequence[Credential]:
            return [Credential("token", expires_at="tomorrow")]  # type: ignore[arg-type] # the mistake


class TestShowsItsTokenWhileDown(RemoteMutant):
    breaks = "outage_shows_no_secret"

    class Subject(RemoteStore):
        def _ask(self) -> None:
            if self.down:
                raise KeyStoreUnreachableError("no answer") from ConnectionError(f"Authorization: {self.token}")

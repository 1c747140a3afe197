"""Key stores that are broken on purpose in how they behave: in races and outages, when cancelled, in what they tell."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from kes_core import KeyExistsError, KeyNotFoundError, KeyStore, KeyStoreUnreachableError, Page
from kes_core.keystore import PAGE_SIZE
from kes_core.memory import MemoryKeyStore
from kes_core.testing import KeyStoreContract
from tests.conformance.mutant_stores import Mutant

TOKEN = "a-token-that-nobody-may-see"

# At once, given up, slow


class TestChecksThenWrites(Mutant):
    breaks = "KS-RACE-1"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name in self._values:
                raise KeyExistsError(f"key {name!r} already exists")
            await asyncio.sleep(0)
            self._values[name] = value


class TestMixesUpValues(Mutant):
    breaks = "KS-RACE-1 KS-RACE-3"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            self._latest = value
            await asyncio.sleep(0)
            await super().create(name, self._latest)


class TestShowsHalves(Mutant):
    breaks = "KS-RACE-2 KS-CANCEL-1"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value[: len(value) // 2])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._values[name] = value


class TestLeavesHalves(Mutant):
    breaks = "KS-CANCEL-1"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            try:
                await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                self._values.setdefault(name, value[: len(value) // 2])
                raise
            await super().create(name, value)


class TestKeepsItsLock(Mutant):
    breaks = "KS-CANCEL-2"
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
    breaks = "KS-LOOP-1"
    longest_block = 0.1

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if len(value) == 1 << 16:
                time.sleep(0.15)  # noqa: ASYNC251 # the mistake
            await super().create(name, value)


class TestHangs(Mutant):
    breaks = "KS-STATUS-1 KS-CANCEL-2 KS-LOOP-1 KS-SECRET-2 KS-SECRET-3"
    time_limit = 1.5

    class Subject(MemoryKeyStore):
        async def status(self) -> None:
            await asyncio.Event().wait()


class TestClosesOnce(Mutant):
    breaks = "KS-CLOSE-1"

    class Subject(MemoryKeyStore):
        async def close(self) -> None:
            del self._values


# Secrets


class TestShowsValuesInRepr(Mutant):
    breaks = "KS-SECRET-1"

    class Subject(MemoryKeyStore):
        def __repr__(self) -> str:
            return f"<Store {self._values}>"


class TestShowsValuesInErrors(Mutant):
    breaks = "KS-SECRET-2"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name in self._values:
                raise KeyExistsError(f"{name!r} is {base64.urlsafe_b64encode(b'of ' + value)[:70]!r} already")
            self._values[name] = value


class TestShowsValuesInCauses(Mutant):
    breaks = "KS-SECRET-2"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name in self._values:
                try:
                    int(value.hex() + "h")
                except ValueError:
                    raise KeyExistsError(f"key {name!r} already exists") from None
            self._values[name] = value


class TestLogsValues(Mutant):
    breaks = "KS-SECRET-3"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            logging.getLogger("mutant").debug("create %s = %r", name, value)
            await super().create(name, value)


class TestSaysNothing(Mutant):
    breaks = "KS-ERROR-2"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            if name not in self._values:
                raise KeyNotFoundError
            return self._values[name]


# Stores with what is optional: data that outlive them, a server that may be away, a credential


class RemoteStore(MemoryKeyStore):
    """Keeps its keys in a dictionary that other stores use too, unless it is down."""

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
        """Leave the data where they are."""


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
    Subject = RemoteStore


class TestForgets(RemoteMutant):
    breaks = "KS-DURABLE-1 KS-DURABLE-2"

    class Subject(RemoteStore):
        async def close(self) -> None:
            self._values.clear()


class TestBringsBackWhatWasDeleted(RemoteMutant):
    breaks = "KS-DURABLE-3"

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
    breaks = "KS-DURABLE-4 KS-DURABLE-5"

    class Subject(RemoteStore):
        def __init__(self, server: dict[str, bytes]) -> None:
            super().__init__(dict(server))
            self._server = server

        async def close(self) -> None:
            self._server.clear()
            self._server |= self._values


class TestListsNothingWhileDown(RemoteMutant):
    breaks = "KS-UNREACHABLE-1"

    class Subject(RemoteStore):
        async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
            return Page([], "") if self.down else await super().list(prefix, start=start, limit=limit)


class TestRaisesConnectionError(RemoteMutant):
    breaks = "KS-UNREACHABLE-1"

    class Subject(RemoteStore):
        def _ask(self) -> None:
            if self.down:
                raise ConnectionRefusedError("the server can't be reached")


class TestNeverRecovers(RemoteMutant):
    breaks = "KS-UNREACHABLE-2"

    class Subject(RemoteStore):
        _lost = False

        def _ask(self) -> None:
            self._lost |= self.down
            if self._lost:
                raise KeyStoreUnreachableError("the server can't be reached")


class TestShowsItsToken(RemoteMutant):
    breaks = "KS-SECRET-4 KS-SECRET-5"

    class Subject(RemoteStore):
        def __repr__(self) -> str:
            return f"<Store with {self.token}>"


class TestShowsItsTokenWhileDown(RemoteMutant):
    breaks = "KS-SECRET-5"

    class Subject(RemoteStore):
        def _ask(self) -> None:
            if self.down:
                raise KeyStoreUnreachableError("no answer") from ConnectionError(f"Authorization: {self.token}")

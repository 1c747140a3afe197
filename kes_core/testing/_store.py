"""The base class of the clauses of key stores, and the store of one clause."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final

from kes_core.keystore import MAX_VALUE_SIZE, PAGE_SIZE, KeyStore, StoreCapabilities
from kes_core.testing._clause import Suite, credentials_of, is_defined, optional
from kes_core.testing._patience import PatientStore
from kes_core.testing._running import ExcludedError, HookError, fail_hook

__all__ = ["StoreSuite", "StoreTrial"]

CLOSE_TIME: Final = 5.0
"""Seconds that a store has to close after its clause."""


class StoreSuite(Suite):
    """The methods that the author of a key store defines."""

    many_keys: ClassVar[int] = PAGE_SIZE + 6
    """The number of keys that one clause creates to fill more than a page: less for a service that costs money."""

    async def make_store(self) -> KeyStore:
        """Return a new, empty store. The kit calls this once per clause, and closes the store."""
        raise NotImplementedError("define make_store() in the test class: it returns an empty store")

    @optional
    async def reopen(self, store: KeyStore) -> KeyStore:
        """Return another store on the data of `store`, which may be open or closed. Optional: for persistent stores."""
        raise NotImplementedError

    @optional
    async def destroy_store(self, store: KeyStore) -> None:
        """Delete what `make_store` made, such as the keys in a service. Optional. `store` is closed."""
        raise NotImplementedError

    @optional
    def make_unreachable(self, store: KeyStore) -> AbstractAsyncContextManager[object]:
        """Return a context manager that makes the service behind `store` unreachable while it is active. Optional."""
        raise NotImplementedError

    def _make_trial(self) -> StoreTrial:
        return StoreTrial(self)


class StoreTrial:
    """The store that one clause tests. It is empty at first."""

    def __init__(self, suite: StoreSuite) -> None:
        self._suite = suite
        self._made: list[KeyStore] = []
        self._patient: list[PatientStore] = []
        self._open: list[PatientStore] = []
        self.store: PatientStore
        self.log = suite.kes_log
        self.longest_block = suite.longest_block
        self.longest_call = suite.longest_call
        self.many_keys = suite.many_keys

    @property
    def subject(self) -> KeyStore:
        """The store of the author."""
        return self.store.raw

    async def begin(self) -> None:
        """Create the store."""
        self.store = await self._make("make_store", self._suite.make_store)

    def check_capability(self, name: str) -> None:
        """Raise `ExcludedError` if the store states the capability `name`."""
        if getattr(self.store.capabilities, name) != getattr(StoreCapabilities(), name):
            raise ExcludedError(name)

    def pace(self) -> str:
        """Return how many calls the clause made, and how long they took, if they took most of its time."""
        calls = sum(store.calls for store in self._patient)
        seconds = sum(store.seconds for store in self._patient)
        if seconds < self._suite.time_limit / 2:  # it hangs elsewhere
            return ""
        return f"; {calls} calls took {seconds / calls:.2g} s each: if the service is that slow, set time_limit"

    @property
    def max_value_size(self) -> int:
        """The size in bytes up to which the store has to accept values."""
        return min(MAX_VALUE_SIZE, self.store.capabilities.max_value_size)

    def usable(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that the store can hold.

        Raises:
            ExcludedError: It can hold none of them.
        """
        found = [name for name in names if not self.store.capabilities.problem_of_name(name)]
        if not found:
            raise ExcludedError("name_pattern")
        return found

    async def reopen(self) -> PatientStore:
        """Return another store on the same data."""
        return await self._make("reopen", lambda: self._suite.reopen(self.store.raw))

    async def _make(self, method: str, make: Callable[[], Awaitable[KeyStore]]) -> PatientStore:
        try:
            store = await make()
        except Exception as error:
            raise HookError(f"{method}() failed") from error
        if not isinstance(store, KeyStore):
            fail_hook(f"{method}() of the test class returned a {type(store).__name__}; expected a KeyStore")
        if not isinstance(store.capabilities, StoreCapabilities):
            fail_hook(f"the capabilities of the store are a {type(store.capabilities).__name__}")
        self._made.append(store)
        self._patient.append(PatientStore(store, self._open))
        return self._patient[-1]

    @contextlib.asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Make the store unreachable while the context is active."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._suite.make_unreachable(self.store.raw))
            except Exception as error:
                raise HookError("make_unreachable() failed") from error
            yield

    def credentials(self) -> list[bytes]:
        """Return the credentials of the store that the author named."""
        return credentials_of(self._suite)

    async def end(self, *, kept: bool) -> None:  # it matters only to sinks
        """Close all stores. Ignore errors: only one clause tests `close`."""
        for store in self._made:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIME):
                    await store.close()
        if self._made and is_defined(type(self._suite), "destroy_store"):
            try:
                await self._suite.destroy_store(self._made[0])
            except Exception as error:
                raise HookError("destroy_store() failed") from error

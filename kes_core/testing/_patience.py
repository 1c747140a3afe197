"""A store of a clause behind what the server does for it: turns, repetitions, and waiting for late changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kes_core.boundary.stores import sorted_page
from kes_core.keystore import (
    PAGE_SIZE,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreThrottledError,
    Page,
)
from kes_core.names import is_valid_entry
from kes_core.testing._running import BrokenError

__all__ = ["PatientStore"]

TRIES: Final = 8
"""How often a call is made while the store has too many requests."""
PAUSE: Final = 0.05
"""The first pause in seconds; each further one is twice as long."""
LONGEST_PAUSE: Final = 1.0


class PatientStore(KeyStore):
    """Passes calls on to a store, within its capabilities. Looks like the store in `repr()`.

    If the store is eventually consistent, a change returns when all stores of the clause show it.
    """

    def __init__(self, store: KeyStore, open_stores: list[PatientStore]) -> None:
        """Wrap `store`, and add it to `open_stores`: those that have to show a change."""
        self.raw = store
        self._open = open_stores
        open_stores.append(self)
        self.capabilities = store.capabilities
        most = store.capabilities.max_concurrency
        self._turn: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(most) if most else contextlib.nullcontext()
        )
        self.calls = 0
        """How many calls have returned or raised."""
        self.seconds = 0.0
        """How long they took."""
        self.waited = 0.0
        """Seconds for which the kit waited between calls, as the server does."""

    def __repr__(self) -> str:
        return repr(self.raw)

    def __str__(self) -> str:
        return str(self.raw)

    async def status(self) -> None:
        await self._timed(self.raw.status)

    async def create(self, name: str, value: bytes) -> None:
        try:
            await self._call(lambda: self.raw.create(name, value))
        except EntryExistsError:
            await self._settle(name, exists=True)
            raise
        await self._settle(name, exists=True)

    async def get(self, name: str) -> bytes:
        return await self._call(lambda: self.raw.get(name))  # type: ignore[no-any-return]

    async def delete(self, name: str) -> None:
        await self._call(lambda: self.raw.delete(name))
        await self._settle(name, exists=False)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        page = await self._call(lambda: self.raw.list(prefix, start=start, limit=limit))
        if not self.capabilities.ordered and isinstance(page, tuple):
            return sorted_page(page, prefix, start, limit)  # type: ignore[no-any-return]
        return page  # type: ignore[no-any-return]

    async def close(self) -> None:
        if self in self._open:
            self._open.remove(self)
        await self.raw.close()

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        pause = PAUSE
        for remaining in reversed(range(TRIES)):
            try:
                async with self._turn:
                    return await self._timed(call)
            except KeyStoreThrottledError as error:
                if not remaining:
                    raise
                wait = pause if error.retry_after is None else error.retry_after
            await self._wait(wait)
            pause *= 2
        raise AssertionError

    async def _timed(self, call: Callable[[], Awaitable[Any]]) -> Any:
        started = time.monotonic()
        try:
            result = await call()
        except Exception:
            self._count(started)
            raise
        self._count(started)
        return result

    def _count(self, started: float) -> None:
        self.calls += 1
        self.seconds += time.monotonic() - started

    async def _settle(self, name: str, *, exists: bool) -> None:
        """Wait until every store shows a change.

        Raises:
            BrokenError: The time for that is over.
        """
        late = self.capabilities.eventually_consistent
        if not late or not is_valid_entry(name):  # a store may do anything with a name that the server never uses
            return
        began, pause = time.monotonic(), PAUSE
        while not all([await _shows(store, name, exists=exists) for store in [*self._open]]):
            if time.monotonic() >= began + late:
                what = f"create({name!r}), the key is not there" if exists else f"delete({name!r}), the key is there"
                raise BrokenError(f"{late:g} s (eventually_consistent) after {what}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self.waited += time.monotonic() - began

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.waited += seconds


async def _shows(store: KeyStore, name: str, *, exists: bool) -> bool:
    """Return whether a read and a listing of a store agree that a key exists, or that it does not."""
    try:
        await store.get(name)
        found = True
    except EntryNotFoundError:
        found = False
    page = await store.list(name, start=name, limit=1)
    return found is exists and (name in page.names) is exists

"""What the check of a key store's clause works with, and where the checks are registered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from kes_core.keystore import KeyStore
from kes_core.testing._running import HookError, fail_hook

if TYPE_CHECKING:
    import pytest

    from kes_core.testing.stores import KeyStoreContract

__all__ = ["STORE_CHECKS", "StoreCheck", "StoreTrial", "fill", "store_check"]

CLOSE_TIME: Final = 5.0
AT_ONCE: Final = 32
"""How many calls are under way at once where many are made."""


class StoreTrial:
    """A store to be tried, empty at first."""

    def __init__(
        self, suite: KeyStoreContract, log: pytest.LogCaptureFixture, secrets: Callable[[], Iterable[str]]
    ) -> None:
        self._suite = suite
        self._made: list[KeyStore] = []
        self.store: KeyStore
        self.log = log
        self._secrets = secrets
        self.longest_block = suite.longest_block

    async def begin(self) -> None:
        """Make the store."""
        self.store = await self._make("make_store", self._suite.make_store)

    async def reopen(self) -> KeyStore:
        """Return another store on the same data."""
        return await self._make("reopen", lambda: self._suite.reopen(self.store))

    async def _make(self, method: str, make: Callable[[], Awaitable[KeyStore]]) -> KeyStore:
        try:
            store = await make()
        except Exception as error:
            raise HookError(f"{method}() failed") from error
        if not isinstance(store, KeyStore):
            fail_hook(f"{method}() of the test class returned a {type(store).__name__}; expected a KeyStore")
        self._made.append(store)
        return store

    @contextlib.asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Be in the context in which the store does not answer."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._suite.make_unreachable(self.store))
            except Exception as error:
                raise HookError("make_unreachable() failed") from error
            yield

    def credentials(self) -> list[bytes]:
        """Return the credentials of the store, if the author named them."""
        try:
            return [secret.encode() for secret in self._secrets()]
        except Exception as error:
            raise HookError("secrets() failed") from error

    async def end(self) -> None:
        """Close all stores. Whether that works is the business of one clause only."""
        for store in self._made:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIME):
                    await store.close()


StoreCheck = Callable[[StoreTrial], Awaitable[None]]

STORE_CHECKS: Final[dict[str, StoreCheck]] = {}
"""How each clause is checked, by its number."""


def store_check(clause: str) -> Callable[[StoreCheck], StoreCheck]:
    """Register the check of a clause."""

    def register(function: StoreCheck) -> StoreCheck:
        STORE_CHECKS[clause] = function
        return function

    return register


async def fill(store: KeyStore, names: Iterable[str], value: bytes = b"value") -> None:
    """Create keys, many at once."""
    waiting = iter(names)

    async def create() -> None:
        for name in waiting:
            await store.create(name, value)

    await asyncio.gather(*(create() for _ in range(AT_ONCE)))

"""The in-memory key store, for development and tests. Its keys are lost when the process exits."""

from __future__ import annotations

from collections.abc import Sequence

from kes_core.config import Section
from kes_core.hookspecs import KeyStoreBackend, PluginContext, hookimpl
from kes_core.keystore import PAGE_SIZE, EntryExistsError, EntryNotFoundError, KeyStore, Page, page_of

__all__ = ["MemoryKeyStore"]

kes_hookspec_version = 1


class MemoryKeyStore(KeyStore):
    """Keeps keys in a dictionary."""

    check_interval = 0.0

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    async def status(self) -> None:
        return

    async def create(self, name: str, value: bytes) -> None:
        if name in self._values:
            raise EntryExistsError(f"key {name!r} already exists")
        self._values[name] = value

    async def get(self, name: str) -> bytes:
        try:
            return self._values[name]
        except KeyError:
            raise EntryNotFoundError(f"key {name!r} does not exist") from None

    async def delete(self, name: str) -> None:
        if self._values.pop(name, None) is None:
            raise EntryNotFoundError(f"key {name!r} does not exist")

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return page_of(self._values, prefix, start=start, limit=limit)

    async def close(self) -> None:
        self._values.clear()


class MemoryConfig(Section):
    """The section `keystore.memory`. It has no fields."""


async def _connect(_config: MemoryConfig, _context: PluginContext) -> MemoryKeyStore:
    return MemoryKeyStore()


@hookimpl
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:
    return [KeyStoreBackend(name="memory", config=MemoryConfig, connect=_connect, persistent=False)]

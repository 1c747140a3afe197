"""The in-memory store keeps the contract of key stores."""

from __future__ import annotations

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.testing import KeyStoreContract


class TestMemoryStore(KeyStoreContract):
    """The store is not persistent and is never unreachable."""

    async def make_store(self) -> MemoryKeyStore:
        return MemoryKeyStore()

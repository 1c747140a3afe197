"""The filesystem store keeps the contract of key stores."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from kes_core import KeyStore
from kes_core.testing import KeyStoreContract
from kes_fs.store import FileKeyStore


class TestFileStore(KeyStoreContract):
    async def make_store(self) -> FileKeyStore:
        return await FileKeyStore.open(self.tmp_path / "keys")

    async def reopen(self, store: KeyStore) -> FileKeyStore:
        return await FileKeyStore.open(self.tmp_path / "keys")

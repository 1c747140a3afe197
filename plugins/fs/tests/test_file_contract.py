"""The filesystem store keeps the contract of key stores."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kes_core import KeyStore
from kes_core.testing import KeyStoreContract
from kes_fs.store import FileKeyStore


class TestFileStore(KeyStoreContract):
    async def make_store(self) -> FileKeyStore:
        return await FileKeyStore.open(self.tmp_path / "keys")

    async def reopen(self, store: KeyStore) -> FileKeyStore:
        return await FileKeyStore.open(self.tmp_path / "keys")

    @contextlib.asynccontextmanager
    async def make_unreachable(self, store: KeyStore) -> AsyncIterator[None]:
        """Fail like a network file system that has lost its server, a state in which a test can't put a real one."""

        def fail(*_arguments: Any, **_options: Any) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with pytest.MonkeyPatch.context() as patch:
            for function in ("open", "scandir"):
                patch.setattr(f"kes_fs.store.os.{function}", fail)
            patch.setattr("kes_fs.store.Path.lstat", fail)
            yield

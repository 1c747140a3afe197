"""The contract of key stores on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
from kes_core import KeyStore
from kes_core.testing import KeyStoreContract

from conftest import PostgreSQL
from kes_sql import SQLConfig
from kes_sql.store import SQLKeyStore


class TestSQLite(KeyStoreContract):
    longest_block = 2.0

    async def make_store(self) -> KeyStore:
        self.config = SQLConfig.model_validate({"url": f"sqlite:///{self.tmp_path}/keys.db"})
        return await SQLKeyStore.open(self.config)

    async def reopen(self, store: KeyStore) -> KeyStore:
        return await SQLKeyStore.open(self.config)


class TestPostgreSQL(KeyStoreContract):
    longest_block = 2.0
    time_limit = 40.0
    tables: ClassVar[itertools.count[int]] = itertools.count()

    @pytest.fixture(autouse=True)
    def _server(self, postgres: PostgreSQL) -> None:
        self.postgres = postgres

    async def make_store(self) -> KeyStore:
        section = {"url": self.postgres.url, "table": f"keys_{next(self.tables)}"}
        self.config = SQLConfig.model_validate(section)
        return await SQLKeyStore.open(self.config)

    async def reopen(self, store: KeyStore) -> KeyStore:
        return await SQLKeyStore.open(self.config)

    @contextlib.asynccontextmanager
    async def make_unreachable(self, store: KeyStore) -> AsyncIterator[None]:
        await asyncio.to_thread(self.postgres.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(self.postgres.start)

    def secrets(self) -> list[str]:
        return [self.postgres.password]

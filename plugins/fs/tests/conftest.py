"""Fixtures for the tests of the filesystem key store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kes_fs.store import FileKeyStore

Run = Callable[[Callable[[FileKeyStore], Awaitable[None]]], None]
OpenAndClose = Callable[[Path], Coroutine[Any, Any, list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a test on a store in a new directory."""

    def run(check: Callable[[FileKeyStore], Awaitable[None]]) -> None:
        async def start() -> None:
            store = await FileKeyStore.open(tmp_path / "keys")
            try:
                await check(store)
            finally:
                await store.close()

        asyncio.run(start())

    return run


@pytest.fixture(scope="session")
def open_and_close() -> OpenAndClose:
    """Open the store in a directory like a starting server, close it, and return the names of its keys."""

    async def open_and_close(path: Path) -> list[str]:
        store = await FileKeyStore.open(path)
        try:
            return (await store.list()).names
        finally:
            await store.close()

    return open_and_close

"""One use of the AWS store: connect, call, close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from kes_aws.config import SecretsManagerConfig
from kes_aws.store import SecretsManagerKeyStore, connect
from kes_core import KeyStoreError, PluginContext

T = TypeVar("T")


def run(config: SecretsManagerConfig, use: Callable[[SecretsManagerKeyStore], Awaitable[T]]) -> T:
    """Connect, use the store, and close it."""

    async def main() -> T:
        store = await connect(config, PluginContext())
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(main())


def failure(config: SecretsManagerConfig, use: Callable[[SecretsManagerKeyStore], Awaitable[object]]) -> KeyStoreError:
    """Return the error of a use that has to fail."""
    with pytest.raises(KeyStoreError) as caught:
        run(config, use)
    return caught.value

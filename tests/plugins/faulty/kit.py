"""Plugins whose fault only the conformance kit finds."""

from __future__ import annotations

import asyncio
from typing import Any

from kes_core import Credential, StoreCapabilities
from tests.plugins.faulty.bases import FaultyStore


class EveryCallIsSlow(FaultyStore):
    """Each call takes as long as a slow network."""

    hangs = True

    async def status(self) -> None:
        await asyncio.sleep(0.05)

    async def create(self, name: str, value: bytes) -> None:
        await asyncio.sleep(0.05)
        await super().create(name, value)

    async def list(self, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.05)
        return await super().list(*arguments, **options)


class StatusIsTooSlow(EveryCallIsSlow):
    """`status` takes longer than a client waits."""

    hangs = False

    async def status(self) -> None:
        await asyncio.sleep(10)


class NeverShowsChanges(FaultyStore):
    """It states that it shows changes late, and never does."""

    capabilities = StoreCapabilities(eventually_consistent=0.3)

    async def list(self, *arguments: Any, **options: Any) -> Any:
        return await FaultyStore().list(*arguments, **options)


class TakesInvalidNames(FaultyStore):
    """It shows changes late, and hides names that are not valid: the kit must not wait for those."""

    capabilities = StoreCapabilities(eventually_consistent=5.0)

    async def list(self, *arguments: Any, **options: Any) -> Any:
        names, following = await super().list(*arguments, **options)
        return type(await super().list())([name for name in names if name and "/" not in name], following)

    def __repr__(self) -> str:
        return f"<Store {self._values}>"


class CredentialIsADictionary(FaultyStore):
    """`credentials` returns a dictionary."""

    def credentials(self) -> Any:
        return {"token": "secret"}


class CredentialHasASentence(FaultyStore):
    """The name of a credential is a sentence."""

    def credentials(self) -> Any:
        return [Credential("the token of the server")]

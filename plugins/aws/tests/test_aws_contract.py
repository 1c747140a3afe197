"""The AWS store keeps the contract of key stores, against a moto server."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from kes_aws.store import SecretsManagerKeyStore, connect
from kes_core import KeyStore
from kes_core.testing import KeyStoreContract
from tests.helpers.aws import SECRET_KEY, TOKEN, Gate, Moto


class TestSecretsManagerStore(KeyStoreContract):
    @pytest.fixture(autouse=True)
    def _servers(self, moto: Moto) -> Iterator[None]:
        with Gate(moto).running() as self.gate:
            self.config = moto.config(endpoint=self.gate.url)
            yield

    @pytest.fixture(autouse=True)
    def _prompt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """moto shows each change at once, unlike AWS. So the kit need not look for it again and again."""
        prompt = dataclasses.replace(SecretsManagerKeyStore.capabilities, eventually_consistent=0.0)
        monkeypatch.setattr(SecretsManagerKeyStore, "capabilities", prompt)

    async def make_store(self) -> SecretsManagerKeyStore:
        return await connect(self.config, self.context)

    async def reopen(self, store: KeyStore) -> SecretsManagerKeyStore:
        return await connect(self.config, self.context)

    @contextlib.asynccontextmanager
    async def make_unreachable(self, store: KeyStore) -> AsyncIterator[None]:
        with self.gate.closed():
            yield

    def secrets(self) -> Sequence[str]:
        return [SECRET_KEY, TOKEN]


@pytest.mark.slow
class TestSecretsManagerStoreAsDeclared(TestSecretsManagerStore):
    """With all of its capabilities: the kit looks for each change in every open store."""

    @pytest.fixture(autouse=True)
    def _prompt(self) -> None:
        pass

"""The Vault store keeps the contract of key stores, on a real OpenBao."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest

from kes_core import KeyStore
from kes_core.testing import KeyStoreContract
from kes_vault.config import VaultConfig
from kes_vault.store import VaultKeyStore, connect
from tests.helpers.openbao import KV2_POLICY, OpenBao

# The guide's policy plus *list*. Without *update*, K/V v1 keeps its promises even if servers race.
KV1_POLICY = 'path "{engine}/*" {{ capabilities = ["create", "read", "delete", "list"] }}'


class VaultStoreContract(KeyStoreContract):
    version: ClassVar[str]
    policy: ClassVar[str]
    time_limit = 30.0

    @pytest.fixture(autouse=True)
    def _servers(self, mortal_bao: OpenBao) -> None:
        self.bao = mortal_bao

    async def make_store(self) -> VaultKeyStore:
        self.store = await connect(await asyncio.to_thread(self.make_tenant))
        return self.store

    def make_tenant(self) -> VaultConfig:
        engine = self.bao.mount(self.version)
        _role, role_id, self.secret = self.bao.role(self.policy.format(engine=engine))
        section: dict[str, Any] = {
            "endpoint": self.bao.url,
            "engine": engine,
            "version": self.version,
            "approle": {"id": role_id, "secret": self.secret},
            "tls": {"ca": str(self.bao.ca)},
        }
        self.config = VaultConfig.model_validate(section)
        return self.config

    async def reopen(self, store: KeyStore) -> VaultKeyStore:
        return await connect(self.config)

    @contextlib.asynccontextmanager
    async def make_unreachable(self, store: KeyStore) -> AsyncIterator[None]:
        await asyncio.to_thread(self.bao.seal)
        try:
            yield
        finally:
            await asyncio.to_thread(self.bao.unseal)

    def secrets(self) -> Sequence[str]:
        return [self.secret, self.store._session.client.token]


class TestVaultStoreVersion1(VaultStoreContract):
    version = "v1"
    policy = KV1_POLICY

    @pytest.fixture(autouse=True)
    def _short_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wait less after each of hundreds of writes. Other tests cover the wait itself."""
        monkeypatch.setattr("kes_vault.store._FENCE", (0.02, 0.02))


class TestVaultStoreVersion2(VaultStoreContract):
    version = "v2"
    policy = KV2_POLICY

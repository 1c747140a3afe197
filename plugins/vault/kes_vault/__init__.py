"""The HashiCorp Vault and OpenBao key store of kes-core (protocol section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kes_core import Finding, KeyStoreBackend, PluginContext, hookimpl
from kes_vault.config import VaultConfig

if TYPE_CHECKING:
    from kes_vault.store import VaultKeyStore

__all__ = ["VaultConfig"]

kes_hookspec_version = 1


async def _connect(config: VaultConfig, context: PluginContext) -> VaultKeyStore:
    from kes_vault.store import connect

    return await connect(config, context.metrics)


async def _diagnose(config: VaultConfig, _context: PluginContext, *, login: bool = False) -> Sequence[Finding]:
    from kes_vault.doctor import diagnose

    return await diagnose(config, login=login)


def _access_policy(config: VaultConfig) -> str:
    from kes_vault.policy import access_policy

    return access_policy(config)


@hookimpl
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:
    return [
        KeyStoreBackend(
            name="vault", config=VaultConfig, connect=_connect, diagnose=_diagnose, access_policy=_access_policy
        )
    ]

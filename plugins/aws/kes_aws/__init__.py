"""The AWS Secrets Manager key store of kes-core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kes_aws.config import AWSConfig
from kes_core import Finding, KeyStoreBackend, PluginContext, hookimpl

if TYPE_CHECKING:
    from kes_aws.store import SecretsManagerKeyStore

__all__ = ["AWSConfig"]

kes_hookspec_version = 1


async def _connect(config: AWSConfig, context: PluginContext) -> SecretsManagerKeyStore:
    from kes_aws.store import connect

    return await connect(config.secretsmanager, context)


async def _diagnose(config: AWSConfig, context: PluginContext) -> Sequence[Finding]:
    from kes_aws.doctor import diagnose

    return await diagnose(config.secretsmanager, context)


def _access_policy(config: AWSConfig) -> str:
    from kes_aws.policy import access_policy

    return access_policy(config.secretsmanager)


@hookimpl
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:
    return [
        KeyStoreBackend(
            name="aws", config=AWSConfig, connect=_connect, diagnose=_diagnose, access_policy=_access_policy
        )
    ]

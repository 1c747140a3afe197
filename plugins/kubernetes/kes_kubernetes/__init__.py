"""Encryption of Kubernetes' secrets with keys of kes-core: a KMS v2 plugin of the API server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kes_core import Finding, FrontendBackend, FrontendContext, PluginContext, hookimpl
from kes_kubernetes.config import KMSConfig

if TYPE_CHECKING:
    from kes_kubernetes.frontend import KubernetesFrontend

__all__ = ["KMSConfig"]

kes_hookspec_version = 1


async def _connect(config: KMSConfig, context: FrontendContext) -> KubernetesFrontend:
    from kes_kubernetes.frontend import KubernetesFrontend

    return KubernetesFrontend(config, context)


async def _diagnose(config: KMSConfig, context: PluginContext) -> Sequence[Finding]:
    from kes_kubernetes.doctor import diagnose

    return await diagnose(config, context)


@hookimpl
def kes_frontends() -> Sequence[FrontendBackend]:
    return [FrontendBackend(name="kubernetes", config=KMSConfig, connect=_connect, diagnose=_diagnose, takes_over=True)]

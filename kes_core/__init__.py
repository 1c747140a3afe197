"""A key management server that speaks the KES protocol.

Plugins import the names below. Other public packages are `kes_core.client` for applications, `kes_core.config` for the
sections of plugins in the configuration file, and `kes_core.testing` for the tests of plugins. All other modules are
internal. Each name is loaded on first use, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kes_core.counters import PluginMetrics
    from kes_core.errors import BackendError
    from kes_core.findings import Finding, FindingLevel
    from kes_core.frontends import (
        Encrypted,
        Frontend,
        FrontendBackend,
        FrontendContext,
        FrontendError,
        FrontendKeys,
        GeneratedDataKey,
        InvalidKeyUseError,
        KeyDescription,
        KeysThrottledError,
        KeysUnavailableError,
        KeyUseDeniedError,
        KeyUseError,
        KeyUseTimeoutError,
        NotAuthenticError,
        UnknownKeyError,
        UnusableKeyError,
        VersionDescription,
    )
    from kes_core.hookspecs import (
        HOOKSPEC_VERSION,
        AuditSink,
        AuditSinkType,
        KeyStoreBackend,
        PluginContext,
        PolicyEngineType,
        QueuedAuditSink,
        ServerInfo,
        hookimpl,
    )
    from kes_core.keystore import (
        BlockingCalls,
        Credential,
        EntryExistsError,
        EntryNotFoundError,
        EntryRefusedError,
        KeyStore,
        KeyStoreError,
        KeyStoreReason,
        KeyStoreThrottledError,
        KeyStoreUnreachableError,
        Page,
        StoreCapabilities,
        page_of,
    )
    from kes_core.policy import CertificateFacts, Decision, PolicyEngine, PolicyRequest, Verdict

__all__ = [
    "HOOKSPEC_VERSION",
    "AuditSink",
    "AuditSinkType",
    "BackendError",
    "BlockingCalls",
    "CertificateFacts",
    "Credential",
    "Decision",
    "Encrypted",
    "EntryExistsError",
    "EntryNotFoundError",
    "EntryRefusedError",
    "Finding",
    "FindingLevel",
    "Frontend",
    "FrontendBackend",
    "FrontendContext",
    "FrontendError",
    "FrontendKeys",
    "GeneratedDataKey",
    "InvalidKeyUseError",
    "KeyDescription",
    "KeyStore",
    "KeyStoreBackend",
    "KeyStoreError",
    "KeyStoreReason",
    "KeyStoreThrottledError",
    "KeyStoreUnreachableError",
    "KeyUseDeniedError",
    "KeyUseError",
    "KeyUseTimeoutError",
    "KeysThrottledError",
    "KeysUnavailableError",
    "NotAuthenticError",
    "Page",
    "PluginContext",
    "PluginMetrics",
    "PolicyEngine",
    "PolicyEngineType",
    "PolicyRequest",
    "QueuedAuditSink",
    "ServerInfo",
    "StoreCapabilities",
    "UnknownKeyError",
    "UnusableKeyError",
    "Verdict",
    "VersionDescription",
    "hookimpl",
    "page_of",
]

_MODULES: Final = ("counters", "errors", "findings", "frontends", "hookspecs", "keystore", "policy")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module_name in _MODULES:
            module = importlib.import_module(f"kes_core.{module_name}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'kes_core' has no attribute {name!r}")

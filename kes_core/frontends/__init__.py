"""Front ends: plugins that offer the server's keys over another protocol. `kes_core` has the public names."""

from __future__ import annotations

from kes_core.frontends.interface import (
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

__all__ = [
    "Encrypted",
    "Frontend",
    "FrontendBackend",
    "FrontendContext",
    "FrontendError",
    "FrontendKeys",
    "GeneratedDataKey",
    "InvalidKeyUseError",
    "KeyDescription",
    "KeyUseDeniedError",
    "KeyUseError",
    "KeyUseTimeoutError",
    "KeysThrottledError",
    "KeysUnavailableError",
    "NotAuthenticError",
    "UnknownKeyError",
    "UnusableKeyError",
    "VersionDescription",
]

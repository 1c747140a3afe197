"""The configuration file (protocol section 8).

`Section` and the types of values are public: plugins define their sections with them.
"""

from __future__ import annotations

from kes_core.config.load import LoadedConfig, blocked_plugins, load, load_keystores, parse_config
from kes_core.config.model import (
    COMMAND_LINE,
    AuditSinkChoice,
    Config,
    ConfigError,
    ConfigProblem,
    FrontendChoice,
    KeyStoreChoice,
    PolicyEngineChoice,
)
from kes_core.config.sections import APISettings, CacheExpiry, PolicySettings, Required, Section
from kes_core.config.types import LOG_OFF, Duration, LogLevel, Secret, Switch

__all__ = [
    "COMMAND_LINE",
    "LOG_OFF",
    "APISettings",
    "AuditSinkChoice",
    "CacheExpiry",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "Duration",
    "FrontendChoice",
    "KeyStoreChoice",
    "LoadedConfig",
    "LogLevel",
    "PolicyEngineChoice",
    "PolicySettings",
    "Required",
    "Secret",
    "Section",
    "Switch",
    "blocked_plugins",
    "load",
    "load_keystores",
    "parse_config",
]

"""The configuration file (protocol section 8).

`Section` and the types of values are public: plugins make the models of their sections of them.
"""

from __future__ import annotations

from kes_core.config.load import ConfigSource, blocked_plugins, load_config, load_keystore, parse_config
from kes_core.config.model import (
    COMMAND_LINE,
    Config,
    ConfigError,
    ConfigProblem,
    KeyStoreChoice,
    PolicyEngineChoice,
)
from kes_core.config.sections import APISettings, PolicySettings, Required, Section
from kes_core.config.types import LOG_OFF, Duration, LogLevel, Secret, Switch

__all__ = [
    "COMMAND_LINE",
    "LOG_OFF",
    "APISettings",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "ConfigSource",
    "Duration",
    "KeyStoreChoice",
    "LogLevel",
    "PolicyEngineChoice",
    "PolicySettings",
    "Required",
    "Secret",
    "Section",
    "Switch",
    "blocked_plugins",
    "load_config",
    "load_keystore",
    "parse_config",
]

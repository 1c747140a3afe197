"""A configuration that is valid as a whole, and the errors of one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from pydantic import BaseModel

from kes_core.config.sections import (
    AdminSettings,
    APISettings,
    AuditSettings,
    CacheSettings,
    FileSettings,
    LogSettings,
    PolicySettings,
    ProbeSettings,
    TLSSection,
)
from kes_core.hookspecs import KeyStoreBackend, PolicyEngineType
from kes_core.protocol import ROUTES

__all__ = [
    "API_PATHS",
    "COMMAND_LINE",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "KeyStoreChoice",
    "PolicyEngineChoice",
]

COMMAND_LINE: Final = "command line"
"""What problems have for a file that come from fields given elsewhere, as by options."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong in a configuration file."""

    file: str
    line: int
    """Counted from 1; 0 for what does not come from the file."""
    path: str
    """The field, as in `policy.my-app.identities[1]`; empty for the file as a whole."""
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(Exception):
    """A configuration can't be used. As text: one line a problem."""

    def __init__(self, *problems: ConfigProblem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class KeyStoreChoice:
    """The key store that a configuration selects, with its section."""

    backend: KeyStoreBackend
    config: BaseModel


@dataclass(frozen=True, slots=True)
class PolicyEngineChoice:
    """A policy engine that a configuration selects, with its section."""

    type: PolicyEngineType
    config: BaseModel


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration."""

    address: str
    admin: AdminSettings
    tls: TLSSection
    api: Mapping[str, APISettings]
    policy: Mapping[str, PolicySettings]
    cache: CacheSettings
    log: LogSettings
    keys: tuple[str, ...]
    keystore: KeyStoreChoice
    audit: AuditSettings
    probe: ProbeSettings | None
    workers: int
    policy_engines: tuple[PolicyEngineChoice, ...] = ()
    blocked_plugins: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The host to listen on, without brackets; empty for all addresses of the machine."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on; 0 for any that is free."""
        return int(self.address.rpartition(":")[2])

    @classmethod
    def of(
        cls, file: FileSettings, keystore: KeyStoreChoice, policy_engines: tuple[PolicyEngineChoice, ...] = ()
    ) -> Self:
        """Put together what a file and its plugins' sections say."""
        return cls(
            address=file.address,
            admin=file.admin,
            tls=file.tls,
            api=MappingProxyType(file.api),
            policy=MappingProxyType(file.policy),
            cache=file.cache,
            log=file.log,
            keys=tuple(key.name for key in file.keys),
            keystore=keystore,
            policy_engines=policy_engines,
            blocked_plugins=file.plugins.block,
            audit=file.audit,
            probe=file.probe,
            workers=file.workers,
        )


API_PATHS: Final = {route.path: route for route in ROUTES}
"""The routes that `api` can name."""

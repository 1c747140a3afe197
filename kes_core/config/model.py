"""A valid configuration, and the errors of an invalid one. Internal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, GetPydanticSchema
from pydantic_core import core_schema

from kes_core.config.sections import CheckedSettings, FileSettings
from kes_core.frontends import FrontendBackend
from kes_core.hookspecs import AuditSinkType, KeyStoreBackend, PolicyEngineType
from kes_core.protocol import ROUTES

__all__ = [
    "API_PATHS",
    "COMMAND_LINE",
    "AuditSinkChoice",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "FrontendChoice",
    "KeyStoreChoice",
    "PolicyEngineChoice",
]

COMMAND_LINE: Final = "command line"
"""Replaces the name of the file in problems with options."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """An error, or a probable mistake, in a configuration file."""

    file: str
    line: int
    """Counted from 1; 0 if the value does not come from the file."""
    path: str
    """The field, as in `policy.my-app.identities[1]`; empty for the file as a whole."""
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(Exception):
    """A configuration can't be used. The text has one line for each problem."""

    def __init__(self, *problems: ConfigProblem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class KeyStoreChoice:
    """The configured key store, with its section."""

    backend: KeyStoreBackend
    config: BaseModel
    directory: Path = Path()
    """The directory of the configuration file."""


@dataclass(frozen=True, slots=True)
class PolicyEngineChoice:
    """A configured policy engine, with its section."""

    type: PolicyEngineType
    config: BaseModel
    directory: Path = Path()
    """The directory of the configuration file."""


@dataclass(frozen=True, slots=True)
class AuditSinkChoice:
    """An audit sink that a configuration selects, with its section."""

    type: AuditSinkType
    config: BaseModel
    directory: Path = Path()
    """The directory of the configuration file."""


@dataclass(frozen=True, slots=True)
class FrontendChoice:
    """A configured front end, with its section."""

    type: FrontendBackend
    config: BaseModel
    directory: Path = Path()
    """The directory of the configuration file."""


_CHECKED: Final = GetPydanticSchema(lambda _source, _handler: core_schema.any_schema())
"""The sections of plugins, checked with the plugins' own models."""


class Config(CheckedSettings):
    """A valid configuration: the sections of the core, and the plugins that the file selects."""

    keystore: Annotated[KeyStoreChoice, _CHECKED]
    policy_engines: Annotated[tuple[PolicyEngineChoice, ...], _CHECKED] = ()
    audit_sinks: Annotated[tuple[AuditSinkChoice, ...], _CHECKED] = ()
    """Those of the section `audit_sinks`. The section `audit` selects others."""
    frontends: Annotated[tuple[FrontendChoice, ...], _CHECKED] = ()

    @property
    def host(self) -> str:
        """The host to listen on, without brackets; empty for all addresses of the machine."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on; 0 for any free port."""
        return int(self.address.rpartition(":")[2])

    @classmethod
    def from_file(
        cls,
        file: FileSettings,
        keystore: KeyStoreChoice,
        policy_engines: tuple[PolicyEngineChoice, ...] = (),
        audit_sinks: tuple[AuditSinkChoice, ...] = (),
        frontends: tuple[FrontendChoice, ...] = (),
    ) -> Self:
        """Combine the checked sections of a file with the plugins that it selects."""
        sections = {name: getattr(file, name) for name in CheckedSettings.model_fields}
        return cls.model_construct(
            _fields_set=file.model_fields_set,
            **sections,
            keystore=keystore,
            policy_engines=policy_engines,
            audit_sinks=audit_sinks,
            frontends=frontends,
        )


API_PATHS: Final = {route.path: route for route in ROUTES}
"""The routes that `api` can name."""

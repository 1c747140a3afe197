"""The configuration file (protocol section 8): its format, and how it is read.

Everything is checked before anything is used: `load_config` returns a configuration that is valid as a whole, or raises
one `ConfigError` that lists every problem with file, line and field.

`Section` and the types of values are public: the models of plugins' sections are made of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

from pydantic import BaseModel

from kes_core._config_models import (
    AdminSettings,
    APISettings,
    AuditSettings,
    CacheSettings,
    FileSettings,
    LogSettings,
    PolicySettings,
    ProbeSettings,
    Required,
    Section,
    TLSSettings,
)
from kes_core._values import LOG_OFF, Duration, LogLevel, Secret, Switch
from kes_core.hookspecs import KeyStoreBackend, PolicyEngineType
from kes_core.routes import ROUTES

if TYPE_CHECKING:
    from kes_core.plugins import Plugins

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
    """The key store of a configuration with its settings."""

    backend: KeyStoreBackend
    settings: BaseModel


@dataclass(frozen=True, slots=True)
class PolicyEngineChoice:
    """A policy engine of a configuration with its settings."""

    type: PolicyEngineType
    settings: BaseModel


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration."""

    address: str
    admin: AdminSettings
    tls: TLSSettings
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


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where a server's configuration comes from, to be read again."""

    path: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Fields that are given elsewhere and win, as for `parse_config`."""

    def read(self) -> str:
        """Return the text of the file.

        Raises:
            ConfigError: It can't be read.
        """
        return _read(self.path)

    def parse(self, text: str, plugins: Plugins) -> Config:
        """Return the configuration that `text`, which the file held, stands for; errors are those of `parse_config`."""
        return parse_config(text, filename=str(self.path), plugins=plugins, overrides=self.overrides)

    def blocked(self, text: str) -> tuple[str, ...]:
        """Return the plugins that `text` blocks, before any is loaded. What is wrong with it `parse` tells."""
        return _blocked(text, os.environ)


def load_config(
    path: Path,
    *,
    plugins: Plugins,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Read the configuration file at `path`; arguments and errors are those of `parse_config`."""
    return parse_config(_read(path), filename=str(path), plugins=plugins, environ=environ, overrides=overrides)


def load_keystore(path: Path, *, plugins: Plugins, environ: Mapping[str, str] = os.environ) -> KeyStoreChoice:
    """Read the key store of the configuration file at `path`, which may have other sections or not.

    Raises:
        ConfigError: It names none that can be used.
    """
    from kes_core._config_reader import ConfigReader  # noqa: PLC0415 # it needs the models above

    return ConfigReader(str(path), plugins).read_keystore(_read(path), environ)


def blocked_plugins(path: Path, *, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the plugins that the configuration file at `path` blocks, before any is loaded.

    What is wrong in the file is not told here: `load_config` does.
    """
    try:
        return _blocked(_read(path), environ)
    except ConfigError:
        return ()


def _blocked(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    from kes_core._yaml import YAMLError, parse  # noqa: PLC0415 # only who reads configurations needs it

    try:
        value = parse(text, environ=environ, literal=lambda _path: False).value
    except YAMLError:
        return ()
    section = value.get("plugins") if isinstance(value, dict) else None
    names = section.get("block") if isinstance(section, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _read(path: Path) -> str:
    from kes_core._yaml import MAX_SIZE  # noqa: PLC0415 # only who reads configurations needs it

    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(ConfigProblem(str(path), 0, "", f"can't be read: {error.strerror}")) from None
    if len(data) > MAX_SIZE:
        raise ConfigError(ConfigProblem(str(path), 1, "", f"larger than {MAX_SIZE} bytes"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(ConfigProblem(str(path), line, "", "no valid YAML: not UTF-8")) from None


def parse_config(
    text: str,
    *,
    filename: str,
    plugins: Plugins,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Read a configuration.

    Args:
        text: The YAML.
        filename: What messages call the file.
        plugins: Where key stores and policy engines come from.
        environ: The environment variables that `${NAME}` refers to.
        overrides: Fields that are given elsewhere and win, by their path: `{"tls.key": "server.key"}`.

    Raises:
        ConfigError: It can't be used.
    """
    from kes_core._config_reader import ConfigReader  # noqa: PLC0415 # it needs the models above

    return ConfigReader(filename, plugins).read(text, environ, overrides)

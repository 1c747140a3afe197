"""The configuration file (protocol section 8): its format, and how it is read.

Everything is checked before anything is used: `load_config` returns a configuration that is valid as a whole, or raises
one `ConfigError` that lists every problem with file, line and field.

`Section` and the types of values are public: the models of plugins' sections are made of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from kes_core._values import LOG_OFF, Duration, LogLevel, OnOff, Secret, Switch
from kes_core.hookspecs import KeyStoreBackend, PolicyEngineType
from kes_core.names import is_valid_name
from kes_core.routes import ROUTES

if TYPE_CHECKING:
    from kes_core.plugins import Plugins

__all__ = [
    "LOG_OFF",
    "APISettings",
    "Config",
    "ConfigError",
    "ConfigProblem",
    "Duration",
    "KeyStoreChoice",
    "LogLevel",
    "PolicyEngineChoice",
    "PolicySettings",
    "Secret",
    "Section",
    "Switch",
    "blocked_plugins",
    "load_config",
    "load_keystore",
    "parse_config",
]

DEFAULT_ADDRESS: Final = "0.0.0.0:7373"
_MAX_PORT: Final = 65535
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(%\w+)?\]|", re.ASCII)


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


class Section(BaseModel):
    """A part of the configuration file: fields that are not in the model are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _identity(value: str) -> str:
    if not is_valid_name(value):
        raise ValueError("is not an identity; `kes identity of FILE` prints that of a certificate")
    return value


def _name(value: str) -> str:
    if not is_valid_name(value):
        raise ValueError("is not a valid name: 1 to 80 of A-Z a-z 0-9 - _, no - at either end")
    return value


def _required(value: str) -> str:
    if not value:
        raise ValueError("is empty, but required")
    return value


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator and not port.isdigit():
        raise ValueError("has no port; expected host:port, as in 0.0.0.0:7373")
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise ValueError("has no valid port; expected host:port with a port from 0 to 65535")
    if not _HOST.fullmatch(host):
        raise ValueError("has no valid host; expected host:port, an IPv6 address in brackets")
    return f"{host}:{port}"


def _list(value: Any) -> Any:
    return () if value is None else value


Identity = Annotated[str, AfterValidator(_identity)]
Name = Annotated[str, AfterValidator(_name)]
Required = Annotated[str, AfterValidator(_required)]
Address = Annotated[str, AfterValidator(_address)]
Identities = Annotated[tuple[Identity, ...], BeforeValidator(_list)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_list)]


class AdminSettings(Section):
    """`admin`: who may do everything."""

    identity: Required
    """The admin's identity, or any other word, such as `disabled`, for none."""


class ProxyHeaderSettings(Section):
    """`tls.proxy.header`."""

    cert: str = "X-Tls-Client-Cert"


class ProxySettings(Section):
    """`tls.proxy`: TLS proxies in front of the server."""

    identities: Identities = ()
    header: ProxyHeaderSettings = ProxyHeaderSettings()


class TLSSettings(Section):
    """`tls`: the server's certificate, and what it asks of clients."""

    key: Required
    cert: Required
    password: Secret | None = None
    auth: OnOff = False
    ca: str = ""
    proxy: ProxySettings = ProxySettings()


class APISettings(Section):
    """`api.<path>`: settings of one route."""

    skip_auth: Switch = False
    timeout: Duration | None = None


class PolicySettings(Section):
    """`policy.<name>`: what some identities may do."""

    allow: Patterns = ()
    deny: Patterns = ()
    identities: Identities = ()


class ExpirySettings(Section):
    """`cache.expiry`: how long keys stay in memory, in seconds; 0 is off."""

    any: Duration = 300.0
    unused: Duration = 30.0
    offline: Duration = 0.0


class CacheSettings(Section):
    """`cache`."""

    expiry: ExpirySettings = ExpirySettings()


class LogSettings(Section):
    """`log`: what is logged."""

    error: LogLevel = 0
    audit: LogLevel = LOG_OFF

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v != ""} if isinstance(value, dict) else value


class PluginSettings(Section):
    """`plugins`: which of the installed plugins to leave alone."""

    block: Annotated[tuple[str, ...], BeforeValidator(_list)] = ()
    """Names of plugins or of their distributions. They are not even imported."""

    @field_validator("block")
    @classmethod
    def _static_is_needed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        needed = {"static-policy", "kes-core"} & set(value)
        if needed:
            raise ValueError(f"can't block {needed.pop()!r}: the server does not work without it")
        return value


class KeySettings(Section):
    """One of `keys`: a key that is made when the server starts, if it is missing."""

    name: Name


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


class FileSettings(Section):
    """The whole file. The sections of plugins are theirs: here they are mappings with any content."""

    version: str = ""
    address: Address = DEFAULT_ADDRESS
    admin: AdminSettings
    tls: TLSSettings
    api: dict[str, APISettings] = Field(default_factory=dict)
    policy: dict[str, PolicySettings] = Field(default_factory=dict)
    cache: CacheSettings = CacheSettings()
    log: LogSettings = LogSettings()
    keys: Annotated[tuple[KeySettings, ...], BeforeValidator(_list)] = ()
    keystore: dict[str, Any]
    policy_engines: dict[str, Any] = Field(default_factory=dict)
    plugins: PluginSettings = PluginSettings()


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
        )


API_PATHS: Final = {route.path: route for route in ROUTES}
"""The routes that `api` can name."""


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
    from kes_core._yaml import YAMLError, parse  # noqa: PLC0415 # only who reads configurations needs it

    try:
        value = parse(_read(path), environ=environ, literal=lambda _path: False).value
    except (ConfigError, YAMLError):
        return ()
    section = value.get("plugins") if isinstance(value, dict) else None
    names = section.get("block") if isinstance(section, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(ConfigProblem(str(path), 0, "", f"can't be read: {error.strerror}")) from None
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

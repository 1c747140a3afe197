"""The models of the sections of the configuration file, with all fields and defaults. Internal.

`kes_core.config` has the public ones.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from kes_core.config.runtimes import RuntimeName, default_runtime
from kes_core.config.types import LOG_OFF, Duration, LogLevel, OnOff, Secret, Switch
from kes_core.identity import APIKey, is_identity
from kes_core.names import NAME_RULE, is_valid_name

__all__ = [
    "STATIC_ENGINE",
    "APISettings",
    "AdminSettings",
    "AuditSettings",
    "CacheExpiry",
    "CacheSettings",
    "CheckedSettings",
    "FileSettings",
    "LogSettings",
    "PolicySettings",
    "ProbeSettings",
    "Required",
    "Section",
    "TLSSection",
]

DEFAULT_ADDRESS: Final = "0.0.0.0:7373"
STATIC_ENGINE: Final = "static"
"""The name of the built-in policy engine, which the section `policy` configures."""
MAX_WORKERS: Final = 256
_MAX_PORT: Final = 65535
_SYSLOG_PORT: Final = 514
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(%\w+)?\]|", re.ASCII)
_IDENTITY_LENGTH: Final = 64
_ALMOST: Final = re.compile(r"[0-9A-Fa-f]{32,}", re.ASCII)
"""A text that must be meant as an identity: a word that disables the admin does not have that many hex digits."""
_SMALL: Final = re.compile(r"\d{1,5}", re.ASCII)
"""A number with few digits: Python refuses to convert very long ones."""
_FACILITIES: Final = ("auth", "authpriv", "daemon", "user", *(f"local{number}" for number in range(8)))


class Section(BaseModel):
    """A part of the configuration file. Fields that are not in the model are errors.

    A default may have the form that files use (`timeout: Duration = "5s"`). The string below a field describes it in
    the JSON Schema of the configuration.
    """

    # Build sections when they are used: most are in no configuration, and building all takes a tenth of a start.
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True, defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_not_given(cls, value: Any) -> Any:
        """Use the default of a field that is empty: files for the Go server often list every field, many of them empty.

        An empty duration is an error in both servers (vectors/config.json).
        """
        if not isinstance(value, dict) or "" not in value.values():
            return value
        optional = {
            field.alias or name
            for name, field in cls.model_fields.items()
            if not field.is_required() and field.annotation is not float
        }
        return {name: item for name, item in value.items() if item != "" or name not in optional}


def _check_identity(value: str) -> None:
    """Refuse text that looks like an identity but is not one: the mistake would lock a client out silently.

    Raises:
        ValueError: `value` is an API key, or it has 32 hex digits or more, but not 64 in lower case. The message does
            not repeat an API key.
    """
    if is_identity(value):
        return
    _refuse_api_key(value)
    if not _ALMOST.fullmatch(value):
        return
    if len(value) != _IDENTITY_LENGTH:
        raise ValueError(f"is not an identity: it has {len(value)} hex digits, an identity has 64")
    raise ValueError("is not an identity: write its hex digits in lower case")


def _refuse_api_key(value: str) -> None:
    try:
        identity = APIKey.parse(value).identity
    except ValueError:
        if value.startswith("kes:"):
            message = "an API key is a secret: write the identity that `kes identity of` prints for it"
            raise ValueError(message) from None
        return
    raise ValueError(f"an API key is a secret: write its identity instead, {identity}")


def _identity(value: str) -> str:
    _check_identity(value)
    if not is_valid_name(value):
        raise ValueError("is not an identity; `kes identity of FILE` prints that of a certificate")
    return value


def _admin(value: str) -> str:
    _check_identity(value)
    return value


def _name(value: str) -> str:
    if not is_valid_name(value):
        raise ValueError(f"is not a valid name: {NAME_RULE}")
    return value


def _required(value: str) -> str:
    if not value:
        raise ValueError("is empty, but required")
    return value


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator and not port.isdigit():
        raise ValueError("has no port; expected host:port, as in 0.0.0.0:7373")
    if not (_SMALL.fullmatch(port) and int(port) <= _MAX_PORT):
        raise ValueError("has no valid port; expected host:port with a port from 0 to 65535")
    if not _HOST.fullmatch(host):
        raise ValueError("has no valid host; expected host:port, an IPv6 address in brackets")
    return f"{host}:{port}"


def _list(value: Any) -> Any:
    return () if value is None else value


Identity = Annotated[str, AfterValidator(_identity)]
Name = Annotated[str, AfterValidator(_name)]
Required = Annotated[str, AfterValidator(_required)]
"""Text that must not be empty."""
Address = Annotated[str, AfterValidator(_address)]
Identities = Annotated[tuple[Identity, ...], BeforeValidator(_list)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_list)]


class AdminSettings(Section):
    """`admin`: the identity that may use every route."""

    identity: Annotated[Required, AfterValidator(_admin)]
    """The admin's identity, or a word that is not hex, such as `disabled`, for no admin."""


class ProxyHeaderSettings(Section):
    """`tls.proxy.header`."""

    cert: str = "X-Tls-Client-Cert"


class ProxySettings(Section):
    """`tls.proxy`: TLS proxies in front of the server."""

    identities: Identities = ()
    header: ProxyHeaderSettings = ProxyHeaderSettings()


class TLSSection(Section):
    """`tls`: the server's certificate, and its requirements for clients."""

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
    """`policy.<name>`: what the identities of the policy may do."""

    allow: Patterns = ()
    deny: Patterns = ()
    identities: Identities = ()


class CacheExpiry(Section):
    """`cache.expiry`: how long the server uses keys without asking the store again, in seconds; 0 disables a rule.

    The time of each key counts from when the server read it. So a key is used no longer than if the cache were emptied
    at that interval, but the keys are not all read again at the same moment.
    """

    any: Duration = 300.0
    """The time for every key, however often it is used."""
    unused: Duration = 30.0
    """The time after the last use of a key."""
    offline: Duration = 0.0
    """Replaces both times while the store is unreachable. If it is set, an expired key stays in memory until the store
    answers again, because the server notices an outage only some seconds after it began."""


class CacheSettings(Section):
    """`cache`."""

    expiry: CacheExpiry = CacheExpiry()


def _interval(value: float) -> float:
    if value < 1:
        raise ValueError("is too short; the shortest interval is 1s")
    return value


class DeletionSettings(Section):
    """`deletion`: whether clients may schedule the deletion of keys."""

    scheduled: Switch = False
    """Whether this server schedules deletions, and carries them out."""
    delay: Duration = 7 * 86400.0
    """The time until a key is deleted, unless a client wants a longer one, in seconds."""
    interval: Annotated[Duration, AfterValidator(_interval)] = 600.0
    """Seconds between two looks for keys whose time has come."""


class LogSettings(Section):
    """`log`: what the server logs."""

    error: LogLevel = 0
    audit: LogLevel = LOG_OFF


class AuditFileSettings(Section):
    """`audit.file`: audit records in a file."""

    path: Required
    chain: Switch = False
    """Whether each record has a hash over all records before it."""
    key: Secret | None = None
    """The key for that hash."""

    @model_validator(mode="after")
    def _key_is_of_a_chain(self) -> AuditFileSettings:
        if self.key is not None and not self.chain:
            raise ValueError("'key' is the key of the chain: set chain: on, or leave it out")
        if self.key is not None and not self.key.get():
            raise ValueError("'key' is empty; make one with: openssl rand -hex 32")
        return self


def _syslog_address(value: str) -> str:
    if value.startswith("/"):
        return value
    expected = "expected a path as /dev/log, or udp://host:port, or tcp://host:port"
    try:
        url = urlsplit(value)
        host, _port = url.hostname, url.port
    except ValueError:
        raise ValueError(f"is not the address of a log; {expected}") from None
    if url.scheme not in {"udp", "tcp"} or not host or url.path or url.query or url.username is not None:
        raise ValueError(f"is not the address of a log; {expected}")
    return value


def _facility(value: str) -> str:
    if value not in _FACILITIES:
        raise ValueError(f"is not a syslog facility; allowed: {', '.join(_FACILITIES)}")
    return value


class SyslogSettings(Section):
    """`audit.syslog`: audit records to syslog."""

    address: Annotated[str, AfterValidator(_syslog_address)] = "/dev/log"
    facility: Annotated[str, AfterValidator(_facility)] = "auth"

    @property
    def target(self) -> str | tuple[str, int]:
        """The path of a socket, or host and port."""
        if self.address.startswith("/"):
            return self.address
        url = urlsplit(self.address)
        return url.hostname or "", url.port or _SYSLOG_PORT

    @property
    def is_stream(self) -> bool:
        """Whether it is TCP."""
        return self.address.startswith("tcp:")


class AuditSettings(Section):
    """`audit`: where audit records go, besides standard output (`log.audit`)."""

    file: AuditFileSettings | None = None
    syslog: SyslogSettings | None = None


def _loopback(value: str) -> str:
    return f"127.0.0.1{value}" if value.startswith(":") else value


class ProbeSettings(Section):
    """`probe`: the listener for probes. It asks for no certificate, so by default only this machine reaches it."""

    address: Annotated[Address, AfterValidator(_loopback)] = "127.0.0.1:7374"


def _workers(value: Any) -> Any:
    if isinstance(value, str):
        if not (_SMALL.fullmatch(value) and 1 <= int(value) <= MAX_WORKERS):
            raise ValueError(f"is not a number of processes; expected 1 to {MAX_WORKERS}")
        return int(value)
    return value


Workers = Annotated[
    int, BeforeValidator(_workers), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_WORKERS})
]


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("is not a time limit; expected one like 1s")
    return value


class PluginSettings(Section):
    """`plugins`: the installed plugins that the server must not use, and what it grants the others."""

    block: Annotated[tuple[str, ...], BeforeValidator(_list)] = ()
    """Names of plugins or of their distributions. The server does not even import them."""
    authorize_timeout: Annotated[Duration, AfterValidator(_positive)] = 1.0
    """How long a policy engine may take to answer a request, in seconds. Then the server refuses the request."""

    @field_validator("block")
    @classmethod
    def _static_is_needed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        needed = {"static-policy", "audit", "kes-core"} & set(value)
        if needed:
            raise ValueError(f"can't block {needed.pop()!r}: the server does not work without it")
        return value


class KeySettings(Section):
    """One of `keys`: a key that the server creates when it starts, if it is missing."""

    name: Name


class CheckedSettings(Section):
    """The sections of the core, which a file and a valid configuration have in common."""

    version: str = ""
    address: Address = DEFAULT_ADDRESS
    workers: Workers = 1
    runtime: RuntimeName = Field(default_factory=default_runtime, validate_default=True)
    admin: AdminSettings
    tls: TLSSection
    api: dict[str, APISettings] = Field(default_factory=dict)
    policy: dict[str, PolicySettings] = Field(default_factory=dict)
    cache: CacheSettings = CacheSettings()
    deletion: DeletionSettings = DeletionSettings()
    log: LogSettings = LogSettings()
    audit: AuditSettings = AuditSettings()
    probe: ProbeSettings | None = None
    keys: Annotated[tuple[KeySettings, ...], BeforeValidator(_list)] = ()
    plugins: PluginSettings = PluginSettings()


class FileSettings(CheckedSettings):
    """The whole file. Plugins check their own sections, so here these are mappings with any content."""

    keystore: dict[str, Any]
    policy_engines: dict[str, Any] = Field(default_factory=dict)
    audit_sinks: dict[str, Any] = Field(default_factory=dict)
    frontends: dict[str, Any] = Field(default_factory=dict)

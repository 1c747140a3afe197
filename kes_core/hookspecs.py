"""All extension points of the server. This is the one file that the author of a plugin has to read.

A plugin is a module (or another object) that an entry point of the group `kes` names:

    [project.entry-points.kes]
    my-store = "my_package"

The plugin states the version of this file that it was written for, and implements any of the hooks below:

    from kes_core import KeyStoreBackend, hookimpl

    kes_hookspec_version = 1

    @hookimpl
    def kes_keystore_backends():
        return [KeyStoreBackend(name="my-store", config=MyConfig, connect=connect)]

`connect` is an `async def connect(config, context)`. A plugin that supports several versions sets
`kes_hookspec_version` to a set or a `range` of them.

The server calls a plugin only through one boundary, which limits the time of each call and checks each result. A plugin
reports a failure with `BackendError` (a key store: `KeyStoreError`), and the server logs its message. Any other
exception is a fault of the plugin: the server logs its type and the plugin's name, and never its text, which may
contain a key. With `log.error: debug` it also logs the files, lines and functions of the traceback.

The server calls hooks when it starts and stops, never while it serves a request: hooks return objects, and the objects
do the work. Import heavy dependencies where they are used (in `connect`), not at the top of the plugin: every server
imports every installed plugin, even one that it does not use.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pluggy

from kes_core.counters import PluginMetrics

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.findings import Finding
    from kes_core.keystore import KeyStore
    from kes_core.policy import PolicyEngine

__all__ = [
    "HOOKSPEC_VERSION",
    "AuditSink",
    "KeyStoreBackend",
    "PluginContext",
    "PolicyEngineType",
    "ServerInfo",
    "hookimpl",
]

PROJECT: Final = "kes"
"""The name of the pluggy project and of the entry-point group."""

HOOKSPEC_VERSION: Final = 1
"""The major version of these specifications. A plugin with a different `kes_hookspec_version` is not loaded."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginContext:
    """Where a plugin runs. `connect` and `diagnose` get it. The defaults are for tests."""

    directory: Path = Path()
    """The directory of the configuration file: the base of relative paths in the plugin's section."""
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("kes.plugins"))
    """Writes to the server's log, under the name of the plugin. Do not log values or credentials."""
    worker: int = 0
    """The number of the worker process, from 1; 0 in a server with one process, and in commands."""
    metrics: PluginMetrics = field(default_factory=PluginMetrics)
    """The plugin's own metrics, which the server shows with its metrics."""

    def path(self, text: str) -> Path:
        """Return a path of the plugin's section; a relative one starts at `directory`."""
        return self.directory / text


@dataclass(frozen=True, slots=True)
class KeyStoreBackend:
    """A kind of key store that the configuration file can select."""

    name: str
    """The section under `keystore:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section. Scalars arrive as the text in the file (environment references resolved), so
    the type of each field decides how its text is parsed. `kes_core.config` has the types of the configuration file:
    durations, switches, secrets. Forbid unknown fields (`kes_core.config.Section` does)."""
    connect: Callable[[Any, PluginContext], Awaitable[KeyStore]]
    """An `async def` function. The server calls it with an instance of `config` and a context when it starts or
    reloads. It returns a connected store within 60 seconds, or raises `KeyStoreError` with a message that tells the
    operator what to do."""
    persistent: bool = True
    """Whether keys outlive the process. A store that is not persistent is for development and tests."""
    diagnose: Callable[..., Awaitable[Sequence[Finding]]] | None = None
    """`kes doctor` calls it with an instance of `config` and a context. It returns all findings about the store: what
    works, what fails, and how to fix that. It changes nothing in the store and does not raise. Without it, the doctor
    connects, asks for the status, and reports the first error. If the function has a parameter `login`, it is true if
    it may use up credentials that work a limited number of times (`kes doctor --login`)."""
    access_policy: Callable[[Any], str] | None = None
    """`kes doctor store-policy` calls it with an instance of `config`. It returns the least privileges that the store
    must grant to the server, in the store's own policy language."""
    origin: str = field(default="", kw_only=True, compare=False)
    """The plugin that it comes from, for messages. Set when the plugin is loaded."""


@dataclass(frozen=True, slots=True)
class PolicyEngineType:
    """A kind of policy engine that the configuration file can select."""

    name: str
    """The section under `policy_engines:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section, as for key stores."""
    connect: Callable[[Any, PluginContext], Awaitable[PolicyEngine]]
    """An `async def` function. The server calls it with an instance of `config` and a context when it starts or
    reloads. It returns an engine within 60 seconds, or raises `BackendError` with a message that tells the operator
    what to do."""
    origin: str = field(default="", kw_only=True, compare=False)
    """The plugin that it comes from, for messages. Set when the plugin is loaded."""


class AuditSink(Protocol):
    """Receives one record for each request and its response, including refused requests."""

    def audit(self, event: Mapping[str, Any]) -> None:
        """Take one record in the documented audit format.

        The server calls it on the event loop, before it sends the response. The method must return at once: pass the
        record to a queue or a thread. An exception is logged, at most once a minute, and has no other effect.

        Raises:
            BackendError: The record is lost. The message tells the operator why. Of any other exception the log shows
                only the type.
        """


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The facts that a plugin gets about its server."""

    version: str
    addresses: tuple[str, ...]
    """The addresses on which the server listens, as `host:port`."""


@hookspec
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:  # type: ignore[empty-body]
    """Return the plugin's kinds of key store. Called once, when plugins are loaded."""


@hookspec
def kes_policy_engines() -> Sequence[PolicyEngineType]:  # type: ignore[empty-body]
    """Return the plugin's kinds of policy engine. Called once, when plugins are loaded."""


@hookspec
def kes_audit_sinks() -> Sequence[AuditSink]:  # type: ignore[empty-body]
    """Return the plugin's audit sinks. Called once, when the server starts."""


@hookspec
def kes_server_started(server: ServerInfo) -> None:
    """Note that the server listens and is ready. Called once, on its own thread, with 5 seconds to return."""


@hookspec
def kes_server_stopping(server: ServerInfo) -> None:
    """Note that the server is about to stop. Called once, on its own thread, with 5 seconds to return."""

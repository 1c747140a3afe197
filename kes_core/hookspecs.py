"""Every extension point of the server: the one file that the author of a plugin has to read.

A plugin is a module (or any object) that an entry point of the group `kes` names:

    [project.entry-points.kes]
    my-store = "my_package"

It says for which version of this file it was written and implements any of the hooks below:

    from kes_core import KeyStoreBackend, hookimpl

    kes_hookspec_version = 1

    @hookimpl
    def kes_keystore_backends():
        return [KeyStoreBackend(name="my-store", config=MyConfig, connect=connect)]

`kes_hookspec_version` may also be a set or a `range` of versions, for a plugin that works with several.

The server calls everything of a plugin through one boundary. A call takes a limited time, what it returns is checked,
and an exception other than `KeyStoreError` is a fault of the plugin: the server logs its type and the plugin's name,
and never its text, which may hold a key. With `log.error: debug` it also logs the files, lines and functions that the
exception came through.

Hooks are called when the server starts, never while a request is served: a hook hands over objects, and the objects do
the work. Import heavy dependencies where they are used (in `connect`), not at the top of the plugin: every installed
plugin is imported, also by servers that do not use it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import pluggy

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.findings import Finding
    from kes_core.keystore import KeyStore
    from kes_core.policy import PolicyEngine

__all__ = [
    "HOOKSPEC_VERSION",
    "AuditSink",
    "KeyStoreBackend",
    "PolicyEngineType",
    "ServerInfo",
    "hookimpl",
]

PROJECT: Final = "kes"
"""The name of the pluggy project and of the entry-point group."""

HOOKSPEC_VERSION: Final = 1
"""The major version of these specifications. A plugin states it as `kes_hookspec_version`; another one is refused."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True)
class KeyStoreBackend:
    """A kind of key store that the configuration file can name."""

    name: str
    """The section under `keystore:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section. Scalars arrive as the text that stands in the file (environment references
    resolved), so that every field's type decides how it is read. `kes_core.config` has the file's own types: durations,
    switches, secrets. Forbid unknown fields (`kes_core.config.Section` does)."""
    connect: Callable[[Any], Awaitable[KeyStore]]
    """An `async def` function. Called with an instance of `config` when the server starts or reloads; returns within 60
    seconds a store that is ready, or raises `KeyStoreError` with a message that tells the operator what to do."""
    persistent: bool = True
    """Whether keys outlive the process. A store that is not persistent is meant for development and tests."""
    diagnose: Callable[[Any], Awaitable[Sequence[Finding]]] | None = None
    """Called with an instance of `config` by `kes doctor`; returns all that can be told of the store: what works, what
    does not, and for that what to do. Changes nothing in the store and does not raise. Without it the doctor connects
    and asks for the status, and tells the first error."""
    access_policy: Callable[[Any], str] | None = None
    """Called with an instance of `config` by `kes doctor store-policy`; returns the least that the store's own access
    control has to grant the server, in the form that the store takes."""
    origin: str = field(default="", kw_only=True, compare=False)
    """Which plugin it came from, for messages. Set when the plugin is loaded."""


@dataclass(frozen=True, slots=True)
class PolicyEngineType:
    """A kind of policy engine that the configuration file can name."""

    name: str
    """The section under `policy_engines:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section, as for key stores."""
    connect: Callable[[Any], Awaitable[PolicyEngine]]
    """An `async def` function. Called with an instance of `config` when the server starts or reloads; returns within 60
    seconds an engine that is ready, or raises `KeyStoreError` with a message that tells the operator what to do."""
    origin: str = field(default="", kw_only=True, compare=False)
    """Which plugin it came from, for messages. Set when the plugin is loaded."""


class AuditSink(Protocol):
    """Receives one record for every request-response pair, refused ones included."""

    def audit(self, event: Mapping[str, Any]) -> None:
        """Take one record of the documented audit format.

        Called on the event loop after the response was sent. Must return at once: hand the record to a queue or a
        thread. The type of what it raises is logged, once a minute at most, and has no other effect.
        """


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a plugin is told about the server it runs in."""

    version: str
    addresses: tuple[str, ...]
    """The addresses that the server listens on, as `host:port`."""


@hookspec
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:  # type: ignore[empty-body]
    """Return the key-store backends that the plugin contributes. Called once, when plugins are loaded."""


@hookspec
def kes_policy_engines() -> Sequence[PolicyEngineType]:  # type: ignore[empty-body]
    """Return the kinds of policy engine that the plugin contributes. Called once, when plugins are loaded."""


@hookspec
def kes_audit_sinks() -> Sequence[AuditSink]:  # type: ignore[empty-body]
    """Return the audit sinks that the plugin contributes. Called once, when the server starts."""


@hookspec
def kes_server_started(server: ServerInfo) -> None:
    """The server listens and is ready. Called once, on a thread of its own, which gets 5 seconds."""


@hookspec
def kes_server_stopping(server: ServerInfo) -> None:
    """The server is about to stop. Called once, on a thread of its own, which gets 5 seconds."""

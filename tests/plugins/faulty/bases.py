"""Plugins without a fault, from which the faulty ones derive. Each class is both the plugin and its store or engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from kes_core import (
    AuditSink,
    AuditSinkType,
    Decision,
    Frontend,
    FrontendBackend,
    FrontendContext,
    KeyStoreBackend,
    PluginContext,
    PolicyEngine,
    PolicyEngineType,
    PolicyRequest,
    Verdict,
    hookimpl,
)
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import Section

SECRET = "canary-51f0"
"""In the text of each foreign exception, as a key could be. No answer may show it."""


async def forever() -> Any:
    """Wait until the task is cancelled."""
    await asyncio.Event().wait()


async def stubbornly() -> Any:
    """Wait, and ignore the first cancellation, as a call of a library that hangs."""
    try:
        await forever()
    except asyncio.CancelledError:
        await forever()


class FaultyStore(MemoryKeyStore):
    """A key store in memory."""

    kes_hookspec_version: Any = 1
    hangs = False
    """Whether it waits for the end of a time limit, so that the limits of the test are short."""
    config: Any = Section
    more: Mapping[str, Any] = {}
    """Further arguments of its `KeyStoreBackend`."""

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return cls()

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Sequence[KeyStoreBackend]:
        return [KeyStoreBackend("faulty", cls.config, cls.connect, **cls.more)]


class FaultyEngine(PolicyEngine):
    """A policy engine that allows everything."""

    kes_hookspec_version = 1
    hangs = False
    more: Mapping[str, Any] = {}

    async def authorize(self, request: PolicyRequest) -> Any:
        return Verdict(Decision.ALLOW, "why not")

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return cls()

    @classmethod
    @hookimpl
    def kes_policy_engines(cls) -> Sequence[PolicyEngineType]:
        return [PolicyEngineType("faulty", Section, cls.connect, **cls.more)]


class FaultySink(AuditSink):
    """An audit sink that drops all records."""

    kes_hookspec_version = 1
    hangs = False
    more: Mapping[str, Any] = {}

    def audit(self, event: Mapping[str, Any]) -> Any:
        pass

    @classmethod
    async def connect(cls, _settings: Any, _context: PluginContext) -> Any:
        return cls()

    @classmethod
    @hookimpl
    def kes_audit_sinks(cls) -> Sequence[AuditSinkType]:
        return [AuditSinkType("faulty", Section, cls.connect, **cls.more)]


class FaultyFrontend(Frontend):
    """A front end that listens nowhere."""

    kes_hookspec_version = 1
    hangs = False
    has_task = False
    """Whether its fault is in a task, for whose end the test waits."""
    identity = ""
    """The admin."""
    more: Mapping[str, Any] = {}

    def __init__(self, context: FrontendContext) -> None:
        self.context = context

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    @classmethod
    async def connect(cls, _settings: Any, context: FrontendContext) -> Any:
        return cls(context)

    @classmethod
    @hookimpl
    def kes_frontends(cls) -> Sequence[FrontendBackend]:
        return [FrontendBackend("faulty", Section, cls.connect, **cls.more)]

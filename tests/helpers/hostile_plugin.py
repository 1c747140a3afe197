"""A plugin that shows what it is given whenever it can: every method raises, with the values in the text.

Installed for the tests of the boundary by an entry point of its own. `KES_TEST_FAULT` says how a method fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from kes_core import (
    AuditSink,
    AuditSinkType,
    KeyStore,
    KeyStoreBackend,
    KeyStoreError,
    Page,
    PluginContext,
    PolicyEngine,
    PolicyEngineType,
    PolicyRequest,
    ServerInfo,
    Verdict,
    hookimpl,
)
from kes_core.config import Secret, Section

kes_hookspec_version = 1

CANARY = "canary-6f1d0c"


def fail(*values: object) -> Any:
    text = f"{CANARY} {values!r}"
    match os.environ["KES_TEST_FAULT"]:
        case "exit":
            raise SystemExit(text)
        case "cancel":
            raise asyncio.CancelledError(text)
        case "chained":
            raise KeyStoreError("it failed\n" + "x" * 5000) from ValueError(text)
        case "group":
            raise BaseExceptionGroup(text, [GeneratorExit(text), ValueError(text)])
        case _:
            raise ValueError(text)


background: set[asyncio.Task[None]] = set()


async def in_the_background() -> None:
    fail()


def noise() -> None:
    """Fail in each way that a caller does not notice."""
    try:
        fail()
    except BaseException:
        logging.getLogger("library").exception("an error of a library")
    logging.getLogger("library").error("%d things", CANARY)
    warnings.warn(CANARY, stacklevel=1)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    loop = asyncio.get_running_loop()
    loop.call_soon(fail, CANARY)
    background.add(loop.create_task(in_the_background()))
    background.clear()


class Store(KeyStore):
    health_interval = 0.2

    async def status(self) -> None:
        noise()
        fail()

    async def create(self, name: str, value: bytes) -> None:
        fail(name, value)

    async def get(self, name: str) -> bytes:
        await asyncio.sleep(0)
        fail(name)
        return b""

    async def delete(self, name: str) -> None:
        fail(name)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Page:
        fail(prefix, start, limit)
        return Page([], "")

    async def close(self) -> None:
        if os.environ["KES_TEST_FAULT"] == "hang":
            threading.Thread(target=threading.Event().wait).start()
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        fail()


class Engine(PolicyEngine):
    async def authorize(self, request: PolicyRequest) -> Verdict:
        if request.resource == "later":
            await asyncio.sleep(0.01)
        fail(request)
        raise AssertionError

    async def close(self) -> None:
        fail()


class Sink(AuditSink):
    def audit(self, event: Mapping[str, Any]) -> None:
        fail(event)


class Settings(Section):
    token: Secret = Secret(CANARY)


async def connect_store(_settings: Settings, _context: PluginContext) -> Store:
    return Store()


async def connect_engine(_settings: Settings, _context: PluginContext) -> Engine:
    return Engine()


@hookimpl
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:
    return [KeyStoreBackend(name="hostile", config=Settings, connect=connect_store)]


@hookimpl
def kes_policy_engines() -> Sequence[PolicyEngineType]:
    return [PolicyEngineType(name="hostile", config=Settings, connect=connect_engine)]


async def connect_sink(_settings: Settings, _context: PluginContext) -> Sink:
    return Sink()


@hookimpl
def kes_audit_sinks() -> Sequence[AuditSinkType]:
    return [AuditSinkType(name="hostile", config=Settings, connect=connect_sink)]


@hookimpl
def kes_server_started(server: ServerInfo) -> None:
    fail(server)


@hookimpl
def kes_server_stopping(server: ServerInfo) -> None:
    fail(server)

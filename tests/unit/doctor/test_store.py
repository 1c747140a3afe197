"""Key stores, policy engines and plugins: what the doctor concludes from their answers and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kes_core import KeyStoreBackend, KeyStoreError
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import KeyStoreChoice, Section
from kes_core.doctor.store import examine_engines, examine_plugins, examine_store
from kes_core.findings import Finding
from kes_core.plugins import PluginInfo
from tests.helpers.doctor import PLUGINS, config, levels


class Settings(Section):
    """A section without fields."""


def examine(
    connect: Callable[[Any, Any], Awaitable[Any]],
    diagnose: Callable[[Any, Any], Awaitable[Sequence[Finding]]] | None = None,
) -> Sequence[Finding]:
    backend = KeyStoreBackend(name="mine", config=Settings, connect=connect, diagnose=diagnose)
    return asyncio.run(examine_store(KeyStoreChoice(backend, Settings()), time_limit=0.2))


async def connected(_settings: Settings, _context: Any) -> MemoryKeyStore:
    return MemoryKeyStore()


async def broken(_settings: Settings, _context: Any) -> MemoryKeyStore:
    raise RuntimeError("password=hunter2")


def test_store_without_a_doctor_is_connected_to() -> None:
    async def refused(_settings: Settings, _context: Any) -> MemoryKeyStore:
        raise KeyStoreError("the disk is gone: mount it")

    class Silent(MemoryKeyStore):
        async def status(self) -> None:
            raise KeyStoreError("it does not answer")

    async def silent(_settings: Settings, _context: Any) -> MemoryKeyStore:
        return Silent()

    assert examine(connected) == [Finding.ok("key store", "'mine' answers")]
    assert examine(refused) == [Finding.error("key store", "the disk is gone: mount it")]
    assert examine(silent) == [Finding.error("key store", "it does not answer")]


def test_nothing_of_what_a_plugin_raises_is_shown() -> None:
    async def confused(_settings: Settings, _context: Any) -> Sequence[Finding]:
        raise RuntimeError("password=hunter2")

    for findings in (examine(broken), examine(connected, confused)):
        (found,) = findings
        assert found.level == "error"
        assert "RuntimeError" in found.message
        assert "hunter2" not in str(found)


def test_store_that_hangs() -> None:
    async def hang(_settings: Settings, _context: Any) -> Any:
        await asyncio.Event().wait()

    for findings in (examine(hang), examine(connected, hang)):
        (found,) = findings
        assert (found.level, found.message) == ("error", "the key store 'mine' has not answered within 0.2 s")


def test_the_doctor_of_a_store_is_asked_instead() -> None:
    async def diagnose(_settings: Settings, _context: Any) -> Sequence[Finding]:
        return [Finding.warning("disk", "it is full", "empty it")]

    assert examine(broken, diagnose) == [Finding.warning("disk", "it is full", "empty it")]


def test_memory_is_no_place_for_keys(tmp_path: Path) -> None:
    found = asyncio.run(examine_store(config(tmp_path).keystore))
    assert levels(found) == {"warning", "ok"}
    assert found[0].message == "keys in the key store 'memory' are lost when the server stops"


def test_policy_engines(tmp_path: Path) -> None:
    async def engines(policies: Path) -> list[Finding]:
        section = {"cedar": {"policies": str(policies)}}
        return [finding async for finding in examine_engines(config(tmp_path, policy_engines=section))]

    file = tmp_path / "policies.cedar"
    assert [found.level for found in asyncio.run(engines(file))] == ["error"]
    file.write_text("permit(principal, action, resource);")
    assert asyncio.run(engines(file)) == [Finding.ok("policy engine", "'cedar' is ready")]


def test_plugins(tmp_path: Path) -> None:
    bad = PluginInfo("bad", "kes-bad", "1", error="plugin 'bad' of kes-bad 1: can't be imported")
    left = PluginInfo("left", "kes-left", "1", error="it is blocked", blocked=True)
    plugins = replace(PLUGINS, infos=(bad, left))
    found = examine_plugins(config(tmp_path, plugins={"block": ["left", "missing"]}), plugins)
    assert [finding.message for finding in found] == [
        "plugins.block names 'missing', and no plugin of that name is installed",
        "plugin 'bad' of kes-bad 1: can't be imported",
    ]
    assert levels(found) == {"warning"}

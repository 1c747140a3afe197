"""Check the key store, the policy engines and the plugins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from kes_core.boundary import Surroundings, connect_engine, connect_store, diagnose
from kes_core.doctor.keys import examine_keys
from kes_core.errors import BackendError
from kes_core.findings import Finding, FindingLevel
from kes_core.keystore import KeyStoreError

if TYPE_CHECKING:
    from kes_core.config import Config, KeyStoreChoice
    from kes_core.plugins import Plugins

__all__ = ["examine_engines", "examine_plugins", "examine_store"]

_TIME_LIMIT: Final = 60.0


async def examine_store(
    choice: KeyStoreChoice, *, login: bool = False, time_limit: float = _TIME_LIMIT
) -> Sequence[Finding]:
    """Check a key store: with the checks of its plugin, or else by connecting to it.

    Args:
        choice: The key store and its section of the configuration.
        login: Whether the plugin may use up credentials that work a limited number of times.
        time_limit: Seconds that it may take.
    """
    backend = choice.backend
    findings: list[Finding] = []
    if not backend.persistent:
        findings.append(
            Finding.warning(
                "key store",
                f"keys in the key store {backend.name!r} are lost when the server stops",
                "except for a trial, use another key store: `kes plugins` lists the installed ones",
            )
        )
    try:
        if backend.diagnose is not None:
            context = Surroundings().context("keystore", backend, choice.directory)
            findings += await diagnose(backend, choice.config, context, login=login, seconds=time_limit)
        else:
            async with asyncio.timeout(time_limit):
                findings.append(await _check_connection(choice))
        if login and backend.persistent and all(finding.level is not FindingLevel.ERROR for finding in findings):
            async with asyncio.timeout(time_limit):
                findings += await examine_keys(choice)
    except TimeoutError:
        findings.append(
            Finding.error(
                "key store",
                f"the key store {backend.name!r} has not answered within {time_limit:g} s",
                "check the network, the disk and the service that the key store uses",
            )
        )
    except KeyStoreError as error:
        findings.append(Finding.error("key store", str(error)))
    return findings


async def _check_connection(choice: KeyStoreChoice) -> Finding:
    try:
        context = Surroundings().context("keystore", choice.backend, choice.directory)
        store = await connect_store(choice.backend, choice.config, context)
        try:
            await store.status()
        finally:
            await store.close()
    except KeyStoreError as error:
        return Finding.error("key store", str(error))
    return Finding.ok("key store", f"{choice.backend.name!r} answers")


async def examine_engines(config: Config) -> AsyncIterator[Finding]:
    """Check that the policy engines of plugins can be used."""
    for choice in config.policy_engines:
        context = Surroundings().context("policy_engines", choice.type, choice.directory)
        try:
            if choice.type.diagnose is not None:
                for finding in await diagnose(choice.type, choice.config, context):
                    yield finding
                continue
            engine = await connect_engine(choice.type, choice.config, context)
        except BackendError as error:
            yield Finding.error("policy engine", str(error))
            continue
        await engine.close()
        yield Finding.ok("policy engine", f"{choice.type.name!r} is ready")


def examine_plugins(config: Config, plugins: Plugins) -> Sequence[Finding]:
    """Report plugins that can't be used, except blocked ones."""
    known = {name for info in plugins.infos for name in (info.name, info.distribution)}
    return [
        Finding.warning("plugin", f"plugins.block names {name!r}, and no plugin of that name is installed", "remove it")
        for name in config.plugins.block
        if name not in known
    ] + [
        Finding.warning("plugin", info.error, "uninstall it, or name it in plugins.block")
        for info in plugins.infos
        if info.error is not None and not info.blocked
    ]

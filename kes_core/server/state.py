"""The state of the server: one snapshot, which a reload replaces as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from kes_core.access.rules import AccessRules, connect_rules
from kes_core.audit.log import AuditLog
from kes_core.boundary import Surroundings, connect_store
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion, Timestamp
from kes_core.keystore import EntryExistsError, EntryNotFoundError
from kes_core.protocol import ROUTES

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.counters import StoreCounters
    from kes_core.plugins import Plugins
    from kes_core.tls import ServerTLS

__all__ = ["State", "connect"]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The running configuration with its connections. A request takes it once and keeps it to its end."""

    config: Config
    cache: KeyCache
    access: AccessRules
    """The rules of access, with the policy engines."""
    policy_of: Mapping[str, str]
    """The name of the policy of each identity that has one."""
    timeouts: Mapping[str, float | None]
    """The time limit of a request by route, in seconds."""
    tls: ServerTLS | None
    """The TLS settings of new connections; None without a network."""
    audit: AuditLog
    started_at: Timestamp
    """When the server began to use this configuration."""

    async def close(self) -> None:
        """Close the key store and the policy engines. The audit log stays open: another state may use it."""
        await self.cache.close()
        await self.access.close()


async def connect(
    config: Config,
    plugins: Plugins,
    *,
    counters: StoreCounters,
    on_key_change: Callable[[str], Awaitable[None]],
    surroundings: Surroundings | None = None,
    tls: ServerTLS | None = None,
    audit: AuditLog | None = None,
) -> State:
    """Connect to the key store and the policy engines of `config`, and create its missing keys.

    Args:
        config: The configuration.
        plugins: The plugins of its key store and policy engines.
        counters: Count the work of the cache and the store.
        on_key_change: Tells the server's other processes that a key was created, changed or deleted.
        surroundings: What plugins get to know of this process.
        tls: What new connections use. A server without a network has none.
        audit: Where audit records go; nowhere unless given.

    Raises:
        BackendError: The key store or a policy engine can't be used, or a key can't be created.
        TLSError: The CAs for clients can't be used.
    """
    surroundings = surroundings if surroundings is not None else Surroundings()
    access = await connect_rules(config, plugins, surroundings)
    try:
        # Beside the event loop: there may be a hundred thousand identities, and others are being served.
        policy_of = await asyncio.to_thread(_policy_of, config)
        cache = await _connect_cache(config, surroundings, counters=counters, on_key_change=on_key_change)
        try:
            await _create_missing_keys(cache, tuple(key.name for key in config.keys), created_by=access.admin)
        except BaseException:
            await cache.close()
            raise
    except BaseException:
        await access.close()
        raise
    return State(
        config=config,
        cache=cache,
        access=access,
        policy_of=MappingProxyType(policy_of),
        timeouts=MappingProxyType(_timeouts(config)),
        tls=tls,
        audit=audit if audit is not None else AuditLog(),
        started_at=Timestamp.now(),
    )


def _policy_of(config: Config) -> dict[str, str]:
    return {identity: name for name, policy in config.policy.items() for identity in policy.identities}


async def _connect_cache(
    config: Config,
    surroundings: Surroundings,
    *,
    counters: StoreCounters,
    on_key_change: Callable[[str], Awaitable[None]],
) -> KeyCache:
    choice = config.keystore
    context = surroundings.context("keystore", choice.backend, choice.directory)
    store = await connect_store(choice.backend, choice.config, context, for_requests=True)
    return KeyCache(store, config.cache.expiry, counters=counters, on_change=on_key_change)


async def _create_missing_keys(cache: KeyCache, names: tuple[str, ...], *, created_by: str) -> None:
    for name in names:
        try:
            await cache.get(name)
        except EntryNotFoundError:
            try:
                await cache.create(name, KeyVersion.generate(created_by))
            except EntryExistsError:
                continue  # another server was faster


def _timeouts(config: Config) -> dict[str, float | None]:
    timeouts: dict[str, float | None] = {}
    for route in ROUTES:
        settings = config.api.get(route.path)
        timeout = route.timeout if settings is None or not settings.timeout else settings.timeout
        timeouts[route.path] = timeout or None
    return timeouts

"""What the server works with: one snapshot, which a reload replaces as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kes_core.access.sender import Authorities, Sender, client_of
from kes_core.audit.log import AuditLog
from kes_core.boundary import connect_engine, connect_store
from kes_core.builtin.static_policy import ENGINE_NAME, StaticPolicyConfig
from kes_core.config.files import make_server_tls
from kes_core.identity import is_identity
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion, Timestamp
from kes_core.keystore import EntryExistsError, EntryNotFoundError
from kes_core.protocol import ROUTES

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.counters import StoreCounters
    from kes_core.plugins import Plugins
    from kes_core.policy import PolicyEngine
    from kes_core.tls import ServerTLS

__all__ = ["State", "connect"]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The running configuration with what it is connected to. A request takes it once and keeps it to its end."""

    config: Config
    cache: KeyCache
    engines: tuple[tuple[str, PolicyEngine], ...]
    """The policy engines by name, in the order in which they are asked."""
    admin: str
    """The admin's identity; empty when it is switched off."""
    policy_of: Mapping[str, str]
    """The name of the policy of each identity that has one."""
    proxies: frozenset[str]
    proxy_header: bytes
    authorities: Authorities | None
    """Who has to vouch for clients (`tls.auth: on`)."""
    timeouts: Mapping[str, float | None]
    """The time for a request by route, in seconds."""
    unauthenticated: frozenset[str]
    """Paths of the routes with `skip_auth`."""
    tls: ServerTLS
    """What new connections use."""
    audit: AuditLog
    started_at: Timestamp
    """When this configuration came into force."""

    def client_of(self, scope: Mapping[str, Any]) -> Sender:
        """Return who sent the request of an ASGI `scope`.

        Raises:
            RequestError: A TLS proxy's request does not say properly for whom it speaks.
        """
        return client_of(scope, proxies=self.proxies, proxy_header=self.proxy_header, authorities=self.authorities)

    async def close(self) -> None:
        """Close the key store and the policy engines. The audit log stays open: another state may go on with it."""
        await self.cache.close()
        for _name, engine in self.engines:
            await engine.close()


async def connect(
    config: Config,
    plugins: Plugins,
    *,
    counters: StoreCounters,
    on_key_change: Callable[[str], Awaitable[None]],
    audit: AuditLog | None = None,
) -> State:
    """Connect to the key store and the policy engines that `config` names, and make the keys that it asks for.

    Args:
        config: The configuration.
        plugins: From where its back ends come.
        counters: Where to count what the cache and the store do.
        on_key_change: Tells the server's other processes that a key was created or deleted.
        audit: Where audit records go; nowhere unless given.

    Raises:
        BackendError: The key store or a policy engine can't be used, or a key can't be created.
        TLSError: The certificate or the CAs for clients can't be used.
    """
    # Beside the event loop: it takes long on purpose to decrypt a private key, and long to read all CAs of the system.
    tls = await asyncio.to_thread(make_server_tls, config)
    authorities = None
    if config.tls.auth:
        authorities = await asyncio.to_thread(Authorities, Path(config.tls.ca) if config.tls.ca else None)
    backend = config.keystore.backend
    store = await connect_store(backend, config.keystore.config)
    cache = KeyCache(
        store,
        config.cache.expiry,
        counters=counters,
        on_change=on_key_change,
    )
    engines: list[tuple[str, PolicyEngine]] = []
    try:
        admin = config.admin.identity if is_identity(config.admin.identity) else ""
        await _create_missing_keys(cache, tuple(key.name for key in config.keys), created_by=admin)
        static = await connect_engine(plugins.engines[ENGINE_NAME], StaticPolicyConfig(policies=config.policy))
        engines.append((ENGINE_NAME, static))
        for choice in config.policy_engines:
            engine = await connect_engine(choice.type, choice.config)
            engines.append((choice.type.name, engine))
    except BaseException:
        await cache.close()
        for _name, engine in engines:
            await engine.close()
        raise
    return State(
        config=config,
        cache=cache,
        engines=tuple(engines),
        admin=admin,
        policy_of=MappingProxyType(
            {identity: name for name, policy in config.policy.items() for identity in policy.identities}
        ),
        proxies=frozenset(config.tls.proxy.identities),
        proxy_header=config.tls.proxy.header.cert.lower().encode("ascii"),
        authorities=authorities,
        timeouts=MappingProxyType(_timeouts(config)),
        unauthenticated=frozenset(path for path, api in config.api.items() if api.skip_auth),
        tls=tls,
        audit=audit if audit is not None else AuditLog(),
        started_at=Timestamp.now(),
    )


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

"""The access rules of one configuration. A reload replaces them as a whole."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kes_core.access.authorities import Authorities
from kes_core.boundary import Surroundings, connect_engine
from kes_core.builtin.static_policy import ENGINE_NAME, StaticPolicyConfig
from kes_core.identity import is_identity

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins
    from kes_core.policy import PolicyEngine

__all__ = ["AccessRules", "connect_rules"]


@dataclass(frozen=True, slots=True, eq=False)
class AccessRules:
    """The admin, the trusted TLS proxies, the CAs of clients, the open routes and the policy engines."""

    admin: str = ""
    """The admin's identity; empty without an admin."""
    proxies: frozenset[str] = frozenset()
    """Identities of TLS proxies. Only they may forward the certificates of other clients."""
    proxy_header: bytes = b""
    """The header in which they forward a certificate, in lower case."""
    authorities: Authorities | None = None
    """The CAs that verify clients (`tls.auth: on`)."""
    open_routes: frozenset[str] = frozenset()
    """Paths of the routes with `skip_auth`."""
    engines: tuple[tuple[str, PolicyEngine], ...] = ()
    """The policy engines by name, in the order in which the server asks them."""
    mark: object = field(default_factory=object)
    """Identifies these rules. A connection remembers this mark, because the rules themselves would stay in memory."""

    async def close(self) -> None:
        """Close the policy engines."""
        for _name, engine in self.engines:
            await engine.close()


async def connect_rules(config: Config, plugins: Plugins, surroundings: Surroundings | None = None) -> AccessRules:
    """Connect to the policy engines that `config` names, the static one first; return the rules of access.

    Raises:
        BackendError: An engine can't be connected to.
        TLSError: The CAs for clients can't be read.
    """
    admin = config.admin.identity
    surroundings = surroundings if surroundings is not None else Surroundings()
    engines: list[tuple[str, PolicyEngine]] = []
    authorities = None
    if config.tls.auth:
        # Off the event loop: reading all CAs of the system takes long.
        authorities = await asyncio.to_thread(Authorities, Path(config.tls.ca) if config.tls.ca else None)
    try:
        kind = plugins.engines[ENGINE_NAME]
        context = surroundings.context("policy_engines", kind, Path())
        static = await connect_engine(kind, StaticPolicyConfig(policies=config.policy), context)
        engines.append((ENGINE_NAME, static))
        for choice in config.policy_engines:
            context = surroundings.context("policy_engines", choice.type, choice.directory)
            seconds = config.plugins.authorize_timeout
            engine = await connect_engine(choice.type, choice.config, context, seconds=seconds)
            engines.append((choice.type.name, engine))
    except BaseException:
        for _name, engine in engines:
            await engine.close()
        raise
    return AccessRules(
        admin=admin if is_identity(admin) else "",
        proxies=frozenset(config.tls.proxy.identities),
        proxy_header=config.tls.proxy.header.cert.lower().encode("ascii"),
        authorities=authorities,
        open_routes=frozenset(path for path, api in config.api.items() if api.skip_auth),
        engines=tuple(engines),
    )

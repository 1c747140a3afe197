"""All checks of a configuration, as `kes doctor` runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kes_core.doctor.address import examine_addresses
from kes_core.doctor.audit import examine_audit
from kes_core.doctor.certificate import examine_certificate, examine_client_cas, examine_clock
from kes_core.doctor.configuration import with_cure, without_repetitions
from kes_core.doctor.frontends import examine_frontends
from kes_core.doctor.runtime import examine_runtime
from kes_core.doctor.settings import examine_api, examine_cache, examine_policies, examine_proxies
from kes_core.doctor.store import examine_engines, examine_plugins, examine_store
from kes_core.findings import Finding

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins

__all__ = ["examine"]


async def examine(config: Config, plugins: Plugins, file: Path, *, login: bool = False) -> Sequence[Finding]:
    """Check everything that a valid configuration refers to. Each warning and each error says what to do.

    Args:
        config: The configuration.
        plugins: The installed plugins.
        file: The file of the configuration.
        login: Whether the key store may use up credentials that work a limited number of times.
    """
    found = [
        *examine_plugins(config, plugins),
        *examine_addresses(config),
        *examine_clock([file, Path(config.tls.cert), Path(config.tls.key)]),
        *examine_certificate(config),
        *examine_client_cas(config),
        *examine_runtime(config),
        *examine_proxies(config),
        *examine_policies(config),
        *[finding async for finding in examine_engines(config)],
        *examine_api(config),
        *examine_cache(config),
        *[finding async for finding in examine_audit(config, plugins)],
        *[finding async for finding in examine_frontends(config)],
        *await examine_store(config.keystore, login=login),
    ]
    return [with_cure(finding) for finding in without_repetitions(found)]

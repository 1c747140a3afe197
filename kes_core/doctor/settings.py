"""Settings that are valid but probably mistakes: of policies, proxies, open APIs and the cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from kes_core.builtin.static_policy import matching_pattern
from kes_core.config.patterns import problem_of
from kes_core.findings import Finding
from kes_core.identity import is_identity
from kes_core.units import format_duration

if TYPE_CHECKING:
    from kes_core.config import Config, PolicySettings

__all__ = ["examine_api", "examine_cache", "examine_policies", "examine_proxies"]

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""The name of a header: RFC 9110, section 5.6.2."""


def examine_policies(config: Config) -> Iterator[Finding]:
    """Find identities that no client can have, and rules that match nothing."""
    admin = config.admin.identity
    if not is_identity(admin) and not any(policy.identities for policy in config.policy.values()):
        rest = "; only the other policy engines can allow something" if config.policy_engines else ""
        yield Finding.warning(
            "policies",
            f"there is no admin, and no policy has an identity{rest or ': no client may do anything'}",
            "put a client's identity under policy.<name>.identities; `kes identity of FILE` prints it",
        )
    for name, policy in config.policy.items():
        found = [*_policy(name, policy), *_rules(name, policy)]
        yield from found or [Finding.ok("policies", f"{name!r} has {_count(policy)}")]


def _count(policy: PolicySettings) -> str:
    clients, rules = len(policy.identities), len(policy.allow) + len(policy.deny)
    return f"{clients} client{'s'[: clients != 1]} and {rules} rule{'s'[: rules != 1]}, and each rule matches some API"


def _of(identity: str) -> str:
    if is_identity(identity.lower()):
        return f"write it in lower case: {identity.lower()}"
    return "an identity is 64 hex digits; `kes identity of FILE` prints that of a certificate or an API key"


def _policy(name: str, policy: PolicySettings) -> Iterator[Finding]:
    if not policy.identities:
        yield Finding.note(
            "policies", f"no identity has the policy {name!r}", f"name clients in policy.{name}.identities"
        )
    for identity in policy.identities:
        if not is_identity(identity):
            yield Finding.warning(
                "policies", f"{identity!r} in policy {name!r} is not an identity: no client has it", _of(identity)
            )
    if not policy.allow:
        yield Finding.warning(
            "policies", f"policy {name!r} allows nothing", f"`kes doctor client-policy` writes rules for policy.{name}"
        )


def _rules(name: str, policy: PolicySettings) -> Iterator[Finding]:
    for kind, patterns in (("allow", policy.allow), ("deny", policy.deny)):
        for pattern in patterns:
            problem, cure = problem_of(pattern)
            if problem:
                yield Finding.warning("policies", f"{kind} rule {pattern!r} of policy {name!r} {problem}", cure)
    for pattern in policy.allow:
        if pattern in {"*", "/*", "/v1/*"}:
            yield Finding.note(
                "policies",
                f"allow rule {pattern!r} of policy {name!r} allows everything, as to the admin",
                "allow the APIs and keys that the client needs: `kes doctor client-policy` writes such rules",
            )
        covering = matching_pattern(policy.deny, pattern)
        if covering is not None and covering.endswith("*"):
            yield Finding.warning(
                "policies",
                f"allow rule {pattern!r} of policy {name!r} has no effect: deny rule {covering!r} is wider, and wins",
                "remove one of the two, or make the deny rule narrower",
            )


def examine_proxies(config: Config) -> Iterator[Finding]:
    """Check the TLS proxies that may forward client certificates."""
    proxy = config.tls.proxy
    header = proxy.header.cert
    if not proxy.identities:
        if "header" in proxy.model_fields_set:
            yield Finding.warning(
                "TLS proxy",
                "tls.proxy.header has no effect: no proxy is named",
                "name the proxy's identity in tls.proxy.identities; `kes identity of proxy.crt` prints it",
            )
        return
    if not _HEADER.fullmatch(header):
        yield Finding.error(
            "TLS proxy",
            f"{header!r} can't be the name of a header",
            "use letters, digits and hyphens: X-Tls-Client-Cert",
        )
        return
    for identity in proxy.identities:
        if not is_identity(identity):
            yield Finding.warning("TLS proxy", f"{identity!r} is not an identity: no proxy has it", _of(identity))
    yield Finding.note(
        "TLS proxy",
        f"a holder of the private key of one of {len(proxy.identities)} proxies can act as any client: "
        f"the server believes the header {header!r} of their requests",
        "let the proxy set the header itself, and drop the header that a client sends",
    )


def examine_api(config: Config) -> Iterator[Finding]:
    """Report the routes that need no certificate."""
    open_paths = [path for path, settings in config.api.items() if settings.skip_auth]
    if open_paths:
        yield Finding.note(
            "API",
            f"{', '.join(open_paths)}: any program that can connect may call this without a certificate",
            "remove skip_auth where clients and probes have a certificate",
        )


def examine_cache(config: Config) -> Iterator[Finding]:
    """Report surprising settings of the cache."""
    expiry = config.cache.expiry
    persistent = config.keystore.backend.persistent
    if not expiry.offline and persistent:
        yield Finding.note(
            "cache",
            "cache.expiry.offline is off: when the key store can't be reached, requests fail as soon as keys expire "
            f"({format_duration(expiry.unused or expiry.any)} after their last use)",
            "to go on through an outage, set for how long: cache.expiry.offline: 1h",
        )
    if not expiry.any and persistent:
        yield Finding.note(
            "cache",
            "cache.expiry.any is off: a key that is removed from the key store itself is served as long as it is used",
            "set how long that may take: cache.expiry.any: 5m",
        )
    if expiry.any and expiry.unused > expiry.any:
        yield Finding.note(
            "cache",
            f"cache.expiry.unused ({format_duration(expiry.unused)}) has no effect: all keys leave memory after "
            f"cache.expiry.any ({format_duration(expiry.any)})",
            "make it shorter than cache.expiry.any",
        )
    if 0 < expiry.offline < expiry.unused:
        yield Finding.warning(
            "cache",
            f"cache.expiry.offline ({format_duration(expiry.offline)}) is shorter than cache.expiry.unused "
            f"({format_duration(expiry.unused)}): keys leave memory sooner while the key store is unreachable",
            "make it as long as an outage may last: 1h",
        )


def allowing_policies(policies: Mapping[str, PolicySettings], path: str) -> list[str]:
    """Return the names of the policies that allow a path."""
    return [
        name
        for name, policy in policies.items()
        if matching_pattern(policy.deny, path) is None and matching_pattern(policy.allow, path) is not None
    ]

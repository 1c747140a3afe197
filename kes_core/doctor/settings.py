"""Settings that are valid, and yet hardly what somebody meant: policies, proxies, open APIs and the cache."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from kes_core.builtin.static_policy import matching_pattern
from kes_core.findings import Finding
from kes_core.names import is_valid_name, is_valid_pattern
from kes_core.protocol import ROUTES, Argument, Auth, Route

if TYPE_CHECKING:
    from kes_core.config import Config, PolicySettings

__all__ = ["examine_api", "examine_cache", "examine_policies", "examine_proxies", "is_identity"]

_IDENTITY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NEARLY_IDENTITY: Final = re.compile(r"[0-9a-fA-F]{32,}", re.ASCII)
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""The name of a header: RFC 9110, section 5.6.2."""
_ALIKE: Final = 0.6
"""How much two paths have to have in common, from 0 to 1, for one to be a slip of the other."""


def is_identity(text: str) -> bool:
    """Tell whether `text` is what the identity of a client looks like."""
    return _IDENTITY.fullmatch(text) is not None


def examine_policies(config: Config) -> Iterator[Finding]:
    """Look for identities that no client has, and rules that match nothing."""
    admin = config.admin.identity
    if _NEARLY_IDENTITY.fullmatch(admin) and not is_identity(admin):
        yield Finding.warning("policies", f"admin.identity {admin!r} is no identity: there is no admin", _of(admin))
    if not is_identity(admin) and not any(policy.identities for policy in config.policy.values()):
        rest = "; only the other policy engines can allow something" if config.policy_engines else ""
        yield Finding.warning(
            "policies",
            f"there is no admin, and no policy has an identity{rest or ': nobody may do anything'}",
            "put a client's identity under policy.<name>.identities; `kes identity of FILE` prints it",
        )
    for name, policy in config.policy.items():
        found = [*_policy(name, policy), *_rules(name, policy)]
        yield from found or [Finding.ok("policies", f"{name!r} has {_count(policy)}")]


def _count(policy: PolicySettings) -> str:
    clients, rules = len(policy.identities), len(policy.allow) + len(policy.deny)
    return f"{clients} client{'s'[: clients != 1]} and {rules} rule{'s'[: rules != 1]}, all of which match some API"


def _of(identity: str) -> str:
    if is_identity(identity.lower()):
        return f"write it in lower case: {identity.lower()}"
    return "an identity is 64 hex digits; `kes identity of FILE` prints that of a certificate or an API key"


def _policy(name: str, policy: PolicySettings) -> Iterator[Finding]:
    if not policy.identities:
        yield Finding.note("policies", f"nobody has the policy {name!r}", f"name clients in policy.{name}.identities")
    for identity in policy.identities:
        if not is_identity(identity):
            yield Finding.warning(
                "policies", f"{identity!r} in policy {name!r} is no identity: no client has it", _of(identity)
            )
    if not policy.allow:
        yield Finding.warning(
            "policies", f"policy {name!r} allows nothing", f"`kes doctor client-policy` writes rules for policy.{name}"
        )


def _rules(name: str, policy: PolicySettings) -> Iterator[Finding]:
    for kind, patterns in (("allow", policy.allow), ("deny", policy.deny)):
        for pattern in patterns:
            problem, cure = _problem_of(pattern)
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


def _problem_of(pattern: str) -> tuple[str, str]:
    """Return why a pattern matches no request of the API, and what may have been meant; empty if it does match one."""
    if not pattern:
        return "is empty and matches nothing", "remove it"
    start, is_prefix = pattern.removesuffix("*"), pattern.endswith("*")
    if "*" in start:
        return (
            "matches no API: a * that is not at the end is an ordinary character",
            f"end it at the first *: {start.partition('*')[0]}*",
        )
    if "%" in start:
        return "matches no API: rules are compared with the decoded path", "write the characters themselves"
    routes = [route for route in ROUTES if _can_match(route, start, is_prefix=is_prefix)]
    if not routes:
        return "matches no API", _suggestion(start)
    if all(route.auth is not Auth.POLICY for route in routes):
        return "has no effect: no policy is asked about this API", "remove it"
    return "", ""


def _can_match(route: Route, start: str, *, is_prefix: bool) -> bool:
    """Tell whether a pattern, `start` with or without a final `*`, matches a valid request to `route`."""
    if route.argument is None:
        return route.path.startswith(start) if is_prefix else route.path == start
    if not start.startswith(route.path):
        return is_prefix and route.path.startswith(start)
    argument = start.removeprefix(route.path)
    if route.argument is Argument.NAME:
        return (is_prefix and _may_begin_name(argument)) or is_valid_name(argument)
    beginning, separator, _place = argument.partition("~")  # clients ask for the next page so
    return is_valid_pattern(beginning) or bool(separator) or (is_prefix and _may_begin_name(argument))


def _may_begin_name(text: str) -> bool:
    return not text or is_valid_name(text) or is_valid_name(text + "a")


def _suggestion(start: str) -> str:
    """Return what may have been meant by a pattern for no API."""
    with_name = next((route for route in ROUTES if route.path == start + "/"), None)
    if with_name is not None:
        return f"a name follows in the path: {with_name.path}*"
    known = next((route for route in ROUTES if route.path.endswith("/") and start.startswith(route.path)), None)
    if known is not None:
        rest = start.removeprefix(known.path)
        return f"{rest!r} is not, and does not begin, a valid name: 1 to 80 of A-Z a-z 0-9 - _, no - at either end"
    folder, _separator, rest = start.rpartition("/")
    # A rule with a name is like an API without it, and one for an API without names is like the API as it stands.
    likeness = {
        (route, text): difflib.SequenceMatcher(None, text, route.path.rstrip("/")).ratio()
        for route in ROUTES
        for text in (start.rstrip("/"), folder)
    }
    (route, text), ratio = max(likeness.items(), key=lambda item: item[1])
    if ratio < _ALIKE:
        return "`kes status --api` lists the APIs"
    if route.argument is None:
        return f"the closest is {route.path}"
    return f"the closest is {route.path}{rest if text == folder else ''}*"


def examine_proxies(config: Config) -> Iterator[Finding]:
    """Look at the TLS proxies that may speak for clients."""
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
            yield Finding.warning("TLS proxy", f"{identity!r} is no identity: no proxy has it", _of(identity))
    yield Finding.note(
        "TLS proxy",
        f"whoever has the private key of one of {len(proxy.identities)} proxies can be any client: "
        f"the server believes the header {header!r} of their requests",
        "the proxy has to set the header itself, and to drop it where a client sends it",
    )


def examine_api(config: Config) -> Iterator[Finding]:
    """Tell what is open to everybody."""
    open_paths = [path for path, settings in config.api.items() if settings.skip_auth]
    if open_paths:
        yield Finding.note(
            "API",
            f"{', '.join(open_paths)}: anybody who can connect may call this, and connect without a certificate",
            "remove skip_auth where clients and probes have a certificate",
        )


def examine_cache(config: Config) -> Iterator[Finding]:
    """Tell of settings of the cache that surprise."""
    expiry = config.cache.expiry
    persistent = config.keystore.backend.persistent
    if not expiry.offline and persistent:
        yield Finding.note(
            "cache",
            "cache.expiry.offline is off: when the key store can't be reached, requests fail as soon as keys expire "
            f"({_seconds(expiry.unused or expiry.any)} after their last use)",
            "to go on through an outage, set for how long: cache.expiry.offline: 1h",
        )
    if not expiry.any and persistent:
        yield Finding.note(
            "cache",
            "cache.expiry.any is off: a key that somebody removes from the key store itself is served as long as it is "
            "used",
            "set how long that may take: cache.expiry.any: 5m",
        )
    if expiry.any and expiry.unused > expiry.any:
        yield Finding.note(
            "cache",
            f"cache.expiry.unused ({_seconds(expiry.unused)}) has no effect: all keys go after cache.expiry.any "
            f"({_seconds(expiry.any)})",
            "make it shorter than cache.expiry.any",
        )
    if 0 < expiry.offline < expiry.unused:
        yield Finding.warning(
            "cache",
            f"cache.expiry.offline ({_seconds(expiry.offline)}) is shorter than cache.expiry.unused "
            f"({_seconds(expiry.unused)}): keys go sooner while the key store is unreachable",
            "make it as long as an outage may last: 1h",
        )


def _seconds(seconds: float) -> str:
    for unit, size in {"h": 3600, "m": 60}.items():
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def allowing_policies(policies: Mapping[str, PolicySettings], path: str) -> list[str]:
    """Return the names of the policies that allow a path."""
    return [
        name
        for name, policy in policies.items()
        if matching_pattern(policy.deny, path) is None and matching_pattern(policy.allow, path) is not None
    ]

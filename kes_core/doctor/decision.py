"""What becomes of one client's request: each check in the order of the server, up to the one that refuses it."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from cryptography import x509

from kes_core.access.sender import Authorities
from kes_core.boundary import PluginError, connect_engine
from kes_core.builtin.static_policy import ENGINE_NAME, StaticPolicyConfig, matching_pattern
from kes_core.doctor.settings import allowing_policies
from kes_core.errors import BackendError
from kes_core.findings import Finding
from kes_core.identity import (
    APIKey,
    IdentityError,
    certificate_facts,
    identity_of_chain,
    is_identity,
    load_certificates,
)
from kes_core.names import NAME_RULE, is_valid_name, is_valid_pattern
from kes_core.policy import Decision, PolicyEngine, PolicyRequest, Verdict
from kes_core.protocol import ROUTES, Argument, Auth, Route
from kes_core.tls import TLSError

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins
    from kes_core.policy import CertificateFacts

__all__ = ["Requester", "explain"]


class _RefusedError(Exception):
    """A check refuses the request."""

    def __init__(self, layer: str, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.finding = Finding.error(layer, message, cure)


@dataclass(frozen=True, slots=True)
class Requester:
    """The client of a request, as far as it is known."""

    identity: str
    """Empty for a client without a certificate."""
    chain: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    """Its certificates, if they are known."""

    @classmethod
    def nobody(cls) -> Requester:
        """Return a client that shows no certificate."""
        return cls("")

    @classmethod
    def from_file(cls, file: Path) -> Requester:
        """Read a client's certificate, with its chain, or its API key.

        Raises:
            ValueError: It can't be read, or holds neither. The message holds nothing of it.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{str(file)!r} can't be read: {error.strerror}") from None
        if b"-----BEGIN" not in content:
            try:
                key = APIKey.parse(content.decode("ascii").strip())
            except ValueError:
                raise ValueError(f"{str(file)!r} holds neither a certificate nor an API key") from None
            return cls(key.identity, tuple(load_certificates(key.certificate()[1])))
        try:
            chain = tuple(load_certificates(content))
        except IdentityError:
            raise ValueError(
                f"{str(file)!r} holds no valid certificate: give the certificate (not the private key), or an API key"
            ) from None
        try:
            return cls(identity_of_chain(chain)[0], chain)
        except IdentityError:
            return cls("", chain)  # what is wrong with it is a finding


async def explain(
    config: Config, plugins: Plugins, asker: Requester, path: str, *, method: str = "", address: str = "127.0.0.1"
) -> Sequence[Finding]:
    """Tell what the server does with a request, and why.

    Args:
        config: That of the server.
        plugins: Where policy engines come from.
        asker: Who asks.
        path: What is asked for, as in `/v1/key/generate/my-key`, or a URL.
        method: How; that of the API unless another is given.
        address: From which IP address.

    Returns:
        A finding for each check, in their order. The last is an error if the request is refused.
    """
    findings: list[Finding] = []
    try:
        async for finding in _checks(config, plugins, asker, path, method, address):
            findings.append(finding)  # noqa: PERF401 # those before a refusal are kept
    except _RefusedError as refused:
        findings.append(refused.finding)
    return findings


async def _checks(
    config: Config, plugins: Plugins, asker: Requester, path: str, method: str, address: str
) -> AsyncIterator[Finding]:
    for finding in _tls(config, asker):
        yield finding
    raw_path = urlsplit(path).path if "://" in path else path.partition("?")[0]
    decoded = unquote_to_bytes(raw_path).decode("utf-8", "surrogateescape")
    route, argument = _route(raw_path, decoded)
    yield Finding.ok("route", f"{route.method} {route.path}: {route.summary}")
    method = (method or route.method).upper()
    if method != route.method and not (method == "POST" and route.method == "PUT"):
        raise _RefusedError("method", f"denied: {route.path} takes {route.method}, not {method}", "send another method")
    yield _certificate(config, asker, route)
    request = PolicyRequest(
        identity=asker.identity,
        method=method,
        path=decoded,
        api=route.path,
        resource=argument,
        remote_address=address,
        time=dt.datetime.now(dt.UTC),
        certificate=_facts(asker, verified=config.tls.auth),
    )
    async for finding in _policy(config, plugins, route, request):
        yield finding
    _name(route, argument)
    yield Finding.ok("decision", "allowed: what comes next is the body of the request, and the key store")


# TLS and route


def _tls(config: Config, asker: Requester) -> list[Finding]:
    if not asker.chain and not asker.identity:
        open_paths = [path for path, settings in config.api.items() if settings.skip_auth]
        if open_paths:
            return [Finding.ok("tls", f"a connection without a certificate is accepted, for {', '.join(open_paths)}")]
        raise _RefusedError(
            "tls",
            "denied: the handshake fails, since the client shows no certificate",
            "give the client an API key or a certificate (`kes identity`), or set skip_auth where anybody may ask",
        )
    if not config.tls.auth:
        return [Finding.ok("tls", "any certificate is accepted (tls.auth is off)")]
    if not asker.chain:
        text = "tls.auth is on: a CA of tls.ca has to vouch for the client's certificate, which is not known here"
        return [Finding.note("tls", text, "give the certificate itself, with --client")]
    if _proxies(config, asker.identity):
        return [Finding.ok("tls", "the proxy's certificate is verified as any other")]
    problem = _unverified(config, asker.chain)
    if problem:
        raise _RefusedError(
            "tls",
            f"denied: the handshake fails, since {problem} (tls.auth is on)",
            "have the CA of tls.ca issue a certificate for the client, or set tls.auth: off",
        )
    return [Finding.ok("tls", "a CA of tls.ca vouches for the client's certificate")]


def _proxies(config: Config, identity: str) -> bool:
    return identity in config.tls.proxy.identities


def _unverified(config: Config, chain: Sequence[x509.Certificate]) -> str:
    """Return why OpenSSL would not accept a client's certificates; empty if it would."""
    try:
        authorities = Authorities(Path(config.tls.ca) if config.tls.ca else None)
    except (TLSError, OSError) as error:
        return f"tls.ca can't be used: {error}"
    leaf, now = chain[0], dt.datetime.now(dt.UTC)
    if now > leaf.not_valid_after_utc:
        return f"the client's certificate has expired on {leaf.not_valid_after_utc:%Y-%m-%d}"
    if problem := authorities.problem(chain):
        return f"the client's certificate, issued by {leaf.issuer.rfc4514_string()!r}, is refused: {problem}"
    return ""


def _route(raw_path: str, path: str) -> tuple[Route, str]:
    """Return the route for a path and its argument."""
    if not raw_path.startswith("/"):
        raise _RefusedError("route", f"{raw_path!r} is no path", f"write /{raw_path}")
    if "//" in raw_path or "/." in raw_path:
        raise _RefusedError(
            "route",
            "denied: the path has empty parts or dots; the client is sent elsewhere (307)",
            "leave them out",
        )
    exact = next((route for route in ROUTES if route.path == path), None)
    if exact is not None:
        return exact, ""
    matching = [route for route in ROUTES if route.argument is not None and path.startswith(route.path)]
    if matching:
        route = max(matching, key=lambda route: len(route.path))
        return route, path.removeprefix(route.path)
    if any(route.path == path + "/" for route in ROUTES):
        raise _RefusedError("route", f"denied: a name is missing; the client is sent to {path}/ (307)", "add a name")
    raise _RefusedError("route", f"denied: there is no API {path!r} (404)", "`kes status --api` lists the APIs")


# Who it is


def _certificate(config: Config, asker: Requester, route: Route) -> Finding:
    try:
        identity = identity_of_chain(asker.chain)[0] if asker.chain else asker.identity
        problem = "" if identity else "tls: client certificate is required"
    except IdentityError as error:
        identity, problem = "", str(error)
    if identity and _proxies(config, identity):
        header = config.tls.proxy.header.cert
        raise _RefusedError(
            "certificate",
            f"denied: this is the identity of a TLS proxy, whose requests need the header {header} "
            "with the certificate of the client it speaks for (400)",
            "ask about that client; or remove the identity from tls.proxy.identities",
        )
    if route.auth is Auth.NONE or _is_open(config, route):
        return Finding.ok("certificate", "none is needed")
    if problem:
        raise _RefusedError(
            "certificate",
            f"denied: {problem} ({400 if route.auth is Auth.POLICY else 404})",
            "show one certificate, which is not that of a CA: `kes identity new` makes one",
        )
    return Finding.ok("certificate", f"the identity is {identity}")


def _is_open(config: Config, route: Route) -> bool:
    settings = config.api.get(route.path)
    return settings is not None and settings.skip_auth


def _facts(asker: Requester, *, verified: bool) -> CertificateFacts | None:
    try:
        return certificate_facts(identity_of_chain(asker.chain)[1], verified=verified) if asker.chain else None
    except IdentityError:
        return None


# What it may do


async def _policy(config: Config, plugins: Plugins, route: Route, request: PolicyRequest) -> AsyncIterator[Finding]:
    """Ask the policy engines as the server does: one that denies refuses, and one at least has to allow."""
    if route.auth is not Auth.POLICY or _is_open(config, route):
        yield Finding.ok("policy", "none is needed for this API")
        return
    if request.identity == config.admin.identity and is_identity(request.identity):
        yield Finding.ok("policy", "allowed: this is the admin, who may do everything")
        return
    allowed = False
    reasons = []
    async for name, verdict in _verdicts(config, plugins, request):
        if verdict.decision is Decision.DENY:
            cure = _cure_of_denial(config, request, name)
            raise _RefusedError("policy", f"{_told(name, verdict)} (403)", cure)
        allowed = allowed or verdict.decision is Decision.ALLOW
        reasons.append(verdict.reason if name == ENGINE_NAME else f"{name}: {verdict.reason}")
        if verdict.decision is Decision.ALLOW:
            rule = _rule(config, request) if name == ENGINE_NAME else f"{name}: {verdict.reason}"
            yield Finding.ok("policy", f"allowed: {rule}")
    if not allowed:
        raise _RefusedError("policy", f"denied: {'; '.join(reasons)} (403)", _cure_of_silence(config, request))


async def _verdicts(config: Config, plugins: Plugins, request: PolicyRequest) -> AsyncIterator[tuple[str, Verdict]]:
    """Ask each engine in the order of the server, up to the first that denies."""
    static = await connect_engine(plugins.engines[ENGINE_NAME], StaticPolicyConfig(policies=config.policy))
    yield ENGINE_NAME, await _ask(static, request)
    for choice in config.policy_engines:
        name = choice.type.name
        try:
            engine = await connect_engine(choice.type, choice.config)
        except BackendError as error:
            raise _RefusedError("policy", f"the server does not start: {error}") from None
        try:
            yield name, await _ask(engine, request)
        finally:
            await engine.close()


async def _ask(engine: PolicyEngine, request: PolicyRequest) -> Verdict:
    try:
        return await engine.authorize(request)
    except PluginError as error:  # as in the server, which logs it: an engine that fails refuses
        return Verdict(Decision.DENY, str(error))


def _policy_of(config: Config, identity: str) -> str:
    return next((name for name, policy in config.policy.items() if identity in policy.identities), "")


def _told(engine: str, verdict: Verdict) -> str:
    return verdict.reason if engine == ENGINE_NAME else f"denied by the policy engine {engine!r}: {verdict.reason}"


def _rule(config: Config, request: PolicyRequest) -> str:
    name = _policy_of(config, request.identity)
    return f"rule {matching_pattern(config.policy[name].allow, request.path)!r} of policy {name!r}"


def _cure_of_denial(config: Config, request: PolicyRequest, engine: str) -> str:
    if engine != ENGINE_NAME:
        return f"change the policies of the engine {engine!r}"
    name = _policy_of(config, request.identity)
    return f"make the rule in policy.{name}.deny narrower: it wins over every allow rule"


def _cure_of_silence(config: Config, request: PolicyRequest) -> str:
    name = _policy_of(config, request.identity)
    if name:
        return f"add {request.path!r}, or a rule like it that ends in *, to policy.{name}.allow, and reload (kill -HUP)"
    if not config.policy:
        return "write a policy: `kes doctor client-policy sdk` prints one to start from"
    able = [f"policy.{other}.identities" for other in allowing_policies(config.policy, request.path)]
    where = " or ".join(able) or "policy.<name>.identities"
    rest = "" if able else "; no policy allows this path yet"
    return f"add the identity to {where}, and reload (kill -HUP){rest}"


def _name(route: Route, argument: str) -> None:
    if route.argument is Argument.NAME and not is_valid_name(argument):
        raise _RefusedError("name", f"denied: {argument!r} is not a valid name (400)", f"use {NAME_RULE}")
    if route.argument is Argument.PATTERN:
        pattern, separator, place = argument.partition("~")
        if not is_valid_pattern(pattern + "*" if separator else pattern) or (separator and not is_valid_name(place)):
            text = f"denied: {argument!r} is not a valid pattern for a listing (400)"
            raise _RefusedError("name", text, "use a name, or the beginning of names and a *")

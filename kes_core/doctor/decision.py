"""Explain why the server allows or refuses a request: all checks in order, up to the one that refuses.

The checks are the server's own, from `kes_core.access`. This module adds what to do about a refusal.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography import x509

from kes_core.access.decide import AccessDecision, EngineAnswer, decide
from kes_core.access.errors import NotRoutedError, RequestError, UnidentifiedSenderError
from kes_core.access.routing import check_argument, decode_path, find_route
from kes_core.access.rules import AccessRules, connect_rules
from kes_core.access.sender import ProvenClient, Sender, identify
from kes_core.builtin.static_policy import ENGINE_NAME, matching_pattern
from kes_core.doctor.settings import allowing_policies
from kes_core.errors import BackendError
from kes_core.findings import Finding
from kes_core.identity import APIKey, IdentityError, identity_of_chain, load_certificates
from kes_core.names import NAME_RULE
from kes_core.policy import Decision
from kes_core.protocol import ROUTES, Argument, Auth, Route
from kes_core.tls import TLSError

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins

__all__ = ["Requester", "explain"]


class _RefusedError(Exception):
    """A check refuses the request."""

    def __init__(self, layer: str, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.finding = Finding.error(layer, message, cure)


@dataclass(frozen=True, slots=True)
class Requester:
    """The client that makes a request: its certificates, or only its identity."""

    identity: str
    """Empty for a client without a certificate."""
    chain: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    """Its certificates; empty if only the identity is known."""

    @classmethod
    def anonymous(cls) -> Requester:
        """Return a client without a certificate."""
        return cls("")

    @classmethod
    def from_file(cls, file: Path) -> Requester:
        """Read a client's certificate, with its chain, or its API key.

        Raises:
            ValueError: It can't be read, or contains neither. The message has nothing of its content.
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
            return cls("", chain)  # a finding reports the error

    def client(self, address: str, *, verified: bool) -> ProvenClient:
        """Return the client of a connection that this requester opened.

        Args:
            address: Its IP address.
            verified: Whether the handshake verified the certificate.
        """
        if self.chain or not self.identity:
            return ProvenClient.from_chain(self.chain, verified=verified, address=address)
        return ProvenClient(self.identity, "", None, verified, presented=True, address=address)


@dataclass(frozen=True, slots=True)
class _Request:
    """A request as the server receives it."""

    method: str
    raw_path: bytes
    path: str
    """The decoded path."""
    client: ProvenClient


async def explain(
    config: Config, plugins: Plugins, requester: Requester, path: str, *, method: str = "", address: str = "127.0.0.1"
) -> Sequence[Finding]:
    """Explain what the server does with a request.

    Args:
        config: The configuration of the server.
        plugins: The plugins of the policy engines.
        requester: The client.
        path: The path as the client sends it, such as `/v1/key/generate/my-key`, or a URL.
        method: The method; by default the usual one of the API.
        address: The client's IP address.

    Returns:
        A finding for each check, in order. The last is an error if the request is refused.
    """
    try:
        rules = await connect_rules(config, plugins)
    except TLSError as error:
        return [Finding.error("tls", f"the server does not start: tls.ca can't be used: {error}")]
    except BackendError as error:
        return [Finding.error("policy", f"the server does not start: {error}")]
    findings: list[Finding] = []
    try:
        findings.append(_check_handshake(config, rules, requester))
        request = _request(requester, path, method, address, verified=config.tls.auth)
        await _check(config, rules, request, findings)
    except _RefusedError as refused:
        findings.append(refused.finding)
    finally:
        await rules.close()
    return findings


def _request(requester: Requester, path: str, method: str, address: str, *, verified: bool) -> _Request:
    target = urlsplit(path).path if "://" in path else path.partition("?")[0]
    if not target.startswith("/"):
        raise _RefusedError("route", f"{target!r} is not a path", f"write /{target}")
    raw_path = target.encode("utf-8", "surrogateescape")
    decoded = decode_path(raw_path)
    method = (method or _usual_method(raw_path, decoded)).upper()
    return _Request(method, raw_path, decoded, requester.client(address, verified=verified))


def _usual_method(raw_path: bytes, path: str) -> str:
    """Return the usual method of a path's API, or GET for an unknown path."""
    for method in dict.fromkeys(route.method for route in ROUTES):
        try:
            find_route(method, raw_path, path)
        except NotRoutedError as error:
            if error.layer == "route":
                break
        else:
            return method
    return "GET"


async def _check(config: Config, rules: AccessRules, request: _Request, findings: list[Finding]) -> None:
    """Make the checks after the handshake, and add a finding for each that passes."""
    try:
        route, argument = find_route(request.method, request.raw_path, request.path)
    except NotRoutedError as error:
        cure = _CURES_OF_ROUTES.get(error.status, "send another request")
        raise _RefusedError(error.layer, f"denied: {error.reason} ({error.status})", cure) from None
    findings.append(Finding.ok("route", f"{route.method} {route.path}: {route.summary}"))
    sender = _identify(config, rules, request.client)
    decision = await decide(rules, route, sender, method=request.method, path=request.path, argument=argument)
    if decision.layer == "certificate":
        raise _RefusedError(
            "certificate",
            f"denied: {decision.reason} ({decision.status})",
            "show one certificate, which is not that of a CA: `kes identity new` makes one",
        )
    needs_identity = route.auth is not Auth.NONE and route.path not in rules.open_routes
    text = f"the identity is {sender.identity}" if needs_identity else "none is needed"
    findings.append(Finding.ok("certificate", text))
    _check_decision(config, sender, request.path, decision, findings)
    _check_name(route, argument)
    findings.append(Finding.ok("decision", "allowed: what comes next is the body of the request, and the key store"))


_CURES_OF_ROUTES: Mapping[int, str] = {
    307: "send the request there",
    404: "`kes status --api` lists the APIs",
    405: "send another method",
}


# The handshake


def _check_handshake(config: Config, rules: AccessRules, requester: Requester) -> Finding:
    """Return the client as the TLS handshake proves it, or refuse the client."""
    if not requester.chain and not requester.identity:
        if rules.open_routes:
            paths = ", ".join(path for path in config.api if path in rules.open_routes)
            return Finding.ok("tls", f"a connection without a certificate is accepted, for {paths}")
        raise _RefusedError(
            "tls",
            "denied: the handshake fails, since the client presents no certificate",
            "give the client an API key or a certificate (`kes identity`), or set skip_auth for the route",
        )
    if rules.authorities is None:
        return Finding.ok("tls", "any certificate is accepted (tls.auth is off)")
    if not requester.chain:
        text = "tls.auth is on: a CA of tls.ca has to issue the client's certificate, which is not known here"
        return Finding.note("tls", text, "give the certificate itself, with --client")
    leaf, now = requester.chain[0], dt.datetime.now(dt.UTC)
    problem = ""
    if now > leaf.not_valid_after_utc:
        problem = f"the client's certificate has expired on {leaf.not_valid_after_utc:%Y-%m-%d}"
    elif reason := rules.authorities.problem(requester.chain):
        issuer = leaf.issuer.rfc4514_string()
        problem = f"the client's certificate, issued by {issuer!r}, is refused: {reason}"
    if problem:
        raise _RefusedError(
            "tls",
            f"denied: the handshake fails, since {problem} (tls.auth is on)",
            "have the CA of tls.ca issue a certificate for the client, or set tls.auth: off",
        )
    return Finding.ok("tls", "a CA of tls.ca issued the client's certificate")


# The identity


def _identify(config: Config, rules: AccessRules, client: ProvenClient) -> Sender:
    """Return the sender of the request. A TLS proxy has no header here, so the server would refuse its request."""
    try:
        return identify(client, [], rules)
    except UnidentifiedSenderError as error:
        header = config.tls.proxy.header.cert
        raise _RefusedError(
            "certificate",
            f"denied: this is the identity of a TLS proxy, whose requests need the header {header} "
            f"with the certificate of the client it speaks for ({error.status})",
            "ask about that client; or remove the identity from tls.proxy.identities",
        ) from None


# The policies


def _check_decision(
    config: Config, sender: Sender, path: str, decision: AccessDecision, findings: list[Finding]
) -> None:
    """Explain the answers of the policy engines, or why they were not asked."""
    if not decision.answers and decision.allowed:
        findings.append(Finding.ok("policy", f"allowed: {decision.rule}"))
        return
    policy = next((name for name, policy in config.policy.items() if sender.identity in policy.identities), "")
    findings += [
        Finding.ok("policy", f"allowed: {_rule(config, policy, path, answer)}")
        for answer in decision.answers
        if answer.verdict.decision is Decision.ALLOW
    ]
    if decision.allowed:
        return
    last = decision.answers[-1]
    if last.verdict.decision is Decision.DENY:
        text = _reason(last)
        if last.engine != ENGINE_NAME:
            text = f"denied by the policy engine {last.engine!r}: {last.failure or last.verdict.reason}"
        raise _RefusedError("policy", f"{text} ({decision.status})", _cure_of_denial(policy, last.engine))
    reasons = "; ".join(_reason(answer) for answer in decision.answers)
    raise _RefusedError("policy", f"denied: {reasons} ({decision.status})", _cure_of_missing_rule(config, policy, path))


def _reason(answer: EngineAnswer) -> str:
    return answer.verdict.reason if answer.engine == ENGINE_NAME else f"{answer.engine}: {answer.verdict.reason}"


def _rule(config: Config, policy: str, path: str, answer: EngineAnswer) -> str:
    """Return the rule by which an engine allows a path. To be fast, the static engine names only the policy."""
    if answer.engine != ENGINE_NAME:
        return _reason(answer)
    return f"rule {matching_pattern(config.policy[policy].allow, path)!r} of policy {policy!r}"


def _cure_of_denial(policy: str, engine: str) -> str:
    if engine != ENGINE_NAME:
        return f"change the policies of the engine {engine!r}"
    return f"make the rule in policy.{policy}.deny narrower: it wins over every allow rule"


def _cure_of_missing_rule(config: Config, policy: str, path: str) -> str:
    if policy:
        return f"add {path!r}, or a rule like it that ends in *, to policy.{policy}.allow, and reload (kill -HUP)"
    if not config.policy:
        return "write a policy: `kes doctor client-policy sdk` prints one to start from"
    allowing = [f"policy.{other}.identities" for other in allowing_policies(config.policy, path)]
    where = " or ".join(allowing) or "policy.<name>.identities"
    rest = "" if allowing else "; no policy allows this path yet"
    return f"add the identity to {where}, and reload (kill -HUP){rest}"


# The name


def _check_name(route: Route, argument: str) -> None:
    try:
        check_argument(route, argument)
    except RequestError as error:
        if route.argument is Argument.NAME:
            cure = f"use {NAME_RULE}"
        else:
            cure = "use a name, or the beginning of names and a *"
        raise _RefusedError("name", f"denied: {error.message} ({error.status})", cure) from None

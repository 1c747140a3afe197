"""What `kes doctor` finds in Vault: from the connection to each capability of the token. It writes nothing.

It revokes the token of its login at the end. It logs in with a secret ID of AppRole only when the operator asks for it,
because Vault may accept the secret ID only a few times. It leaves a wrapped secret, which works once, to the server.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
from hvac.exceptions import InvalidPath

from kes_core import Finding, KeyStoreError, KeyStoreReason
from kes_vault.auth import Token
from kes_vault.engine import Engine
from kes_vault.errors import (
    CapabilitiesUnknownError,
    SealedError,
    StandbyError,
    TokenRefusedError,
    UninitializedError,
)
from kes_vault.session import Session
from kes_vault.store import VaultKeyStore
from kes_vault.transit import is_rotated

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import VaultConfig

__all__ = ["diagnose"]

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CLOCK_TOLERANCE: Final = 60.0
_SHORT: Final = 60.0
"""Seconds. A token with a shorter lifetime needs constant renewal."""
_MANY: Final = 1000
"""The number of entries to examine, one request each."""
_ROTATED: Final = "nothing to do, unless you go back to the Go server: it reads only values that begin with vault:v1:"
_POLICY: Final = "kes doctor store-policy | vault policy write <policy of the role> -"
_MATTERS: Final = {
    "read": "no key can be used, unless the policy grants it for certain names",
    "create": "no key can be created, unless the policy grants it for certain names",
    "delete": "no key can be deleted, unless the policy grants it for certain names",
    "list": "keys can't be listed",
}


async def diagnose(config: VaultConfig, *, login: bool) -> Sequence[Finding]:
    """Examine everything that the server needs in Vault, up to the first failure that hides the rest.

    Args:
        config: The section of the configuration.
        login: Whether to log in with a secret ID of AppRole, which may work only a limited number of times.
    """
    try:
        session = Session(config)
    except KeyStoreError as error:
        return [Finding.error("Vault", str(error))]
    findings: list[Finding] = []
    try:
        async for finding in _examine(config, session, login=login):
            findings.append(finding)  # noqa: PERF401 # keeps the findings before an error
    except KeyStoreError as error:
        findings.append(Finding.error("Vault", str(error), _cure(config, error)))
    finally:
        await session.close()
    return findings


async def _examine(config: VaultConfig, session: Session, *, login: bool) -> AsyncIterator[Finding]:
    answer = await session.look()
    await session.check_health()
    tls = "its certificate is trusted" if config.endpoint.startswith("https:") else "without TLS"
    yield Finding.ok("Vault", f"{config.endpoint} answers, {tls}; it is initialized and unsealed")
    for finding in (*_encryption(config), *_clock(answer, time.time())):
        yield finding
    if config.approle is not None and config.approle.secret_wrapped:
        yield Finding.note(
            "Vault login",
            "not examined: the secret is wrapped and can be unwrapped once, which is left to the server",
            "vault write sys/wrapping/lookup token=<wrapping token>  # is it still good?",
        )
        return
    if config.approle is not None and not login:
        yield Finding.note(
            "Vault login",
            "not examined: each login counts if the secret ID works a limited number of times (secret_id_num_uses)",
            "kes doctor --login logs in once, and examines the engine, the policy and the keys too",
        )
        return
    try:
        token = await session.log_in()
    except KeyStoreError as error:
        yield Finding.error("Vault login", str(error), _login_cure(config, error))
        return
    try:
        async for finding in _as_logged_in(config, session, token):
            yield finding
    finally:
        if config.token is None and not config.token_file:
            with contextlib.suppress(KeyStoreError, InvalidPath):  # some tokens can't be revoked, and expire
                await session.call("revoke the token", lambda client: client.auth.token.revoke_self())


async def _as_logged_in(config: VaultConfig, session: Session, token: Token) -> AsyncIterator[Finding]:
    for finding in await _token(config, session, token):
        yield finding
    store, engine = VaultKeyStore(config, session), Engine(config, session)
    try:
        await engine.check_mount()
    except KeyStoreError as error:
        yield Finding.error("Vault engine", str(error))
        return
    yield Finding.ok("Vault engine", f"a K/V engine of version {config.version} is mounted at {config.engine!r}")
    try:
        for finding in await _capabilities(config, engine):
            yield finding
        if config.transit is not None:
            for finding in await _transit(config, session, engine):
                yield finding
    except CapabilitiesUnknownError as error:
        yield Finding.warning("Vault policy", str(error), _POLICY)
    if config.version == "v2":
        for finding in await _deletion(config, session):
            yield finding
    for finding in await _entries(store):
        yield finding


def _cure(config: VaultConfig, error: KeyStoreError) -> str:
    if isinstance(error, SealedError):
        return f"VAULT_ADDR={config.endpoint} vault operator unseal  # with as many key shares as it asks for"
    if isinstance(error, UninitializedError):
        return f"VAULT_ADDR={config.endpoint} vault operator init"
    if isinstance(error, StandbyError):
        return f"VAULT_ADDR={config.endpoint} vault operator raft list-peers  # why is none of them the leader?"
    if error.reason is KeyStoreReason.UNREACHABLE:
        ca = f"--cacert {config.tls.ca} " if config.tls.ca else ""
        return f"see what is in the way: curl {ca}{config.endpoint}/v1/sys/health"
    return ""


def _encryption(config: VaultConfig) -> Iterator[Finding]:
    parts = urlsplit(config.endpoint)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        yield Finding.warning(
            "Vault",
            f"keys and tokens travel to {config.endpoint} unencrypted",
            "give Vault a certificate, and set endpoint: https://...",
        )


def _clock(answer: requests.Response, now: float) -> Iterator[Finding]:
    """Compare the clocks: a server whose clock is behind does not renew a token in time."""
    try:
        there = float(answer.json()["server_time_utc"])
    except (ValueError, KeyError, TypeError):
        return
    difference = now - there
    if abs(difference) > _CLOCK_TOLERANCE:
        word = "ahead of" if difference > 0 else "behind"
        yield Finding.warning(
            "clock",
            f"the clock of this machine is {abs(difference):.0f} s {word} Vault's: certificates and signed tokens may "
            "count as expired, or as not valid yet",
            "set both by NTP: timedatectl",
        )


# Login


def _login_cure(config: VaultConfig, error: KeyStoreError) -> str:
    if error.reason is not KeyStoreReason.FORBIDDEN:
        return _cure(config, error)
    if config.approle is not None:
        role = f"auth/{config.approle.engine}/role/<role>"
        return f"vault read {role}/role-id; vault write -f {role}/secret-id  # into approle.id and approle.secret"
    for name, method in (("kubernetes", config.kubernetes), ("jwt", config.jwt)):
        if method is not None:
            role = f"auth/{method.engine}/role/{method.role or '<role>'}"
            return f"vault read {role}  # does it fit the token of {name}.jwt?"
    if config.certificate is not None:
        return f"vault list auth/{config.certificate.engine}/certs  # is there one for {config.tls.cert}?"
    return "vault token create -period=24h -policy=<policy>  # it has expired, was revoked, or belongs to another Vault"


async def _token(config: VaultConfig, session: Session, token: Token) -> Sequence[Finding]:
    lives = f"lives {_span(token.seconds)}" if token.seconds else "never expires"
    findings = [Finding.ok("Vault login", f"it works; the token {lives}")]
    given = config.token is not None or bool(config.token_file)
    try:
        facts = await session.call("look up the token", lambda client: client.auth.token.lookup_self()["data"])
    except TokenRefusedError:
        findings.append(
            Finding.warning(
                "Vault login",
                "the token may not look itself up, and probably not renew itself: Vault's policy 'default' is missing",
                "give the role the policy 'default' too: token_no_default_policy=false",
            )
        )
        facts = {}
    if "root" in (facts.get("policies") or ()):
        findings.append(
            Finding.warning("Vault login", "the token is a root token, which may do everything in Vault", _POLICY)
        )
    if facts.get("num_uses"):
        findings.append(
            Finding.warning(
                "Vault login",
                f"the token can be used {facts['num_uses']} more times, and the server uses it for each key",
                "set token_num_uses=0 in the role",
            )
        )
    if token.seconds and not token.renewable and given:
        findings.append(
            Finding.warning(
                "Vault login",
                f"the token can't be renewed: the server loses it in {_span(token.seconds)}",
                "vault token create -period=24h -policy=<policy>; or log in with approle",
            )
        )
    elif 0 < token.seconds < _SHORT:
        findings.append(
            Finding.note(
                "Vault login",
                f"the server needs a new token every {_span(token.seconds)}",
                "set token_ttl=1h in the role",
            )
        )
    return findings


def _span(seconds: float) -> str:
    for unit, size in {"days": 86400, "h": 3600, "min": 60}.items():
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# What it may do


async def _capabilities(config: VaultConfig, engine: Engine) -> Sequence[Finding]:
    needed = engine.needed_capabilities()
    granted = await engine.capabilities(*needed.values())
    findings = []
    kinds = {"read": "data", "create": "data", "delete": "metadata", "list": "metadata"}
    for capability, path in needed.items():
        shown = engine.shown("" if capability == "list" else "*", kinds[capability])
        if granted[path] & {capability, "root"}:
            findings.append(Finding.ok("Vault policy", f"{capability} on {shown}"))
            continue
        findings.append(
            Finding.warning("Vault policy", f"{capability} on {shown} is not granted: {_MATTERS[capability]}", _POLICY)
        )
    if "update" in granted[needed["read"]]:
        findings.append(_too_much(config, engine.shown("*")))
    return findings


def _too_much(config: VaultConfig, shown: str) -> Finding:
    text = f"update on {shown} is granted, which the server does not need"
    if config.version == "v1":
        return Finding.warning(
            "Vault policy", f"{text}: if two servers create one key at once, one may overwrite the other's", _POLICY
        )
    return Finding.note("Vault policy", f"{text}: anyone who has its token can overwrite keys", _POLICY)


async def _transit(config: VaultConfig, session: Session, mount: Engine) -> Sequence[Finding]:
    assert config.transit is not None
    engine, key = config.transit.engine, config.transit.key
    paths = {operation: f"{engine}/{operation}/{key}" for operation in ("encrypt", "decrypt")}
    granted = await mount.capabilities(*paths.values())
    findings = []
    for operation, path in paths.items():
        if granted[path] & {"update", "root"}:
            findings.append(Finding.ok("Vault transit", f"update on {path}"))
        else:
            matter = "no key can be created" if operation == "encrypt" else "no key can be used"
            findings.append(Finding.error("Vault transit", f"update on {path} is not granted: {matter}", _POLICY))
    # With the capability "create", the trial itself would create the key.
    if granted[paths["encrypt"]] & {"update"} and not granted[paths["encrypt"]] & {"create", "root"}:
        findings += await _trial(session, engine, key)
    return findings


async def _trial(session: Session, engine: str, key: str) -> Sequence[Finding]:
    """Encrypt a text, to see whether the key exists. Vault stores nothing."""

    def encrypt(client: hvac.Client) -> str:
        answer: Any = client.secrets.transit.encrypt_data(key, plaintext="a2Vz", mount_point=engine)
        return str(answer["data"]["ciphertext"])

    try:
        ciphertext = await session.call(f"encrypt with the key {key!r} of {engine!r}", encrypt)
    except (KeyStoreError, InvalidPath) as error:
        reason = str(error) if isinstance(error, KeyStoreError) else "there is no engine"
        return [
            Finding.error(
                "Vault transit",
                f"the key {key!r} of {engine!r} can't be used: {reason}",
                f"vault secrets enable -path={engine} transit; vault write -f {engine}/keys/{key}",
            )
        ]
    findings = [Finding.ok("Vault transit", f"the key {key!r} of {engine!r} encrypts")]
    if is_rotated(ciphertext):
        findings.append(
            Finding.note(
                "Vault transit",
                f"the key {key!r} of {engine!r} was rotated: the Go server can't read keys that this server creates",
                _ROTATED,
            )
        )
    return findings


# What is stored


async def _deletion(config: VaultConfig, session: Session) -> Sequence[Finding]:
    """Find out whether the engine deletes entries after a while, if the policy lets the server see that."""
    path = f"{config.engine}/config"
    try:
        data = await session.call(f"read {path}", lambda client: client.adapter.get(f"/v1/{path}")["data"])
    except (TokenRefusedError, InvalidPath):
        return []
    after = data.get("delete_version_after") or "0s"
    if after == "0s":
        return []
    return [
        Finding.error(
            "Vault engine",
            f"the engine {config.engine!r} deletes keys after {after}",
            f"vault write {path} delete_version_after=0s  # then copy the keys that are there: each has its time",
        )
    ]


async def _entries(store: VaultKeyStore) -> Sequence[Finding]:
    """Find the entries that Vault lists and this server, or the Go server, can't use."""
    try:
        page = await store.list(limit=_MANY)
    except KeyStoreError as error:
        if error.reason is KeyStoreReason.FORBIDDEN:
            return []  # another finding reports it
        raise
    findings, rotated = [], 0
    for name in page.names:
        problem, is_later = await store.examine(name)
        rotated += is_later
        if problem:
            findings.append(Finding.error("Vault entries", problem))
    if rotated:
        findings.append(
            Finding.note(
                "Vault entries",
                f"{rotated} of {len(page.names)} keys are encrypted under a later version of the transit key than 1: "
                "the Go server can't read them",
                _ROTATED,
            )
        )
    if page.next:
        findings.append(Finding.note("Vault entries", f"only the first {_MANY} entries were looked at"))
    return findings

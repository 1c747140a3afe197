"""The methods to log in to Vault: each is a function that returns a token with its lifetime."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvac.exceptions import Forbidden, InvalidPath

from kes_core import KeyStoreError, KeyStoreReason
from kes_core.config import Secret

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import AppRoleConfig, VaultConfig

__all__ = ["Login", "SecretLife", "Token", "login_of", "namespace_of", "path_prefix_of", "retry_of", "token_of"]

logger = logging.getLogger("kes.vault")

_TOKEN: Final = re.compile(r"[!-~]{1,16384}")
"""The characters of a token, which is the value of a header."""


class SecretLife(NamedTuple):
    """How long a secret ID of AppRole still works."""

    expires_at: float | None
    """In seconds since 1970; `None`: it does not expire."""
    lifetime: float | None
    """In seconds."""
    uses_left: int | None
    """`None`: there is no limit."""


class Token(NamedTuple):
    """A token and its lifetime."""

    value: str
    seconds: float
    """Seconds until it expires; 0: never."""
    renewable: bool
    secret: SecretLife | None = None
    """How long the secret ID works that the token was given for; `None` if Vault does not say it."""

    def __repr__(self) -> str:
        return f"<Token for {self.seconds:g} s>"


Login = Callable[["hvac.Client"], Token]
"""Logs in with a client that has no token yet. Blocks."""


def _read(path: str, what: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyStoreError(f"the {what} {path!r} can't be read: {type(error).__name__}") from None


def _text_or_file(value: Secret, what: str) -> str:
    text = value.get()
    return _read(text, what) if os.sep in text else text


def token_of(answer: dict[str, Any], value: str = "") -> Token:
    """Return the token in an answer of Vault, or `value` with the lifetime in the answer.

    Raises:
        KeyStoreError: The token can't be sent.
        ValueError: The answer is not Vault's. KeyError and TypeError mean the same: something is missing.
    """
    auth = answer["auth"]
    return Token(
        value or _sendable(auth["client_token"], "token that Vault gives"),
        _seconds(auth["lease_duration"]),
        bool(auth["renewable"]),
    )


def _sendable(token: str, what: str) -> str:
    """Check that a token can be sent. Otherwise the error would look like a Vault that can't be reached.

    Raises:
        KeyStoreError: It can't.
    """
    if not _TOKEN.fullmatch(token):
        raise KeyStoreError(
            f"the {what} can't be sent: a token has ASCII characters without spaces or line breaks",
            reason=KeyStoreReason.FORBIDDEN,
        )
    return token


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError
    return seconds


def _approle(config: AppRoleConfig) -> Login:
    unwrapped: dict[str, str] = {}

    def secret_of(client: hvac.Client) -> str:
        given = config.secret.get() if config.secret is not None else _read(config.secret_file, "AppRole secret")
        if not config.secret_wrapped:
            return given
        if given not in unwrapped:  # a wrapping token works once
            unwrapped.clear()
            client.token = _sendable(given, "wrapping token")
            try:
                answer = client.sys.unwrap()  # type: ignore[no-untyped-call] # its stub has no types
            finally:
                client.token = ""
            unwrapped[given] = answer["data"]["secret_id"]
        return unwrapped[given]

    may_look = True

    def login(client: hvac.Client) -> Token:
        nonlocal may_look
        secret = secret_of(client)
        answer = client.auth.approle.login(config.id, secret, use_token=False, mount_point=config.engine)
        token = token_of(answer)
        if not may_look:
            return token
        try:
            role = answer["auth"]["metadata"]["role_name"]
            return token._replace(secret=_life_of(client, config, token, role, secret))
        except Forbidden:  # most policies do not grant it: the metrics then lack the secret ID
            may_look = False
        except Exception:  # of many kinds; the login has succeeded all the same
            logger.debug("the secret ID can't be looked up")
        return token

    return login


def _life_of(client: hvac.Client, config: AppRoleConfig, token: Token, role: str, secret: str) -> SecretLife:
    """Look up how long a secret ID works. Raises many kinds of error; a token of the role may not do it by default."""
    client.token = token.value
    try:
        answer: Any = client.auth.approle.read_secret_id(role, secret, mount_point=config.engine)
    except InvalidPath:
        answer = None
    finally:
        client.token = ""
    if not isinstance(answer, dict):  # the login was the last that it was good for
        return SecretLife(None, None, 0)
    data = answer["data"]
    # Go's zero time means that it does not expire, and 0 uses that there is no limit.
    end = datetime.fromisoformat(data["expiration_time"])
    limited, uses = end.year > 1, int(data["secret_id_num_uses"])
    return SecretLife(
        end.timestamp() if limited else None,
        float(data["secret_id_ttl"]) if limited else None,
        uses if uses > 0 else None,
    )


def _given_token(read: Callable[[], str], what: str) -> Login:
    """Use a token from the operator: look up its lifetime."""

    def login(client: hvac.Client) -> Token:
        token = _sendable(read(), what)
        client.token = token
        try:
            data = client.auth.token.lookup_self()["data"]
        finally:
            client.token = ""
        return Token(token, _seconds(data["ttl"]), bool(data.get("renewable")))

    return login


def login_of(config: VaultConfig) -> Login:
    """Return the login by the one method that `config` has."""
    if config.approle is not None:
        return _approle(config.approle)
    if (kubernetes := config.kubernetes) is not None:
        return lambda client: token_of(
            client.auth.kubernetes.login(
                kubernetes.role,
                _text_or_file(kubernetes.jwt, "service account token"),
                use_token=False,
                mount_point=kubernetes.engine,
            )
        )
    if (jwt := config.jwt) is not None:
        return lambda client: token_of(
            client.auth.jwt.jwt_login(jwt.role, _text_or_file(jwt.jwt, "JWT"), use_token=False, path=jwt.engine)
        )
    if (certificate := config.certificate) is not None:
        return lambda client: token_of(
            client.auth.cert.login(
                name=certificate.role,
                cert_pem=config.tls.cert,
                key_pem=config.tls.key,
                mount_point=certificate.engine,
                use_token=False,
            )
        )
    if config.token is not None:
        token = config.token
        return _given_token(token.get, "token in the configuration")
    return _given_token(lambda: _read(config.token_file, "token file"), f"token in {config.token_file!r}")


def namespace_of(config: VaultConfig) -> str:
    """Return the namespace of the login. It may differ from that of the keys."""
    method = config.approle or config.kubernetes or config.jwt or config.certificate
    namespace = config.namespace if method is None or method.namespace in {None, ""} else method.namespace
    return "" if namespace == "/" else namespace or ""


def path_prefix_of(config: VaultConfig) -> str:
    """Return the prefix that policies need before the paths of the keys: "team/", or nothing.

    A policy belongs to the namespace of the login. Its paths are relative to that namespace, also for child namespaces.
    """
    login, keys = namespace_of(config).strip("/"), config.namespace.strip("/")
    return "" if keys == login else keys.removeprefix(f"{login}/") + "/"


def retry_of(config: VaultConfig) -> float:
    """Return the seconds to wait after a failed login."""
    for method in (config.approle, config.kubernetes, config.jwt, config.certificate):
        if method is not None:
            return method.retry
    return 5.0

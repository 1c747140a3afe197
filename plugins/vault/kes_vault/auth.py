"""The methods to log in to Vault: each is a function that returns a token with its lifetime."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kes_core import KeyStoreError, KeyStoreReason
from kes_core.config import Secret

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import AppRoleConfig, VaultConfig

__all__ = ["Login", "Token", "login_of", "namespace_of", "path_prefix_of", "retry_of", "token_of"]


_TOKEN: Final = re.compile(r"[!-~]{1,16384}")
"""The characters of a token, which is the value of a header."""


class Token(NamedTuple):
    """A token and its lifetime."""

    value: str
    seconds: float
    """Seconds until it expires; 0: never."""
    renewable: bool

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

    def login(client: hvac.Client) -> Token:
        secret = secret_of(client)
        return token_of(client.auth.approle.login(config.id, secret, use_token=False, mount_point=config.engine))

    return login


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

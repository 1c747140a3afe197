"""The section `keystore.vault` of the configuration file (protocol section 8)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator

from kes_core.config import Duration, Required, Secret, Section, Switch

__all__ = [
    "AppRoleConfig",
    "CertificateConfig",
    "JWTConfig",
    "KubernetesConfig",
    "TLSConfig",
    "TransitConfig",
    "VaultConfig",
]


_DEFAULT_PING: Final = 10.0
_SHORTEST_PING: Final = 0.1


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.username or parts.password:  # the message leaves out the value
        raise ValueError("must not hold a user or a password; expected a URL like https://127.0.0.1:8200")
    is_server = parts.scheme in {"https", "http"} and bool(parts.hostname)
    if not is_server or parts.query or parts.fragment or (parts.path.strip("/") and not _is_path(parts.path)):
        raise ValueError("is not the URL of a Vault server; expected one like https://127.0.0.1:8200")
    return value.rstrip("/")


def _ping(value: float) -> float:
    if 0 < value < _SHORTEST_PING:
        raise ValueError("is too short; the shortest is 100ms")
    return value or _DEFAULT_PING


def _file(value: str) -> str:
    if value and not os.access(value, os.R_OK):
        raise ValueError("is not a file that can be read")
    return value


def _required_secret(value: Secret) -> Secret:
    if not value.get():
        raise ValueError("is empty, but required")
    return value


def _is_path(value: str) -> bool:
    """Tell whether a path, without the slashes at its ends, reaches the server unchanged."""
    parts = value.strip("/").split("/")
    return not any(part in {"", ".", ".."} for part in parts) and value.isprintable() and not set(value) & set("%?#+*")


def _path(value: str) -> str:
    """Return a path in Vault without the slashes at its ends."""
    if value.strip("/") and not _is_path(value):
        raise ValueError("is not a path in Vault; expected one like kv or team/kv")
    return value.strip("/")


def _default(name: str) -> AfterValidator:
    return AfterValidator(lambda value: _path(value) or name)


def _token_or_file(value: Secret) -> Secret:
    """Check a token or its file. A value with a path separator is a file, which must exist already."""
    text = _required_secret(value).get()
    if os.sep in text and not (Path(text).is_file() and os.access(text, os.R_OK)):
        raise ValueError(f"the file {text!r} can't be read")
    return value


Endpoint = Annotated[str, AfterValidator(_endpoint)]
RequiredSecret = Annotated[Secret, AfterValidator(_required_secret)]
ReadableFile = Annotated[str, AfterValidator(_file)]
TokenOrFile = Annotated[Secret, AfterValidator(_token_or_file)]


class TransitConfig(Section):
    """`transit`: Vault's transit engine encrypts each value before it is stored."""

    engine: Annotated[str, _default("transit")] = "transit"
    key: Required


class AppRoleConfig(Section):
    """`approle`: log in with a role's ID and a secret."""

    engine: Annotated[str, _default("approle")] = "approle"
    namespace: str | None = None
    """The namespace of the login, if it differs from that of the keys; `/` is the root namespace."""
    id: Required
    secret: Secret | None = None
    secret_file: ReadableFile = ""
    """A file with the secret. Each login reads it again."""
    secret_wrapped: Switch = False
    """Whether the secret is the token of a response-wrapped secret. The server unwraps it once."""
    retry: Duration = 5.0

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        has_secret = self.secret is not None and bool(self.secret.get())
        if has_secret and self.secret_file:
            raise ValueError("'secret' and 'secret_file' exclude each other; give one of them")
        if not has_secret and not self.secret_file:
            raise ValueError("no secret is given; set 'secret' or 'secret_file'")
        return self


class KubernetesConfig(Section):
    """`kubernetes`: log in with the token of a service account."""

    engine: Annotated[str, _default("kubernetes")] = "kubernetes"
    namespace: str | None = None
    role: str = ""
    jwt: TokenOrFile
    retry: Duration = 5.0


class JWTConfig(Section):
    """`jwt`: log in with a JSON web token."""

    engine: Annotated[str, _default("jwt")] = "jwt"
    namespace: str | None = None
    role: str = ""
    jwt: TokenOrFile
    retry: Duration = 5.0


class CertificateConfig(Section):
    """`certificate`: log in with the client certificate of `tls`."""

    engine: Annotated[str, _default("cert")] = "cert"
    namespace: str | None = None
    role: str = ""
    retry: Duration = 5.0


class TLSConfig(Section):
    """`tls`: the CAs to trust, and a client certificate."""

    key: ReadableFile = ""
    cert: ReadableFile = ""
    ca: ReadableFile = ""
    """A PEM file, or a directory of PEM files."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.key) != bool(self.cert):
            missing = "cert" if self.key else "key"
            raise ValueError(f"a private key and its certificate go together; '{missing}' is missing")
        return self


class StatusConfig(Section):
    """`status`."""

    ping: Annotated[Duration, AfterValidator(_ping)] = 10.0
    """Time between two health checks of Vault."""


class VaultConfig(Section):
    """The section `keystore.vault`."""

    endpoint: Endpoint
    engine: Annotated[str, _default("kv")] = "kv"
    version: Literal["v1", "v2"] = "v1"
    namespace: str = ""
    prefix: Annotated[str, AfterValidator(_path)] = ""
    transit: TransitConfig | None = None
    approle: AppRoleConfig | None = None
    kubernetes: KubernetesConfig | None = None
    jwt: JWTConfig | None = None
    certificate: CertificateConfig | None = None
    token: RequiredSecret | None = None
    token_file: ReadableFile = ""
    """A file with a token. The server reads it again when Vault no longer accepts the token."""
    tls: TLSConfig = TLSConfig()
    status: StatusConfig = StatusConfig()
    timeout: Duration = 5.0
    """How long Vault may take to answer."""
    start_timeout: Duration = 30.0
    """How long the server waits when it starts, if Vault can't be reached or is sealed."""

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        methods = [name for name in ("approle", "kubernetes", "jwt", "certificate", "token") if getattr(self, name)]
        if self.token_file:
            methods.append("token_file")
        known = "approle, kubernetes, jwt, certificate, token, token_file"
        if not methods:
            raise ValueError(f"no authentication method is given; set one of {known}")
        if len(methods) > 1:
            raise ValueError(f"more than one authentication method is given ({', '.join(methods)}); keep one")
        if self.certificate is not None and not self.tls.cert:
            raise ValueError("the authentication method 'certificate' needs tls.key and tls.cert")
        return self

"""The section `keystore.aws` of the configuration file, with the fields of the Go server and a few more."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator

from kes_core.config import Duration, Required, Secret, Section

__all__ = ["AWSConfig", "AWSCredentials", "AWSTrust", "SecretsManagerConfig"]

_EXPECTED: Final = "expected one like secretsmanager.us-east-2.amazonaws.com"
_REGION: Final = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]", re.ASCII)
_KMS_KEY: Final = re.compile(
    r"(arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]+:key/)?[A-Za-z0-9-]+|(arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]+:)?alias/[A-Za-z0-9/_-]+",
    re.ASCII,
)
_SHORTEST_TIMEOUT: Final = 0.1


def _endpoint(value: str) -> str:
    """Return the endpoint as a URL. The Go server takes a host without a scheme, and uses TLS then."""
    url = value if "://" in value else f"https://{value}"
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port
        is_server = False
        parts = urlsplit("")
    if parts.username is not None or parts.password is not None:  # said without the value
        raise ValueError(f"must not hold a user or a password; {_EXPECTED}")
    if not is_server or parts.path.strip("/") or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError(f"is not a host or URL; {_EXPECTED}")
    return url.rstrip("/")


def _region(value: str) -> str:
    if not _REGION.fullmatch(value):
        raise ValueError("is not the name of an AWS region; expected one like us-east-2")
    return value


def _kms_key(value: str) -> str:
    if value and not _KMS_KEY.fullmatch(value):
        raise ValueError("is not a KMS key; expected a key ID, an ARN, or an alias like alias/kes")
    return value


def _timeout(value: float) -> float:
    if value < _SHORTEST_TIMEOUT:
        raise ValueError("is too short; the shortest is 100ms")
    return value


def _file(value: str) -> str:
    if value and not (Path(value).is_file() and os.access(value, os.R_OK)):
        raise ValueError("is not a file that can be read")
    return value


class AWSCredentials(Section):
    """`credentials`: an access key. If all fields are empty, the SDK looks for credentials where it always does."""

    accesskey: Secret = Secret("")
    secretkey: Secret = Secret("")
    token: Secret = Secret("")
    """The session token of temporary credentials."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = {name for name in ("accesskey", "secretkey", "token") if getattr(self, name).get()}
        if given and not {"accesskey", "secretkey"} <= given:
            missing = "accesskey" if "accesskey" not in given else "secretkey"
            raise ValueError(
                f"an access key has two parts; '{missing}' is missing. Without both, and without 'token', the server "
                "uses the credentials of its environment or its role"
            )
        return self


class AWSTrust(Section):
    """`tls`: the CAs to trust."""

    ca: Annotated[str, AfterValidator(_file)] = ""
    """A PEM file, for an endpoint whose certificate is not from a public CA. The Go server has no such field."""


class SecretsManagerConfig(Section):
    """The section `keystore.aws.secretsmanager`."""

    endpoint: Annotated[Required, AfterValidator(_endpoint)]
    region: Annotated[Required, AfterValidator(_region)]
    kmskey: Annotated[str, AfterValidator(_kms_key)] = ""
    """The KMS key that encrypts the secrets; if empty, that of the account, `aws/secretsmanager`."""
    credentials: AWSCredentials = AWSCredentials()
    tls: AWSTrust = AWSTrust()
    timeout: Annotated[Duration, AfterValidator(_timeout)] = 5.0
    """How long AWS may take to answer. The server asks a second time. The Go server has no such field."""
    start_timeout: Duration = 30.0
    """How long the server waits when it starts, if AWS can't be reached. The Go server has no such field."""


class AWSConfig(Section):
    """The section `keystore.aws`."""

    secretsmanager: SecretsManagerConfig

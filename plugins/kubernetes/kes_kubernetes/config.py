"""The section `frontends.kubernetes` of the configuration file."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from kes_core.config import Required, Section
from kes_core.config.sections import Identity, Name
from kes_core.identity import is_identity

__all__ = ["KMSConfig"]

_EXPECTED: Final = "expected a path like /run/kes/kms.sock"
_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)
_OTHERS: Final = 0o007
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


def _socket(value: str) -> str:
    if value.startswith(("@", "\0", "unix:@", "unix-abstract:")):
        raise ValueError(f"is an abstract socket, which has no owner and no mode; {_EXPECTED}")
    if "://" in value or value.startswith("unix:") or not value.isprintable():
        raise ValueError(f"is not a path; {_EXPECTED}")
    if value.endswith("/"):
        raise ValueError(f"is a directory; {_EXPECTED}")
    return value


def _client(value: str) -> str:
    if not is_identity(value):
        raise ValueError("is not the identity of a client, which has 64 hex digits; `kes identity` makes one")
    return value


def _mode(value: str) -> str:
    if not _MODE.fullmatch(value):
        raise ValueError("is not a file mode; expected one like 0600 or 0660")
    if int(value, 8) & _OTHERS:
        raise ValueError("lets every user of the machine decrypt secrets; expected 0600, or 0660 with a group")
    return value


def _account(value: str) -> str:
    if value and not _ACCOUNT.fullmatch(value):
        raise ValueError("is not the name or the number of a user or group")
    return value


class KMSConfig(Section):
    """The section `frontends.kubernetes`."""

    socket: Annotated[Required, AfterValidator(_socket)]
    """The path of the unix socket on which the API server finds the plugin."""
    key: Name
    """The name of the key that encrypts."""
    old_keys: tuple[Name, ...] = ()
    """Keys that only decrypt what was encrypted under them before `key` was changed."""
    identity: Annotated[Identity, AfterValidator(_client)]
    """Whose requests these are, for policies and the audit log. No client needs a certificate of this identity."""
    mode: Annotated[str, AfterValidator(_mode)] = "0600"
    """The mode of the socket. Whoever may write to it can decrypt the secrets of the cluster."""
    owner: Annotated[str, AfterValidator(_account)] = ""
    """The user that owns the socket; that of the server unless given."""
    group: Annotated[str, AfterValidator(_account)] = ""
    """The group of the socket; that of the server unless given."""

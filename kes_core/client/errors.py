"""The errors of the client, and the answers that cause them. The names are public in `kes_core.client`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from kes_core.protocol import (
    HMAC_UNSUPPORTED,
    IDENTITY_NOT_FOUND,
    INVALID_CERTIFICATE,
    KEY_DECRYPTS_ONLY,
    KEY_DELETING,
    KEY_DISABLED,
    KEY_EXISTS,
    KEY_NOT_FOUND,
    KEY_SCHEDULED,
    KEY_VERSION_TOO_OLD,
    NOT_DECRYPTED,
    POLICY_NOT_FOUND,
    WRAPPING_KEY_UNKNOWN,
)

__all__ = [
    "APIError",
    "ClientCertificateError",
    "ClientUnusableError",
    "DecryptionError",
    "HMACUnsupportedError",
    "IdentityNotFoundError",
    "InvalidNameError",
    "KESConnectionError",
    "KESError",
    "KeyExistsError",
    "KeyNotFoundError",
    "KeyStoreUnavailableError",
    "NotAllowedError",
    "PolicyNotFoundError",
    "StreamEndedError",
    "UnsupportedKeyError",
    "WrappingKeyUnknownError",
    "raise_for_status",
]


class KESError(Exception):
    """A request failed."""


class ClientUnusableError(KESError):
    """The client is closed, or was used in another process or event loop before."""


class KESConnectionError(KESError):
    """No server could be reached, or the connection broke before the answer or in the middle of a log."""


class StreamEndedError(KESConnectionError):
    """The server ended a log: the server is stopping, or the client did not keep up with the events."""


class APIError(KESError):
    """The server refused a request, or failed."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        text = message or f"the server answered with status {status}"
        super().__init__(f"{text} ({reason})" if reason else text)
        self.status = status
        self.message = message
        self.reason = reason
        """Why the server's key store can't serve, if the server says so: "unreachable", "locked", ..."""


class ClientCertificateError(APIError):
    """The server, or the TLS proxy in front of it, got no usable client certificate."""


class NotAllowedError(APIError):
    """The client's identity may not do this."""


class InvalidNameError(APIError):
    """A name, identity or pattern is not valid."""


class KeyExistsError(APIError):
    """A key of that name exists already."""


class KeyNotFoundError(APIError):
    """No key has that name."""


class PolicyNotFoundError(APIError):
    """No policy has that name."""


class IdentityNotFoundError(APIError):
    """The identity is neither the admin nor in a policy."""


class DecryptionError(APIError):
    """The ciphertext is not authentic: it was changed, or belongs to another key or context."""


class KeyRotationConflictError(APIError):
    """Another rotation of the key ran at the same moment: the key has a new version."""


class KeyDisabledError(APIError):
    """The state of the key does not allow this use: it is disabled, or its deletion is scheduled, ..."""


class HMACUnsupportedError(APIError):
    """The key has no HMAC key: an old server made it."""


class UnsupportedKeyError(APIError):
    """The server does not accept a key of this cipher or length."""


class WrappingKeyUnknownError(APIError):
    """The wrapping key has expired, or never was one of this server. Get the current one, and wrap again."""


class KeyStoreUnavailableError(APIError):
    """The server can't reach its key store, or the key store failed. Trying again later may help."""


_ERRORS: Final[Mapping[tuple[int, str], type[APIError]]] = {
    (400, "tls: client certificate is required"): ClientCertificateError,
    (400, "tls: received more than one client certificate"): ClientCertificateError,
    (400, "no client certificate is present"): ClientCertificateError,
    (400, "too many client certificates are present"): ClientCertificateError,
    INVALID_CERTIFICATE: ClientCertificateError,
    KEY_EXISTS: KeyExistsError,
    (400, "key does already exist"): KeyExistsError,
    KEY_NOT_FOUND: KeyNotFoundError,
    POLICY_NOT_FOUND: PolicyNotFoundError,
    IDENTITY_NOT_FOUND: IdentityNotFoundError,
    NOT_DECRYPTED: DecryptionError,
    HMAC_UNSUPPORTED: HMACUnsupportedError,
    WRAPPING_KEY_UNKNOWN: WrappingKeyUnknownError,
    KEY_DISABLED: KeyDisabledError,
    KEY_DECRYPTS_ONLY: KeyDisabledError,
    KEY_SCHEDULED: KeyDisabledError,
    KEY_VERSION_TOO_OLD: KeyDisabledError,
    KEY_DELETING: KeyDisabledError,
    (502, "failed to create key"): KeyStoreUnavailableError,
    (502, "failed to rotate key"): KeyStoreUnavailableError,
    (502, "failed to change key"): KeyStoreUnavailableError,
    (502, "failed to read key"): KeyStoreUnavailableError,
    (502, "failed to read wrapping key"): KeyStoreUnavailableError,
    (502, "failed to delete key"): KeyStoreUnavailableError,
    (502, "failed to list keys"): KeyStoreUnavailableError,
    (502, "key store is unavailable"): KeyStoreUnavailableError,
    (504, "key store is not reachable"): KeyStoreUnavailableError,
}
_BY_STATUS: Final[Mapping[int, type[APIError]]] = {403: NotAllowedError, 406: UnsupportedKeyError}
_CONFLICT: Final = " of the key was just created by another rotation"
_INVALID_NAME: Final = (" is empty, too long or contains invalid characters", " is empty, too long or is invalid")


def raise_for_status(status: int, body: bytes) -> None:
    """Raise the `APIError` that an answer means, if it is not a success."""
    if 200 <= status < 300:  # noqa: PLR2004 # the statuses of success
        return
    reason = ""
    try:
        members = json.loads(body)
        # Releases before 2023 used another name for this member.
        message = str(members.get("message") or members.get("error") or "")
        reason = str(members.get("reason") or "")
    except (ValueError, AttributeError):
        message = body[:200].decode("utf-8", "replace").strip()
    kind = _ERRORS.get((status, message)) or _BY_STATUS.get(status, APIError)
    if status == 409 and message.endswith(_CONFLICT):  # noqa: PLR2004 # a status by its number
        kind = KeyRotationConflictError
    if status == 400 and message.endswith(_INVALID_NAME):  # noqa: PLR2004 # a status by its number, as above
        kind = InvalidNameError
    raise kind(status, message, reason)

"""A client for KES servers, blocking (`Client`) and asynchronous (`AsyncClient`).

    from kes_core.client import Client

    with Client("https://127.0.0.1:7373", api_key="kes:v1:...") as client:
        client.create_key("my-key")
        data_key = client.generate_data_key("my-key", context=b"my-bucket/my-object")
        ...
        plaintext = client.decrypt("my-key", data_key.ciphertext, context=b"my-bucket/my-object")

A client can have several endpoints. It tries one after the other until one answers, and asks that one first from then
on. If the connection breaks, the client sends the request again, a few times with growing pauses. There is one
exception: a request that creates or imports a key goes to the next endpoint only if no connection was made, so that
it certainly was not sent before. A log that breaks is never opened again: events would be missing unnoticed.

    KESError
    ├── KESConnectionError      no server answered, or the connection broke
    │   └── StreamEndedError    the server ended a log
    └── APIError                the server refused or failed: status, message, reason
        ├── ClientCertificateError, NotAllowedError
        ├── InvalidNameError, UnsupportedKeyError
        ├── KeyExistsError, KeyNotFoundError, PolicyNotFoundError, IdentityNotFoundError
        ├── DecryptionError, HMACUnsupportedError, WrappingKeyUnknownError
        └── KeyStoreUnavailableError
"""

from __future__ import annotations

from kes_core.client.aio import AsyncClient
from kes_core.client.blocking import Client
from kes_core.client.errors import (
    APIError,
    ClientCertificateError,
    ClientUnusableError,
    DecryptionError,
    HMACUnsupportedError,
    IdentityNotFoundError,
    InvalidNameError,
    KESConnectionError,
    KESError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyRotationConflictError,
    KeyStoreUnavailableError,
    NotAllowedError,
    PolicyNotFoundError,
    StreamEndedError,
    UnsupportedKeyError,
    WrappingKeyUnknownError,
)
from kes_core.client.logs import AsyncLogStream, LogStream
from kes_core.client.models import (
    APIRoute,
    AuditEvent,
    DataKey,
    ErrorEvent,
    IdentityInfo,
    KeyInfo,
    KeyRotation,
    KeyVersionInfo,
    PolicyInfo,
    ServerStatus,
    ServerVersion,
    WrappingKey,
)

__all__ = [
    "APIError",
    "APIRoute",
    "AsyncClient",
    "AsyncLogStream",
    "AuditEvent",
    "Client",
    "ClientCertificateError",
    "ClientUnusableError",
    "DataKey",
    "DecryptionError",
    "ErrorEvent",
    "HMACUnsupportedError",
    "IdentityInfo",
    "IdentityNotFoundError",
    "InvalidNameError",
    "KESConnectionError",
    "KESError",
    "KeyDisabledError",
    "KeyExistsError",
    "KeyInfo",
    "KeyNotFoundError",
    "KeyRotation",
    "KeyRotationConflictError",
    "KeyStoreUnavailableError",
    "KeyVersionInfo",
    "LogStream",
    "NotAllowedError",
    "PolicyInfo",
    "PolicyNotFoundError",
    "ServerStatus",
    "ServerVersion",
    "StreamEndedError",
    "UnsupportedKeyError",
    "WrappingKey",
    "WrappingKeyUnknownError",
]

# Tracebacks and documentation show the names that users import.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name

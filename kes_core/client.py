"""A client for KES servers, blocking (`Client`) and asynchronous (`AsyncClient`).

    from kes_core.client import Client

    with Client("https://127.0.0.1:7373", api_key="kes:v1:...") as client:
        client.create_key("my-key")
        data_key = client.generate_key("my-key", context=b"my-bucket/my-object")
        ...
        plaintext = client.decrypt("my-key", data_key.ciphertext, context=b"my-bucket/my-object")

Several endpoints may be given; one after the other is tried until one answers, and that one is asked first from then
on. A request whose connection breaks is sent again, a few times with growing pauses, unless it creates or imports a
key: that is sent to the next endpoint only if it has certainly not been sent before, because no connection came about.
A log is never asked for again when it breaks: what has happened meanwhile would be missing, and nobody would know.

    KESError
    ├── KESConnectionError      no server answered, or the connection broke
    │   └── StreamEndedError    the server has ended a log
    └── APIError                a server refused or failed: status, message, reason
        ├── ClientCertificateError, NotAllowedError
        ├── InvalidNameError, UnsupportedKeyError
        ├── KeyExistsError, KeyNotFoundError, PolicyNotFoundError, IdentityNotFoundError
        ├── DecryptionError, HMACUnsupportedError
        └── KeyStoreUnavailableError
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from kes_core import _api
from kes_core._answers import (
    APIRoute,
    AuditEvent,
    DataKey,
    ErrorEvent,
    IdentityInfo,
    KeyInfo,
    PolicyInfo,
    ServerStatus,
    ServerVersion,
)
from kes_core._api import Log, Request
from kes_core._async_client import AsyncClient
from kes_core._errors import (
    APIError,
    ClientCertificateError,
    DecryptionError,
    HMACUnsupportedError,
    IdentityNotFoundError,
    InvalidNameError,
    KESConnectionError,
    KESError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStoreUnavailableError,
    NotAllowedError,
    PolicyNotFoundError,
    StreamEndedError,
    UnsupportedKeyError,
)
from kes_core._streams import AsyncLogStream, LogStream
from kes_core._transport import (
    DEFAULT_ENDPOINT,
    MAX_ANSWER,
    Settings,
    connection_errors,
    content_of,
    failed,
    may_repeat,
    read_answer,
    retries,
    too_large,
)
from kes_core.identity import APIKey

__all__ = [
    "APIError",
    "APIRoute",
    "AsyncClient",
    "AsyncLogStream",
    "AuditEvent",
    "Client",
    "ClientCertificateError",
    "DataKey",
    "DecryptionError",
    "ErrorEvent",
    "HMACUnsupportedError",
    "IdentityInfo",
    "IdentityNotFoundError",
    "InvalidNameError",
    "KESConnectionError",
    "KESError",
    "KeyExistsError",
    "KeyInfo",
    "KeyNotFoundError",
    "KeyStoreUnavailableError",
    "LogStream",
    "NotAllowedError",
    "PolicyInfo",
    "PolicyNotFoundError",
    "ServerStatus",
    "ServerVersion",
    "StreamEndedError",
    "UnsupportedKeyError",
]

T = TypeVar("T")


class Client:
    """A blocking client. Threads may share it. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        api_key: str | APIKey | None = None,
        key_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        password: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        timeout: float = 15.0,
    ) -> None:
        """Set up a client; nothing is sent yet.

        Args:
            endpoints: URLs or `host:port` of servers, in a list or separated by commas.
            api_key: What the client identifies itself with: an API key,
            key_file: or a PEM private key
            cert_file: with its PEM certificate.
            password: Of an encrypted private key.
            ca: A PEM file or a directory with the CAs to trust, instead of the system's.
            insecure: Do not verify the server's certificate. For tests only.
            timeout: Seconds for each step of a request.

        Raises:
            ValueError: The arguments do not go together, or a file can't be used.
        """
        self._settings = Settings(
            endpoints,
            api_key=api_key,
            key_file=key_file,
            cert_file=cert_file,
            password=password,
            ca=ca,
            insecure=insecure,
            timeout=timeout,
        )
        self._http = httpx.Client(verify=self._settings.ssl, http2=True, timeout=timeout, trust_env=False)
        self._streams: weakref.WeakSet[LogStream[Any]] = weakref.WeakSet()

    def close(self) -> None:
        """Close the connections, those of logs too."""
        for stream in list(self._streams):
            stream.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def version(self) -> ServerVersion:
        """Return the server's version."""
        return self._send(_api.version())

    def ready(self) -> None:
        """Return if the server's key store answers.

        Raises:
            KeyStoreUnavailableError: It does not: status 504 if it can't be reached, 502 otherwise.
        """
        self._send(_api.ready())

    def status(self) -> ServerStatus:
        """Return the state of the server."""
        return self._send(_api.status())

    def metrics(self) -> str:
        """Return what the server counts, in the text format of Prometheus."""
        return self._send(_api.metrics())

    def apis(self) -> list[APIRoute]:
        """Return what the server offers."""
        return self._send(_api.apis())

    def create_key(self, name: str) -> None:
        """Make a random key.

        Raises:
            KeyExistsError: There is one of that name.
        """
        self._send(_api.create_key(name))

    def import_key(self, name: str, key: bytes, cipher: str = "AES256") -> None:
        """Store the 32 bytes of a key made elsewhere, for the cipher `AES256` or `ChaCha20`.

        Raises:
            KeyExistsError: There is one of that name.
        """
        self._send(_api.import_key(name, key, cipher))

    def describe_key(self, name: str) -> KeyInfo:
        """Return facts about a key."""
        return self._send(_api.describe_key(name))

    def delete_key(self, name: str) -> None:
        """Delete a key for good, and with it everything that it has encrypted."""
        self._send(_api.delete_key(name))

    def generate_key(self, name: str, context: bytes = b"") -> DataKey:
        """Make a data encryption key under a key. The same context is needed to decrypt it."""
        return self._send(_api.generate_key(name, context))

    def encrypt(self, name: str, plaintext: bytes, context: bytes = b"") -> bytes:
        """Encrypt a short plaintext; return the ciphertext."""
        return self._send(_api.encrypt(name, plaintext, context))

    def decrypt(self, name: str, ciphertext: bytes, context: bytes = b"") -> bytes:
        """Decrypt a ciphertext or the ciphertext of a data key; return the plaintext.

        Raises:
            DecryptionError: It is not authentic.
        """
        return self._send(_api.decrypt(name, ciphertext, context))

    def decrypt_all(self, name: str, items: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Decrypt up to 1000 pairs of ciphertext and context, all or none; return the plaintexts in their order."""
        return self._send(_api.decrypt_all(name, items))

    def hmac(self, name: str, message: bytes) -> bytes:
        """Return the HMAC-SHA-256 of a message under a key's HMAC key: 32 bytes.

        Raises:
            HMACUnsupportedError: The key has none.
        """
        return self._send(_api.hmac(name, message))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of the keys that begin with `prefix`, in order, a page a request."""
        return self._list("key", prefix)

    def describe_policy(self, name: str) -> PolicyInfo:
        """Return facts about a policy, without its patterns."""
        return self._send(_api.describe_policy(name))

    def read_policy(self, name: str) -> PolicyInfo:
        """Return a policy with its patterns."""
        return self._send(_api.read_policy(name))

    def list_policies(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of the policies that begin with `prefix`."""
        return self._list("policy", prefix)

    def describe_identity(self, identity: str) -> IdentityInfo:
        """Return facts about an identity."""
        return self._send(_api.describe_identity(identity))

    def describe_self(self) -> IdentityInfo:
        """Return facts about the client itself, with what it may do."""
        return self._send(_api.describe_self())

    def list_identities(self, prefix: str = "") -> Iterator[str]:
        """Yield the known identities that begin with `prefix`."""
        return self._list("identity", prefix)

    def audit_log(self) -> LogStream[AuditEvent]:
        """Return the audit log from now on: what is asked of the server, and what comes of it."""
        return self._open(_api.audit_log())

    def error_log(self) -> LogStream[ErrorEvent]:
        """Return the error log from now on."""
        return self._open(_api.error_log())

    def _open(self, log: Log[T]) -> LogStream[T]:
        stream = LogStream(self._settings, log)
        self._streams.add(stream)
        return stream

    def _list(self, resource: str, pattern: str) -> Iterator[str]:
        while True:
            names, pattern = self._send(_api.list_names(resource, pattern))
            yield from names
            if not pattern:
                return

    def _send(self, request: Request[T]) -> T:
        endpoints = self._settings.in_turn()
        try:
            return self._attempt(request, next(endpoints))
        except httpx.TransportError as error:
            if not may_repeat(request, error):
                raise failed(error) from error
        from tenacity import Retrying  # noqa: PLC0415 # slow to import, and seldom needed

        try:
            return Retrying(**retries(request, self._settings))(lambda: self._attempt(request, next(endpoints)))
        except httpx.TransportError as error:
            raise failed(error) from error

    def _attempt(self, request: Request[T], endpoint: str) -> T:
        content, headers = content_of(request)
        url = endpoint + request.path
        with (
            connection_errors(endpoint),
            self._http.stream(request.method, url, content=content, headers=headers) as response,
        ):
            body = b""
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise too_large(endpoint)
        self._settings.answered(endpoint)
        return read_answer(request, response.status_code, body)

"""The blocking client. `scripts/blocking_client.py` generates this module from `aio`: do not edit it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from kes_core.client import requests
from kes_core.client.logs import LogStream
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
from kes_core.client.requests import Log, Request
from kes_core.client.transport import (
    DEFAULT_ENDPOINT,
    MAX_ANSWER,
    Settings,
    arguments_from_environment,
    connection_errors,
    content_of,
    failed,
    may_repeat,
    read_answer,
    retries,
    too_large,
)
from kes_core.identity import APIKey

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A blocking client. Threads may share it. Use `with`, or call `close`."""

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Set up a client. Nothing is sent yet.

        Args:
            endpoints: URLs or `host:port` of servers, in a list or separated by commas.
            api_key: Identifies the client. Give either an API key or the two files.
            key_file: A PEM private key that identifies the client.
            cert_file: The PEM certificate of that key.
            password: Decrypts an encrypted private key.
            ca: A PEM file or a directory with the CAs to trust, instead of the system's.
            insecure: Do not verify the server's certificate. For tests only.
            timeout: Seconds for each step of a request.
            transport: Sends the requests instead of the network: for tests, as `kes_core.testing.FakeServer`. The
                client then makes no TLS connection of its own and ignores key, certificate and CA.

        Raises:
            ValueError: The arguments do not fit together, or a file can't be used.
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
            has_transport=transport is not None,
        )
        self._transport = transport
        self._http = httpx.Client(
            verify=self._settings.ssl,
            http2=False,  # a connection of HTTP/2 is not thread-safe
            timeout=timeout,
            trust_env=False,
            transport=transport,
        )
        self._streams: weakref.WeakSet[LogStream[Any]] = weakref.WeakSet()

    @classmethod
    def from_environment(cls, *, insecure: bool = False) -> Self:
        """Set up a client from the variables that the command `kes` reads (protocol section 9).

        They are KES_SERVER, KES_API_KEY or KES_CLIENT_KEY and KES_CLIENT_CERT, KES_CLIENT_KEY_PASSWORD, and their
        spellings that begin with MINIO_.

        Args:
            insecure: Do not verify the server's certificate. For tests only.

        Raises:
            ValueError: The client credentials are missing or given twice, or a file can't be used.
        """
        return cls(**arguments_from_environment(os.environ), insecure=insecure)

    @property
    def endpoint(self) -> str:
        """The endpoint that answered last; before the first answer, the one that is asked first."""
        return self._settings.endpoint

    def close(self) -> None:
        """Close all connections, those of logs too."""
        for stream in list(self._streams):
            stream.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def version(self) -> ServerVersion:
        """Return the server's version."""
        return self._send(requests.version())

    def ready(self) -> None:
        """Return if the server's key store answers.

        Raises:
            KeyStoreUnavailableError: It does not: status 504 if the server can't reach it, 502 otherwise.
        """
        self._send(requests.ready())

    def status(self) -> ServerStatus:
        """Return the state of the server."""
        return self._send(requests.status())

    def metrics(self) -> str:
        """Return the server's metrics in the text format of Prometheus."""
        return self._send(requests.metrics())

    def apis(self) -> list[APIRoute]:
        """Return the APIs that the server offers."""
        return self._send(requests.apis())

    def create_key(self, name: str) -> None:
        """Create a random key.

        Raises:
            KeyExistsError: A key of that name exists already.
        """
        self._send(requests.create_key(name))

    def import_key(self, name: str, key: bytes, cipher: str = "AES256") -> None:
        """Store a given key of 32 bytes, for the cipher `AES256` or `ChaCha20`.

        Raises:
            KeyExistsError: A key of that name exists already.
        """
        self._send(requests.import_key(name, key, cipher))

    def wrapping_key(self) -> WrappingKey:
        """Return a public key of the server, for which keys are wrapped. The first one may take some seconds."""
        return self._send(requests.wrapping_key())

    def import_wrapped_key(self, name: str, wrapped: bytes, wrapping_key: str, cipher: str = "AES256") -> None:
        """Store a key that is wrapped for the wrapping key with the id `wrapping_key`, as `import_key`.

        Raises:
            KeyExistsError: A key of that name exists already.
            WrappingKeyUnknownError: The wrapping key has expired.
        """
        self._send(requests.import_wrapped_key(name, wrapped, wrapping_key, cipher))

    def import_key_version(
        self, name: str, key: bytes, *, wrapping_key: str | None = None, cipher: str | None = None
    ) -> KeyRotation:
        """Add a given key as a version of a key, as `rotate_key`. With `wrapping_key`, `key` is wrapped for that one.

        The version has the cipher of the key, if none is given.
        """
        return self._send(requests.import_key_version(name, key, wrapping_key, cipher))

    def describe_key(self, name: str) -> KeyInfo:
        """Return facts about a key."""
        return self._send(requests.describe_key(name))

    def delete_key(self, name: str) -> None:
        """Delete a key permanently. Data that it encrypted can't be decrypted any more."""
        self._send(requests.delete_key(name))

    def rotate_key(self, name: str, *, if_older_than: timedelta | None = None) -> KeyRotation:
        """Add a version to a key. The newest version encrypts from now on, and all versions decrypt.

        Args:
            name: The name of the key.
            if_older_than: Leave the key as it is if its newest version is younger.

        Raises:
            KeyRotationConflictError: Another rotation of the key ran at the same moment.
        """
        return self._send(requests.rotate_key(name, if_older_than))

    def disable_key(self, name: str, *, allow_decrypt: bool = False) -> None:
        """Refuse the use of a key until it is enabled. With `allow_decrypt` it still decrypts, and computes HMACs."""
        self._send(requests.disable_key(name, allow_decrypt=allow_decrypt))

    def enable_key(self, name: str) -> None:
        """Allow the use of a key again."""
        self._send(requests.enable_key(name))

    def schedule_key_deletion(self, name: str, *, after: timedelta | None = None) -> datetime:
        """Let the server delete a key later, and refuse its use until then; return when.

        Args:
            name: The name of the key.
            after: How much later, at least as long as the server's configuration says, which is the default.
        """
        return self._send(requests.schedule_key_deletion(name, after))

    def undelete_key(self, name: str) -> None:
        """Cancel the deletion of a key that was scheduled. The key has the state that it had before."""
        self._send(requests.undelete_key(name))

    def set_min_decryption_version(self, name: str, version: int) -> None:
        """Refuse to decrypt ciphertexts of versions before `version`. 1 allows all of them again."""
        self._send(requests.set_min_decryption_version(name, version))

    def key_versions(self, name: str) -> list[KeyVersionInfo]:
        """Return facts about the versions of a key, the oldest one first."""
        return self._send(requests.key_versions(name))

    def generate_data_key(self, name: str, context: bytes = b"") -> DataKey:
        """Generate a data encryption key under a key. Decrypting its ciphertext needs the same context."""
        return self._send(requests.generate_data_key(name, context))

    def generate_data_keys(self, name: str, contexts: Iterable[bytes]) -> list[DataKey]:
        """Generate up to 1000 data encryption keys, one for each context."""
        return self._send(requests.generate_data_keys(name, contexts))

    def encrypt(self, name: str, plaintext: bytes, context: bytes = b"") -> bytes:
        """Encrypt a short plaintext; return the ciphertext. Decrypting it needs the same context."""
        return self._send(requests.encrypt(name, plaintext, context))

    def encrypt_all(self, name: str, items: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Encrypt up to 1000 pairs of plaintext and context; return the ciphertexts in their order."""
        return self._send(requests.encrypt_all(name, items))

    def rewrap(self, name: str, ciphertext: bytes, context: bytes = b"") -> bytes:
        """Return a new ciphertext of the same plaintext, under the newest version of the key.

        Raises:
            DecryptionError: The ciphertext is not authentic.
        """
        return self._send(requests.rewrap(name, ciphertext, context))

    def rewrap_all(self, name: str, items: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """As `rewrap`, for up to 1000 pairs of ciphertext and context, all or none."""
        return self._send(requests.rewrap_all(name, items))

    def decrypt(self, name: str, ciphertext: bytes, context: bytes = b"") -> bytes:
        """Decrypt a ciphertext, or that of a data encryption key; return the plaintext.

        Raises:
            DecryptionError: The ciphertext is not authentic.
        """
        return self._send(requests.decrypt(name, ciphertext, context))

    def decrypt_all(self, name: str, items: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Decrypt up to 1000 pairs of ciphertext and context, all or none; return the plaintexts in their order."""
        return self._send(requests.decrypt_all(name, items))

    def hmac(self, name: str, message: bytes, *, version: int = 1) -> bytes:
        """Return the HMAC-SHA-256 of a message under the HMAC key of a version of a key: 32 bytes.

        Raises:
            HMACUnsupportedError: The version has no HMAC key.
        """
        return self._send(requests.hmac(name, message, version))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of the keys that begin with `prefix`, in order, one page a request."""
        return self._list("key", prefix)

    def describe_policy(self, name: str) -> PolicyInfo:
        """Return facts about a policy, without its patterns."""
        return self._send(requests.describe_policy(name))

    def read_policy(self, name: str) -> PolicyInfo:
        """Return a policy with its patterns."""
        return self._send(requests.read_policy(name))

    def list_policies(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of the policies that begin with `prefix`."""
        return self._list("policy", prefix)

    def describe_identity(self, identity: str) -> IdentityInfo:
        """Return facts about an identity."""
        return self._send(requests.describe_identity(identity))

    def describe_self(self) -> IdentityInfo:
        """Return facts about the client itself, with the patterns of its policy."""
        return self._send(requests.describe_self())

    def list_identities(self, prefix: str = "") -> Iterator[str]:
        """Yield the known identities that begin with `prefix`."""
        return self._list("identity", prefix)

    def audit_log(self) -> LogStream[AuditEvent]:
        """Return the audit log from now on: every request that the server answers or refuses."""
        return self._open(requests.audit_log())

    def error_log(self) -> LogStream[ErrorEvent]:
        """Return the error log from now on."""
        return self._open(requests.error_log())

    def _open(self, log: Log[T]) -> LogStream[T]:
        stream = LogStream(self._settings, log, self._transport)
        self._streams.add(stream)
        return stream

    def _list(self, resource: str, pattern: str) -> Iterator[str]:
        while True:
            names, pattern = self._send(requests.list_names(resource, pattern))
            for name in names:
                yield name
            if not pattern:
                return

    def _send(self, request: Request[T]) -> T:
        endpoints = self._settings.in_turn()
        try:
            return self._attempt(request, next(endpoints))
        except httpx.TransportError as error:
            if not may_repeat(request, error, self._settings, attempt=1):
                raise failed(error) from error
        from tenacity import Retrying

        def attempt() -> T:
            return self._attempt(request, next(endpoints))

        try:
            return Retrying(**retries(request, self._settings))(attempt)
        except httpx.TransportError as error:
            raise failed(error) from error

    def _attempt(self, request: Request[T], endpoint: str) -> T:
        self._settings.check_usable(closed=self._http.is_closed)
        content, headers = content_of(request)
        url = endpoint + request.path
        with connection_errors(endpoint):
            with self._http.stream(request.method, url, content=content, headers=headers) as response:
                body = b""
                # A test's transport may return a response that was read already. Never decompress a server's.
                chunks = response.iter_bytes() if response.is_stream_consumed else response.iter_raw()
                for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise too_large(endpoint)
        self._settings.answered(endpoint)
        return read_answer(request, response.status_code, body)

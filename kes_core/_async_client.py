"""The asynchronous client. Private: it is imported from `kes_core.client`."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Iterable, Sequence
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
from kes_core._streams import AsyncLogStream
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

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """An asynchronous client with the methods of `Client`. Use it as a context manager, or `aclose` it."""

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
        """Set up a client; arguments and errors are those of `Client`."""
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
        self._http = httpx.AsyncClient(verify=self._settings.ssl, http2=True, timeout=timeout, trust_env=False)
        self._streams: weakref.WeakSet[AsyncLogStream[Any]] = weakref.WeakSet()

    async def aclose(self) -> None:
        """Close the connections, those of logs too."""
        for stream in list(self._streams):
            await stream.aclose()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def version(self) -> ServerVersion:
        """Return the server's version."""
        return await self._send(_api.version())

    async def ready(self) -> None:
        """Return if the server's key store answers."""
        await self._send(_api.ready())

    async def status(self) -> ServerStatus:
        """Return the state of the server."""
        return await self._send(_api.status())

    async def metrics(self) -> str:
        """Return what the server counts, in the text format of Prometheus."""
        return await self._send(_api.metrics())

    async def apis(self) -> list[APIRoute]:
        """Return what the server offers."""
        return await self._send(_api.apis())

    async def create_key(self, name: str) -> None:
        """Make a random key."""
        await self._send(_api.create_key(name))

    async def import_key(self, name: str, key: bytes, cipher: str = "AES256") -> None:
        """Store the 32 bytes of a key made elsewhere, for the cipher `AES256` or `ChaCha20`."""
        await self._send(_api.import_key(name, key, cipher))

    async def describe_key(self, name: str) -> KeyInfo:
        """Return facts about a key."""
        return await self._send(_api.describe_key(name))

    async def delete_key(self, name: str) -> None:
        """Delete a key for good, and with it everything that it has encrypted."""
        await self._send(_api.delete_key(name))

    async def generate_key(self, name: str, context: bytes = b"") -> DataKey:
        """Make a data encryption key under a key. The same context is needed to decrypt it."""
        return await self._send(_api.generate_key(name, context))

    async def encrypt(self, name: str, plaintext: bytes, context: bytes = b"") -> bytes:
        """Encrypt a short plaintext; return the ciphertext."""
        return await self._send(_api.encrypt(name, plaintext, context))

    async def decrypt(self, name: str, ciphertext: bytes, context: bytes = b"") -> bytes:
        """Decrypt a ciphertext or the ciphertext of a data key; return the plaintext."""
        return await self._send(_api.decrypt(name, ciphertext, context))

    async def decrypt_all(self, name: str, items: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Decrypt up to 1000 pairs of ciphertext and context, all or none; return the plaintexts in their order."""
        return await self._send(_api.decrypt_all(name, items))

    async def hmac(self, name: str, message: bytes) -> bytes:
        """Return the HMAC-SHA-256 of a message under a key's HMAC key: 32 bytes."""
        return await self._send(_api.hmac(name, message))

    def list_keys(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the names of the keys that begin with `prefix`, in order, a page a request."""
        return self._list("key", prefix)

    async def describe_policy(self, name: str) -> PolicyInfo:
        """Return facts about a policy, without its patterns."""
        return await self._send(_api.describe_policy(name))

    async def read_policy(self, name: str) -> PolicyInfo:
        """Return a policy with its patterns."""
        return await self._send(_api.read_policy(name))

    def list_policies(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the names of the policies that begin with `prefix`."""
        return self._list("policy", prefix)

    async def describe_identity(self, identity: str) -> IdentityInfo:
        """Return facts about an identity."""
        return await self._send(_api.describe_identity(identity))

    async def describe_self(self) -> IdentityInfo:
        """Return facts about the client itself, with what it may do."""
        return await self._send(_api.describe_self())

    def list_identities(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the known identities that begin with `prefix`."""
        return self._list("identity", prefix)

    def audit_log(self) -> AsyncLogStream[AuditEvent]:
        """Return the audit log from now on: what is asked of the server, and what comes of it."""
        return self._open(_api.audit_log())

    def error_log(self) -> AsyncLogStream[ErrorEvent]:
        """Return the error log from now on."""
        return self._open(_api.error_log())

    def _open(self, log: Log[T]) -> AsyncLogStream[T]:
        stream = AsyncLogStream(self._settings, log)
        self._streams.add(stream)
        return stream

    async def _list(self, resource: str, pattern: str) -> AsyncIterator[str]:
        while True:
            names, pattern = await self._send(_api.list_names(resource, pattern))
            for name in names:
                yield name
            if not pattern:
                return

    async def _send(self, request: Request[T]) -> T:
        endpoints = self._settings.in_turn()
        try:
            return await self._attempt(request, next(endpoints))
        except httpx.TransportError as error:
            if not may_repeat(request, error):
                raise failed(error) from error
        from tenacity import AsyncRetrying  # noqa: PLC0415 # slow to import, and seldom needed

        async def again() -> T:
            return await self._attempt(request, next(endpoints))

        try:
            return await AsyncRetrying(**retries(request, self._settings))(again)
        except httpx.TransportError as error:
            raise failed(error) from error

    async def _attempt(self, request: Request[T], endpoint: str) -> T:
        content, headers = content_of(request)
        url = endpoint + request.path
        with connection_errors(endpoint):
            async with self._http.stream(request.method, url, content=content, headers=headers) as response:
                body = b""
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise too_large(endpoint)
        self._settings.answered(endpoint)
        return read_answer(request, response.status_code, body)

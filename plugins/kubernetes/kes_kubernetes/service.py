"""The three methods of Kubernetes' KMS v2, on top of the server's keys.

Whoever calls them has to pass the mode of the socket, and then acts as the identity of the configuration: its policies
decide, and each call is in the audit log under its name.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from kes_core import (
    FrontendError,
    FrontendKeys,
    InvalidKeyUseError,
    KeysThrottledError,
    KeysUnavailableError,
    KeyUseDeniedError,
    KeyUseError,
    KeyUseTimeoutError,
    NotAuthenticError,
    UnknownKeyError,
    UnusableKeyError,
)
from kes_kubernetes import kms_v2_pb2 as pb
from kes_kubernetes.keyid import KeyID

__all__ = ["ASSOCIATED_DATA", "MAX_CIPHERTEXT", "MAX_MESSAGE", "MAX_PLAINTEXT", "SERVICE", "Refusal", "Service"]

M = TypeVar("M", bound=Message)

SERVICE: Final = "v2.KeyManagementService"
VERSION: Final = "v2"
HEALTHY: Final = "ok"
MAX_CIPHERTEXT: Final = 1024
"""The longest ciphertext that the API server accepts, in bytes."""
MAX_PLAINTEXT: Final = 512
"""The longest plaintext: its ciphertext has 44 bytes more. The API server sends 32 bytes."""
MAX_MESSAGE: Final = 64 * 1024
"""The longest message, in bytes. The largest that the API server may send has 34 kB: annotations, which no object of
this plugin has."""
ASSOCIATED_DATA: Final = b"kes-kubernetes kms v2"
"""Keeps these ciphertexts apart from all others under the same key: a client of the HTTP API has to know this text to
decrypt them, and a ciphertext of such a client is not accepted here."""
_TIME_LIMIT: Final = 10.0
"""Seconds for a call whose client sets no deadline. The API server sets one of 3 seconds by default."""
_PROBE_SIZE: Final = 32
_UNFIT: Final = "the key does not decrypt what it encrypts"
_GOOD_FOR: Final = 60.0
"""Seconds for which the answer to the last successful health check is good enough for `Service.check`."""

_CODES: Final[Mapping[type[KeyUseError], grpc.StatusCode]] = {
    InvalidKeyUseError: grpc.StatusCode.INVALID_ARGUMENT,
    KeyUseDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    UnknownKeyError: grpc.StatusCode.NOT_FOUND,
    UnusableKeyError: grpc.StatusCode.FAILED_PRECONDITION,
    NotAuthenticError: grpc.StatusCode.INVALID_ARGUMENT,
    KeyUseTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    KeysThrottledError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    KeysUnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_TEMPORARY: Final = frozenset(
    {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
)
"""Failures that say nothing about the key."""


class Refusal(Exception):  # noqa: N818 # an answer, not a fault
    """The answer to a call is an error. The text goes to the API server, which logs it."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Counts(NamedTuple):
    """The metrics of the plugin."""

    request: Callable[[], None]
    failure: Callable[[], None]
    healthy: Callable[[float], None]


class Service:
    """Answers the calls of API servers."""

    def __init__(
        self,
        keys: FrontendKeys,
        identity: str,
        key: str,
        old_keys: Collection[str] = (),
        *,
        logger: logging.Logger,
        counts: Counts,
    ) -> None:
        """Serve with one key.

        Args:
            keys: The keys of the server.
            identity: The identity that asks for the keys.
            key: The name of the key.
            old_keys: The names of keys that only decrypt.
            logger: Where changes of the health are logged.
            counts: Where calls are counted.
        """
        self._keys = keys
        self._identity = identity
        self._key = key
        self._names = frozenset({key, *old_keys})
        self._logger = logger
        self._counts = counts
        self._newest: KeyID | None = None
        """The version that encrypted last."""
        self._problem = ""
        """Why the last health check failed, if it did."""
        self._healthy_at = float("-inf")

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the methods in the form that gRPC calls."""
        methods = {
            "Status": self._method(pb.StatusRequest, self._status),
            "Encrypt": self._method(pb.EncryptRequest, self._encrypt),
            "Decrypt": self._method(pb.DecryptRequest, self._decrypt),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _method(self, kind: type[M], answer: Callable[[M], Awaitable[Message]]) -> grpc.RpcMethodHandler:
        async def call(request: bytes, context: Any) -> bytes:
            self._counts.request()
            try:
                seconds = min(context.time_remaining() or _TIME_LIMIT, _TIME_LIMIT)
                async with asyncio.timeout(seconds):
                    return (await answer(_parsed(kind, request))).SerializeToString()
            except Refusal as refusal:
                code, text = refusal.code, str(refusal)
            except TimeoutError:
                code, text = grpc.StatusCode.DEADLINE_EXCEEDED, "the server did not answer in time"
            except Exception as error:  # gRPC would send its text to the client
                self._logger.error("internal error: %s in %s", type(error).__name__, kind.DESCRIPTOR.name)
                code, text = grpc.StatusCode.INTERNAL, "internal error"
            self._counts.failure()
            return await context.abort(code, text)  # type: ignore[no-any-return] # it raises

        return grpc.unary_unary_rpc_method_handler(call)

    async def check(self) -> None:
        """Check whether the key can be used, unless a health check has just shown that.

        Raises:
            FrontendError: It can't be used; the message says why.
        """
        if time.monotonic() < self._healthy_at + _GOOD_FOR:
            return
        try:
            await self._examine()
        except Refusal as refusal:
            raise FrontendError(str(refusal)) from None

    async def _status(self, _request: pb.StatusRequest) -> pb.StatusResponse:
        """Tell the API server whether the key can be used, and which version encrypts.

        If the key can't be reached for the moment, the answer still has the last `key_id`: with it, the API server goes
        on to write with the data encryption key that it has. If the key was disabled, deleted or forbidden, there is
        none, and the API server stops writing within three minutes.
        """
        try:
            current = await self._examine()
        except Refusal as refusal:
            if refusal.code not in _TEMPORARY or self._newest is None:
                raise
            return pb.StatusResponse(version=VERSION, healthz=str(refusal), key_id=str(self._newest))
        return pb.StatusResponse(version=VERSION, healthz=HEALTHY, key_id=str(current))

    async def _examine(self) -> KeyID:
        """Encrypt and decrypt something; return the version that encrypts.

        Raises:
            Refusal: That does not work.
        """
        try:
            plaintext = os.urandom(_PROBE_SIZE)
            ciphertext, current = await self._seal(plaintext, "status")
            opened = await self._open(self._key, ciphertext, "status")
        except Refusal as refusal:
            self._note_health(str(refusal))
            raise
        is_same = hmac.compare_digest(opened, plaintext)
        self._note_health("" if is_same else _UNFIT)
        if not is_same:
            raise Refusal(grpc.StatusCode.INTERNAL, _UNFIT)
        return current

    def _note_health(self, problem: str) -> None:
        self._healthy_at = float("-inf") if problem else time.monotonic()
        if problem and problem != self._problem:
            self._logger.error("the plugin is not healthy: %s", problem)
        elif not problem and self._problem:
            self._logger.warning("the plugin is healthy again")
        self._counts.healthy(float(not problem))
        self._problem = problem

    async def _encrypt(self, request: pb.EncryptRequest) -> pb.EncryptResponse:
        if not 0 < len(request.plaintext) <= MAX_PLAINTEXT:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"a plaintext has 1 to {MAX_PLAINTEXT} bytes")
        ciphertext, current = await self._seal(request.plaintext, request.uid)
        return pb.EncryptResponse(ciphertext=ciphertext, key_id=str(current))

    async def _decrypt(self, request: pb.DecryptRequest) -> pb.DecryptResponse:
        if not 0 < len(request.ciphertext) <= MAX_CIPHERTEXT:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"a ciphertext has 1 to {MAX_CIPHERTEXT} bytes")
        if request.annotations:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the object has annotations, but this plugin makes none")
        used = KeyID.parse(request.key_id)
        if used is None:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the key_id is not one of this plugin")
        if used.name not in self._names:
            text = f"the key_id is of the key {used.name!r}, which is neither 'key' nor one of 'old_keys'"
            raise Refusal(grpc.StatusCode.NOT_FOUND, text)
        try:
            return pb.DecryptResponse(plaintext=await self._open(used.name, request.ciphertext, request.uid))
        except Refusal as refusal:
            now = self._newest
            is_another = now is not None and now.name == used.name and now.created_at != used.created_at
            if now is not None and is_another and refusal.code is grpc.StatusCode.INVALID_ARGUMENT:
                text = f"the key {used.name!r} of {used.created_at} is gone; the present one is of {now.created_at}"
                raise Refusal(grpc.StatusCode.NOT_FOUND, text) from None
            raise

    async def _seal(self, plaintext: bytes, uid: str) -> tuple[bytes, KeyID]:
        try:
            sealed = await self._keys.encrypt(
                self._identity, self._key, plaintext, associated_data=ASSOCIATED_DATA, request_id=uid
            )
        except KeyUseError as error:
            raise _refusal(self._key, error) from None
        self._newest = KeyID.of(self._key, sealed.version, sealed.created_at)
        return sealed.ciphertext, self._newest

    async def _open(self, key: str, ciphertext: bytes, uid: str) -> bytes:
        try:
            return await self._keys.decrypt(
                self._identity, key, ciphertext, associated_data=ASSOCIATED_DATA, request_id=uid
            )
        except KeyUseError as error:
            raise _refusal(key, error) from None


def _refusal(key: str, error: KeyUseError) -> Refusal:
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)
    reason = getattr(error, "reason", None)
    return Refusal(code, f"key {key!r}: {error}" + (f" ({reason})" if reason else ""))


def _parsed(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the request is not valid") from None

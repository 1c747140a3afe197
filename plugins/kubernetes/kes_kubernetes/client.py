"""What an API server asks a plugin, for `kes kubernetes check` and `kes doctor`."""

from __future__ import annotations

import hmac
import os
import time
import urllib.parse
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

from kes_kubernetes import kms_v2_pb2 as pb

__all__ = ["Answers", "KMSCallError", "ask", "quoted"]

_SERVICE: Final = "v2.KeyManagementService"
_TIMEOUT: Final = 3.0
"""Seconds for each call, as the API server's default."""


class KMSCallError(Exception):
    """The plugin does not answer, or answers with an error. The message says which."""


class Answers(NamedTuple):
    """The answers of a plugin that works."""

    health: str
    """"ok", or why it is not healthy."""
    key_id: str
    size: int
    """The length of the ciphertext of a data encryption key, in bytes."""
    seconds: float
    """How long the three calls took."""


def ask(path: Path) -> Answers:
    """Ask for the status, encrypt a data encryption key and decrypt it again.

    Raises:
        KMSCallError: A call fails, or the plaintext is another one.
    """
    # A plugin of another make may want its name; the API server sends this one. A pool of its own, since a channel
    # otherwise shares the back-off of an earlier one that could not connect, and fails without trying.
    options = (
        ("grpc.default_authority", "localhost"),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.insecure_channel(f"unix:{quoted(path)}", options=options) as channel:
        started = time.perf_counter()
        status = _call(channel, "Status", pb.StatusRequest(), pb.StatusResponse)
        plaintext = os.urandom(32)
        sealed = _call(channel, "Encrypt", pb.EncryptRequest(plaintext=plaintext, uid="check"), pb.EncryptResponse)
        request = pb.DecryptRequest(
            ciphertext=sealed.ciphertext, key_id=sealed.key_id, annotations=sealed.annotations, uid="check"
        )
        opened = _call(channel, "Decrypt", request, pb.DecryptResponse)
        seconds = time.perf_counter() - started
    if not hmac.compare_digest(opened.plaintext, plaintext):
        raise KMSCallError("the plugin decrypts something else than it encrypted")
    return Answers(status.healthz, status.key_id, len(sealed.ciphertext), seconds)


def quoted(path: Path) -> str:
    """Return a path in the form of gRPC's addresses."""
    return urllib.parse.quote(os.fsencode(path))


def _call(channel: grpc.Channel, method: str, request: Any, answer: Any) -> Any:
    call = channel.unary_unary(
        f"/{_SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    try:
        return call(request, timeout=_TIMEOUT)
    except grpc.RpcError as error:
        code, text = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "connect" in text.lower():
            raise KMSCallError("no plugin answers") from None
        raise KMSCallError(f"{method} failed: {code.name}: {text}") from None

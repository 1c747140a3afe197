"""A client of Kubernetes' KMS v2, which also sends what the API server never would; and the plugin without a server."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml

from kes_core import Encrypted, FrontendContext, FrontendKeys, GeneratedDataKey, KeyDescription, NotAuthenticError
from kes_core.keys.secret import CiphertextError, KeyType, SecretKey, SecretKeys
from kes_kubernetes import KMSConfig
from kes_kubernetes import kms_v2_pb2 as pb
from kes_kubernetes.client import quoted
from kes_kubernetes.frontend import KubernetesFrontend
from tests.helpers.documents import blocks

__all__ = ["IDENTITY", "Client", "Keys", "Running", "connected", "encryption_of_the_page"]

IDENTITY = "a5" * 32

_ANSWERS: dict[str, Any] = {"Status": pb.StatusResponse, "Encrypt": pb.EncryptResponse, "Decrypt": pb.DecryptResponse}


class Client:
    """Calls the plugin behind a channel. Its methods raise `grpc.RpcError`."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def call(self, method: str, request: bytes, *, timeout: float | None = 30.0) -> Any:
        """Send bytes, and return the plugin's message."""
        call = self.channel.unary_unary(f"/v2.KeyManagementService/{method}")
        return _ANSWERS[method].FromString(call(request, timeout=timeout, wait_for_ready=True))

    def status(self) -> pb.StatusResponse:
        answer: pb.StatusResponse = self.call("Status", b"")
        return answer

    def encrypt(self, plaintext: bytes, uid: str = "a-uid", **options: Any) -> pb.EncryptResponse:
        request = pb.EncryptRequest(plaintext=plaintext, uid=uid).SerializeToString()
        answer: pb.EncryptResponse = self.call("Encrypt", request, **options)
        return answer

    def decrypt(self, ciphertext: bytes, key_id: str, uid: str = "a-uid", **annotations: bytes) -> bytes:
        request = pb.DecryptRequest(ciphertext=ciphertext, key_id=key_id, uid=uid, annotations=annotations)
        answer: pb.DecryptResponse = self.call("Decrypt", request.SerializeToString())
        return answer.plaintext

    def error(self, method: str, *arguments: Any, **options: Any) -> tuple[str, str]:
        """Call a method that has to fail; return the name of the status and the text."""
        try:
            getattr(self, method)(*arguments, **options)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"{method} succeeded")


@contextmanager
def connected(socket: Path) -> Iterator[Client]:
    """Connect to the plugin at `socket`."""
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"unix:{quoted(socket)}", options=options) as channel:
        yield Client(channel)


class Keys(FrontendKeys):
    """One key in memory, which fails and waits as a test wants."""

    def __init__(self) -> None:
        self.created_at = dt.datetime(2026, 11, 26, 8, 15, 30, 123456, tzinfo=dt.UTC)
        self.versions_ = [SecretKey(bytes(32), KeyType.AES256)]
        self.fault: Exception | None = None
        self.blocks: asyncio.Event | None = None
        self.calls: list[tuple[str, str, str, str]] = []

    @property
    def key(self) -> SecretKey | SecretKeys:
        return SecretKeys(self.versions_) if len(self.versions_) > 1 else self.versions_[0]

    def rotate(self) -> None:
        self.versions_.append(SecretKey(bytes([len(self.versions_)]) * 32, KeyType.AES256))

    def replace(self) -> None:
        self.created_at += dt.timedelta(days=1)
        self.versions_ = [SecretKey(b"r" * 32, KeyType.AES256)]

    async def _use(self, method: str, identity: str, name: str, request_id: str) -> None:
        self.calls.append((method, identity, name, request_id))
        if self.blocks is not None:
            await self.blocks.wait()
        if self.fault is not None:
            raise self.fault

    async def encrypt(
        self,
        identity: str,
        name: str,
        plaintext: bytes,
        *,
        associated_data: bytes = b"",
        address: str = "",
        request_id: str = "",
    ) -> Encrypted:
        await self._use("encrypt", identity, name, request_id)
        return Encrypted(self.key.encrypt(plaintext, associated_data), len(self.versions_), self.created_at)

    async def decrypt(
        self,
        identity: str,
        name: str,
        ciphertext: bytes,
        *,
        associated_data: bytes = b"",
        address: str = "",
        request_id: str = "",
    ) -> bytes:
        await self._use("decrypt", identity, name, request_id)
        try:
            return self.key.decrypt(ciphertext, associated_data)
        except CiphertextError as error:
            raise NotAuthenticError(str(error)) from None

    async def generate(self, identity: str, name: str, **options: Any) -> GeneratedDataKey:
        raise NotImplementedError

    async def describe(self, identity: str, name: str, **options: Any) -> KeyDescription:
        raise NotImplementedError

    async def versions(self, identity: str, name: str, **options: Any) -> Any:
        raise NotImplementedError


class Running:
    """A front end on an event loop of its own, as the server's."""

    def __init__(self, config: KMSConfig, directory: Path) -> None:
        self.keys = Keys()
        self.socket = directory / config.socket
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._context = FrontendContext(keys=self.keys, directory=directory)
        self._config = config
        self._thread.start()
        self.frontend: KubernetesFrontend = self.run(self._make())

    async def _make(self) -> KubernetesFrontend:
        return KubernetesFrontend(self._config, self._context)

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def encryption_of_the_page(endpoint: str) -> str:
    """Return the API server's configuration from the documentation, with the path of this test."""
    (text,) = [block for block in blocks("docs/kubernetes.md", "yaml") if "EncryptionConfiguration" in block]
    config = yaml.safe_load(text)
    config["resources"][0]["providers"][0]["kms"]["endpoint"] = endpoint
    return yaml.safe_dump(config)

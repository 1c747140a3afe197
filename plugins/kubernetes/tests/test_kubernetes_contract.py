"""The plugin keeps every clause of the contract for front ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import grpc.aio

from kes_core import FrontendContext
from kes_core.testing import FrontendContract
from kes_kubernetes import KMSConfig
from kes_kubernetes import kms_v2_pb2 as pb
from kes_kubernetes.client import quoted
from kes_kubernetes.frontend import KubernetesFrontend


class TestKubernetes(FrontendContract):
    takes_over = True
    key = "cluster-secrets"

    @property
    def socket(self) -> Path:
        return self.tmp_path / "s"

    async def make_frontend(self, context: FrontendContext) -> KubernetesFrontend:
        fields = {"socket": "s", "key": self.key, "identity": self.identity}
        return KubernetesFrontend(KMSConfig.model_validate(fields), context)

    async def call(self, method: str, request: Any) -> bytes:
        # A shared pool remembers that nobody served there before, and the call fails without trying.
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"unix:{quoted(self.socket)}", options=options) as channel:
            answer: bytes = await channel.unary_unary(f"/v2.KeyManagementService/{method}")(request.SerializeToString())
            return answer

    async def encrypt(self, plaintext: bytes) -> bytes:
        """Return what the API server stores: the `key_id` and the ciphertext."""
        answer = pb.EncryptResponse.FromString(await self.call("Encrypt", pb.EncryptRequest(plaintext=plaintext)))
        return answer.key_id.encode() + b"\0" + answer.ciphertext

    async def decrypt(self, ciphertext: bytes) -> bytes:
        key_id, _, sealed = ciphertext.partition(b"\0")
        request = pb.DecryptRequest(key_id=key_id.decode(), ciphertext=sealed)
        return pb.DecryptResponse.FromString(await self.call("Decrypt", request)).plaintext

    async def send_raw(self, data: bytes) -> None:
        def send() -> None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(OSError):
                    while connection.recv(65536):
                        pass

        await asyncio.to_thread(send)

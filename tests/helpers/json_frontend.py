"""A front end for tests: each request is a line of JSON on a unix socket, and so is its answer.

{"do": "encrypt", "name": "my-key", "data": "<base64>", "associated": "<base64>", "id": "17"}
{"data": "<base64>", "version": 1}        or        {"error": "UnknownKeyError", "message": "...", "status": 404}
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kes_core import (
    Finding,
    Frontend,
    FrontendBackend,
    FrontendContext,
    FrontendError,
    KeyUseError,
    PluginContext,
    hookimpl,
)
from kes_core.config import Section

kes_hookspec_version = 1


class Settings(Section):
    """The section `frontends.json`."""

    socket: str
    identity: str
    """The identity that asks, unless a request names another one."""
    busy_file: str = ""
    """While this file exists, the front end is not ready."""


class JSONFrontend(Frontend):
    grace = 3.0

    def __init__(self, settings: Settings, context: FrontendContext) -> None:
        self.settings = settings
        self.context = context
        self.path = context.path(settings.socket)
        self.server: asyncio.Server | None = None
        self.calls: set[asyncio.Task[Any]] = set()
        self.clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        await self.refuse_taken_address()
        try:
            self.server = await asyncio.start_unix_server(self.serve, self.path, limit=2**20)
        except OSError as error:
            problem = os.strerror(error.errno or errno.EIO).lower()
            raise FrontendError(f"the socket {self.path} can't be opened: {problem}") from None

    async def refuse_taken_address(self) -> None:
        """Remove the socket of a process that has ended."""
        try:
            _reader, writer = await asyncio.open_unix_connection(self.path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            self.path.unlink(missing_ok=True)
            return
        except OSError:
            return  # opening it will fail
        writer.close()
        raise FrontendError(f"another process listens on the socket {self.path}")

    async def stop(self) -> None:
        server, self.server = self.server, None
        if server is None:
            return
        server.close()
        self.path.unlink(missing_ok=True)
        if self.calls:
            await asyncio.wait(self.calls, timeout=self.grace)
        for task in self.calls:
            task.cancel()
        for client in self.clients:
            client.close()

    async def ready(self) -> None:
        if self.settings.busy_file and self.context.path(self.settings.busy_file).exists():
            raise FrontendError("it is busy with other things")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        try:
            # A line that is too long, or a connection that breaks.
            with contextlib.suppress(ValueError, ConnectionError):
                async for line in reader:
                    call = asyncio.ensure_future(self.exchange(line, writer))
                    self.calls.add(call)
                    call.add_done_callback(self.calls.discard)
                    # Do not await it: asyncio logs an error for a cancelled task that serves a connection.
                    await asyncio.wait([call])
                    if call.cancelled() or call.exception() is not None:
                        break
        finally:
            self.clients.discard(writer)
            writer.close()

    async def exchange(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
        await writer.drain()

    async def answer(self, line: bytes) -> dict[str, Any]:
        try:
            return await self.do(json.loads(line))
        except KeyUseError as error:
            return {"error": type(error).__name__, "message": str(error), "status": error.status}
        except (ValueError, TypeError, KeyError):
            return {"error": "not a request"}

    async def do(self, asked: Any) -> dict[str, Any]:
        if not isinstance(asked, dict):
            raise TypeError
        keys, name = self.context.keys, asked["name"]
        identity = asked.get("identity", self.settings.identity)
        data = base64.b64decode(asked.get("data", ""))
        common: dict[str, Any] = {"address": asked.get("address", ""), "request_id": asked.get("id", "")}
        sealed = {"associated_data": base64.b64decode(asked.get("associated", "")), **common}
        match asked["do"]:
            case "generate":
                made = await keys.generate(identity, name, **sealed)
                return {"plain": encode(made.plaintext), "data": encode(made.ciphertext), "version": made.version}
            case "encrypt":
                encrypted = await keys.encrypt(identity, name, data, **sealed)
                return {"data": encode(encrypted.ciphertext), "version": encrypted.version}
            case "decrypt":
                return {"data": encode(await keys.decrypt(identity, name, data, **sealed))}
            case "describe":
                found = await keys.describe(identity, name, **common)
                facts = {"state": found.state, "version": found.version, "created_at": found.created_at.isoformat()}
                return {**facts, "process": os.getpid()}
            case "versions":
                return {"versions": [each.version for each in await keys.versions(identity, name, **common)]}
            case "crash":
                self.context.spawn(self.crash(name))
                return {}
            case _:
                raise ValueError

    async def crash(self, text: str) -> None:
        raise RuntimeError(text)


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def connect(settings: Settings, context: FrontendContext) -> Frontend:
    return JSONFrontend(settings, context)


async def diagnose(settings: Settings, context: PluginContext) -> Sequence[Finding]:
    folder = context.path(settings.socket).parent
    if not folder.is_dir():
        return [Finding.error("front end", f"there is no directory {folder}", f"make it: mkdir {folder}")]
    return [Finding.ok("front end", f"the socket can be made in {folder}")]


@hookimpl
def kes_frontends() -> Sequence[FrontendBackend]:
    return [FrontendBackend(name="json", config=Settings, connect=connect, diagnose=diagnose)]


async def ask(path: Path, **request: Any) -> dict[str, Any]:
    """Send one request as a client; return the answer."""
    reader, writer = await asyncio.open_unix_connection(path, limit=2**20)
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise ConnectionError("the front end closed the connection")
    answer: dict[str, Any] = json.loads(line)
    return answer

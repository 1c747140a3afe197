"""Drive the server's HTTP/1.1 protocol in process, with bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState

from kes_core.server.wire.http1 import HTTP1Protocol
from kes_core.server.wire.listener import _hypercorn_config
from kes_core.server.wire.stream import App, Message, RequestRefusedError


class Wire:
    """A connection to an application: what goes in are the client's bytes, what comes out the server's."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.scope_base: Message = {"type": "http", "client": ("192.0.2.1", 1), "extensions": {}}
        self.sent = b""
        self.closed = False
        self.tasks: set[asyncio.Task[None]] = set()
        config = _hypercorn_config()
        context = WorkerContext(None)
        self.protocol = HTTP1Protocol(
            self, config, context, None, ConnectionState({}), True, None, None, self._send_event
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def write(self, data: bytes) -> None:
        self.sent += data

    async def _send_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            self.sent += event.data
        elif isinstance(event, Closed):
            self.closed = True

    async def feed(self, *pieces: bytes) -> None:
        """Let the server receive these pieces, and do what it can with them."""
        for piece in pieces:
            if not self.closed:
                await self.protocol.handle(RawData(piece))
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing more happens by itself."""
        while any(not task.done() for task in self.tasks):
            done, _ = await asyncio.wait(self.tasks, timeout=0.05)
            if not done:
                return


class Recorder:
    """An application that reads each body and answers with it, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            try:
                message = await receive()
            except RequestRefusedError as error:
                head = {"type": "http.response.start", "status": error.status, "headers": [(b"content-length", b"0")]}
                await send(head)
                await send({"type": "http.response.body"})
                return
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.requests.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def exchange(*pieces: bytes) -> tuple[bytes, Sequence[tuple[str, str, bytes]]]:
    """Return what the server answers to `pieces` on one connection, and the requests that reached the application."""

    async def run() -> tuple[bytes, Sequence[tuple[str, str, bytes]]]:
        app = Recorder()
        wire = Wire(app)
        await wire.feed(*pieces)
        return wire.sent, app.requests

    return asyncio.run(run())

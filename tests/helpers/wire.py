"""Run the server's HTTP protocols in this process, with bytes instead of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState

from kes_core.server.wire.app import Answer
from kes_core.server.wire.http1 import HTTP1Protocol
from kes_core.server.wire.http2 import HTTP2Protocol
from kes_core.server.wire.hypercorn_config import hypercorn_config
from kes_core.server.wire.listener import MAX_STREAMS
from kes_core.server.wire.stream import App, Message, RequestRefusedError
from tests.helpers.patience import one_ends
from tests.helpers.server import is_native


class Wire:
    """A connection to an application, which turns the client's bytes into the server's."""

    def __init__(self, app: App, *, http2: bool = False) -> None:
        self.app = app
        self.scope_base: Message = {"type": "http", "client": ("192.0.2.1", 1), "extensions": {}}
        self.sent = b""
        self.closed = False
        self.tasks: set[asyncio.Task[None]] = set()
        protocol = HTTP2Protocol if http2 else HTTP1Protocol
        settings = (hypercorn_config(MAX_STREAMS), WorkerContext(None), self, ConnectionState({}), True, None, None)
        self.protocol = protocol(self, *settings, self._send_event)

    def spawn(self, work: Any, *arguments: Any) -> asyncio.Task[None]:
        """Run a coroutine, or a coroutine function with arguments (as Hypercorn's task group does)."""
        coroutine: Coroutine[Any, Any, None] = work(*arguments) if callable(work) else work
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def write(self, data: bytes) -> None:
        self.sent += data

    def write_soon(self, data: bytes) -> None:
        self.sent += data

    async def _send_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            self.sent += event.data
        elif isinstance(event, Closed):
            self.closed = True

    async def feed(self, *pieces: bytes) -> None:
        """Let the server receive these pieces and process them as far as it can."""
        for piece in pieces:
            rest = self.protocol.serve_at_once(piece)
            if rest and not self.closed:
                await self.protocol.handle(RawData(rest))
        await self.settle()

    async def end(self) -> None:
        """Let the client send no more data."""
        assert isinstance(self.protocol, HTTP1Protocol)
        await self.protocol.end_input()

    async def close(self) -> None:
        """Let the connection be closed."""
        await self.protocol.handle(Closed())

    async def settle(self) -> None:
        """Wait until the server has nothing left to do."""
        while self.tasks and await one_ends(self.tasks.copy(), patience=0.05):
            pass


if is_native():  # the same tests, on the other runtime
    from tests.helpers.native_wire import NativeWire

    Wire = NativeWire  # type: ignore[assignment, misc]


class Recorder:
    """An application that answers with the body of the request, and records the requests."""

    frequent: Sequence[str] = ()

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []

    def may_begin(self, scope: Message) -> bool:
        return False

    def begin(self, scope: Message, body: bytes) -> Answer | Awaitable[Answer]:
        raise NotImplementedError

    def settle(self) -> int:
        return 0

    def direct(self, client: object, method: str, raw_path: bytes, body: bytes) -> None:
        return None

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
    """Send `pieces` on one connection; return the server's bytes and the requests that reached the application."""

    async def run() -> tuple[bytes, Sequence[tuple[str, str, bytes]]]:
        app = Recorder()
        wire = Wire(app)
        await wire.feed(*pieces)
        return wire.sent, app.requests

    return asyncio.run(run())


class HTTP2Peer:
    """A client of the server's HTTP/2 protocol."""

    def __init__(self, app: App, runner: asyncio.Runner) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self._runner = runner
        self._wire = runner.run(self._start(app))

    @staticmethod
    async def _start(app: App) -> Wire:
        wire = Wire(app, http2=True)
        await wire.protocol.initiate()
        return wire

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self._wire.closed

    def request(self, method: str, path: str, *, end: bool = True, extra: Sequence[tuple[str, str]] = ()) -> int:
        """Begin a request; return its stream ID."""
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        self.h2.send_headers(stream, [*head, *extra], end_stream=end)
        return stream

    def allow_malformed_headers(self) -> None:
        """Send headers unchanged, even if they violate the standard."""
        self.h2.config.validate_outbound_headers = False
        self.h2.config.normalize_outbound_headers = False

    def exchange(self) -> list[h2.events.Event]:
        """Send the pending bytes, and return the events of the server's answer."""
        self._runner.run(self._wire.feed(self.h2.data_to_send()))
        answer, self._wire.sent = self._wire.sent, b""
        return self.h2.receive_data(answer)

    def close(self) -> None:
        """Close the connection, which ends the server's tasks."""
        self._runner.run(self._end())

    async def _end(self) -> None:
        await self._wire.close()
        await self._wire.settle()


@contextmanager
def http2_peer(app: App) -> Iterator[HTTP2Peer]:
    """Connect a client to an application over HTTP/2."""
    with asyncio.Runner() as runner:
        peer = HTTP2Peer(app, runner)
        peer.exchange()
        yield peer
        peer.close()


def statuses(events: Sequence[h2.events.Event]) -> dict[int, int]:
    """Return the status of each response among the events, by stream ID."""
    responses = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    return {response.stream_id: int(dict(response.headers)[b":status"]) for response in responses}

"""The server's application and HTTP protocols in this process, without sockets, for very many hostile inputs.

The application is real and has the in-memory key store. A test sees what a client would: bytes and statuses.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, Event, RawData
from hypercorn.typing import ConnectionState

from kes_core.access.routing import decode_path
from kes_core.access.sender import ProvenClient
from kes_core.audit.log import AuditLog
from kes_core.config import load
from kes_core.counters import StoreCounters
from kes_core.plugins import load_plugins
from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.state import connect
from kes_core.server.wire.http1 import HTTP1Protocol
from kes_core.server.wire.http2 import HTTP2Protocol
from kes_core.server.wire.hypercorn_config import hypercorn_config
from kes_core.server.wire.listener import MAX_STREAMS
from kes_core.server.wire.stream import App, Message
from kes_core.server.workers.peers import LocalPeers
from tests.helpers.certificates import make_credentials
from tests.helpers.patience import one_ends
from tests.helpers.server import is_native, write_config
from tests.helpers.wrapping import entry

__all__ = ["TIME_LIMIT", "Answer", "ask", "talk"]

TIME_LIMIT = 30.0
"""The most seconds that one input may take, even on a busy machine."""

_PATIENCE = 0.2
"""Seconds to wait for the server to read all input; then the test goes on, as the server may have stopped reading."""


class Answer(NamedTuple):
    """An answer of the application."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Sink:
    """Keeps audit records."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def audit(self, event: Any) -> None:
        self.records.append(event)


class _Server(NamedTuple):
    app: KESApp
    client: ProvenClient
    sink: Sink
    tls: ssl.SSLContext
    """The TLS settings of the admin."""


@functools.cache
def _server() -> _Server:
    """Return an application with the key `my-key`, and its admin."""
    with tempfile.TemporaryDirectory() as directory:
        admin = make_credentials(Path(directory), "admin")
        path = write_config(Path(directory), admin.identity, {"keys": [{"name": "my-key"}]})
        plugins = load_plugins()
        config = load(path, plugins=plugins).config
        metrics = Metrics()
        peers = LocalPeers(metrics)
        sink = Sink()
        audit = AuditLog([cast("Any", sink)])
        opening = connect(config, plugins, counters=StoreCounters(), on_key_change=peers.forget, audit=audit)
        state = asyncio.run(opening)
        asyncio.run(state.cache.store.create(*entry()))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        tls.load_cert_chain(admin.cert, admin.key)
    app = KESApp(state, metrics, peers, ExpiryWatch(metrics))
    return _Server(app, ProvenClient(admin.identity, "", None, verified=False, presented=True), sink, tls)


def _scope_base() -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "https",
        "root_path": "",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 7373),
        "extensions": {"kes.client": _server().client},
    }


def ask(method: str, raw_path: bytes, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Let the application answer one request of the admin, and end the connection after it.

    Check that the request makes exactly one audit record.
    """
    server = _server()
    raw_path, _, query = raw_path.partition(b"?")
    scope = {
        **_scope_base(),
        "http_version": "1.1",
        "method": method,
        "path": decode_path(raw_path),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(headers),
    }
    coming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    server.sink.records.clear()
    _run(server.app(scope, receive, send))
    assert len(server.sink.records) == 1, server.sink.records
    start = sent[0]
    answered = b"".join(message.get("body", b"") for message in sent[1:])
    assert server.sink.records[0]["response"]["code"] == start["status"]
    return Answer(start["status"], dict(start["headers"]), answered)


def talk(pieces: Sequence[bytes], *, http2: bool) -> bytes:
    """Send `pieces` to the server's side of a connection and close it; return the server's bytes.

    No input may make the protocol or a request raise an error.
    """
    _server()  # must be created outside an event loop
    talking = _talk_natively if is_native() else _talk
    said: bytes = _run(talking(pieces, http2=http2))
    return said


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(TIME_LIMIT):
            return await work

    return asyncio.run(limited())


class _Connection:
    """The protocols' view of a connection."""

    def __init__(self) -> None:
        self.app = cast("App", _server().app)
        self.scope_base = _scope_base()
        self.tasks: list[asyncio.Task[None]] = []
        self.said = b""
        self.is_closed = False

    def spawn(self, work: Any, *arguments: Any) -> asyncio.Task[None]:
        """Run a coroutine, or a coroutine function with arguments (as Hypercorn's task group does)."""
        task: asyncio.Task[None] = asyncio.ensure_future(work(*arguments) if arguments or callable(work) else work)
        self.tasks.append(task)
        return task

    def write(self, data: bytes) -> None:
        self.said += data

    def write_soon(self, data: bytes) -> None:
        self.write(data)

    async def send(self, event: Event) -> None:
        if isinstance(event, RawData):
            self.write(event.data)
        elif isinstance(event, Closed):
            self.is_closed = True


async def _talk(pieces: Sequence[bytes], *, http2: bool) -> bytes:
    connection = _Connection()
    kind = HTTP2Protocol if http2 else HTTP1Protocol
    protocol = kind(
        connection,
        hypercorn_config(MAX_STREAMS),
        WorkerContext(None),
        connection,
        ConnectionState({}),
        True,  # over TLS
        ("127.0.0.1", 50000),
        ("127.0.0.1", 7373),
        connection.send,
    )
    reading = asyncio.ensure_future(_feed(protocol, pieces, connection))
    # HTTP/1.1 stops reading while it answers, and the answer of a log stream never ends.
    await one_ends([reading], _PATIENCE)
    await protocol.handle(Closed())
    if not reading.done():
        reading.cancel()
    for task in (reading, *connection.tasks):
        try:
            await asyncio.wait_for(task, TIME_LIMIT / 2)
        except asyncio.CancelledError:
            assert task is reading
    return connection.said


async def _feed(protocol: HTTP1Protocol | HTTP2Protocol, pieces: Sequence[bytes], connection: _Connection) -> None:
    await protocol.initiate()
    for piece in pieces:
        if connection.is_closed:
            return
        rest = protocol.serve_at_once(piece)
        if rest:
            await protocol.handle(RawData(rest))
        await asyncio.sleep(0)


class _Faults(logging.Handler):
    """Keeps the errors that the native runtime logs: it catches them all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


async def _talk_natively(pieces: Sequence[bytes], *, http2: bool) -> bytes:
    from tests.helpers.native_wire import Conversation

    faults, log = _Faults(), logging.getLogger("kes.server")
    log.addHandler(faults)
    try:
        conversation = Conversation(cast("App", _server().app), http2=http2, context=_server().tls)
        for piece in pieces:
            conversation.send(piece)
            await asyncio.sleep(0)
        await conversation.settle(_PATIENCE)  # the answer of a log stream never ends
        conversation.abort()
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*conversation.runtime._tasks), TIME_LIMIT / 2)
    finally:
        log.removeHandler(faults)
    assert faults.records == []
    return bytes(conversation.said)

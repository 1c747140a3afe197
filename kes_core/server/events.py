"""Streams of log events to clients: `/v1/log/error` and `/v1/log/audit`.

Publishing never waits. A reader that does not keep up is disconnected: it would not see a gap in its stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kes_core.audit.event import line_of

if TYPE_CHECKING:
    from starlette.types import Receive, Send

__all__ = ["ErrorLogHandler", "Hub", "send_stream"]

MAX_BACKLOG: Final = 1024 * 1024
"""The limit of bytes that wait for one reader."""
MAX_READERS: Final = 100
"""The limit of readers of one log."""


class _LogReader:
    """A client that reads a log, with the events that wait for it."""

    __slots__ = ("ended", "size", "waiting", "woken")

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.size = 0
        self.ended = False
        self.woken = asyncio.Event()

    def put(self, data: bytes) -> None:
        self.waiting.append(data)
        self.size += len(data)
        self.woken.set()

    def end(self) -> None:
        self.ended = True
        self.woken.set()

    async def take(self) -> bytes:
        """Wait for events and return all of them; empty at the end of the stream."""
        if not self.waiting and not self.ended:
            await self.woken.wait()
        self.woken.clear()
        data = b"".join(self.waiting)
        self.waiting.clear()
        self.size = 0
        return data


class Hub:
    """Sends the events of a log to its readers. Belongs to one event loop."""

    def __init__(self, on_event: Callable[[int], None]) -> None:
        """Create a hub without readers.

        Args:
            on_event: Called for each event, with the number of readers that get it.
        """
        self._on_event = on_event
        self._readers: set[_LogReader] = set()
        self.elsewhere: Callable[[str], None] | None = None
        """Sends events to the readers in other processes of the server, or None if they have no readers."""
        self.on_readers: Callable[[bool], None] = lambda _there_are: None
        """Called with True when this process gets its first reader, and with False when it loses the last one."""

    @property
    def has_readers(self) -> bool:
        """Whether there are readers, in any process."""
        return bool(self._readers) or self.elsewhere is not None

    @property
    def is_full(self) -> bool:
        """Whether this process has the highest allowed number of readers."""
        return len(self._readers) >= MAX_READERS

    def publish(self, event: Mapping[str, Any]) -> None:
        """Send an event to all readers."""
        if self.has_readers:
            self.publish_line(line_of(event))

    def publish_line(self, line: str) -> None:
        """Send an event, as a line of JSON, to all readers."""
        self.deliver(line)
        if self.elsewhere is not None:
            self.elsewhere(line)

    def deliver(self, line: str) -> None:
        """Send an event to the readers of this process."""
        if not self._readers:
            return
        data = line.encode("ascii") + b"\n"
        self._on_event(len(self._readers))
        for reader in list(self._readers):
            # A reader without a backlog gets every event, also one longer than the limit.
            if reader.size and reader.size + len(data) > MAX_BACKLOG:
                self._end(reader)
            else:
                reader.put(data)

    def close(self) -> None:
        """End the streams of all readers in this process."""
        for reader in list(self._readers):
            self._end(reader)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield events from now on, as lines of JSON. A chunk can contain several events."""
        reader = _LogReader()
        self._readers.add(reader)
        if len(self._readers) == 1:
            self.on_readers(True)
        try:
            while data := await reader.take():
                yield data
        finally:
            self._discard(reader)

    def _end(self, reader: _LogReader) -> None:
        self._discard(reader)
        reader.end()

    def _discard(self, reader: _LogReader) -> None:
        if reader in self._readers:
            self._readers.discard(reader)
            if not self._readers:
                self.on_readers(False)


class ErrorLogHandler(logging.Handler):
    """Publishes log records, from any thread."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._hub = hub
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        if self._hub.has_readers and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hub.publish, {"message": self.format(record)})


async def send_stream(parts: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Send the parts of an answer as they arrive, until the answer ends or the client disconnects."""

    async def send_parts() -> None:
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def wait_until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    sending, gone = asyncio.ensure_future(send_parts()), asyncio.ensure_future(wait_until_gone())
    try:
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        gone.cancel()
        await asyncio.gather(sending, gone, return_exceptions=True)

"""Streams of log events to clients: `/v1/log/error` and `/v1/log/audit`.

Publishing never waits. A reader that does not keep up is cut off rather than served with gaps it can't see.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.types import Receive, Send

__all__ = ["ErrorLogHandler", "Hub", "send_stream"]

MAX_BACKLOG: Final = 1024 * 1024
"""Bytes that may wait for one reader."""
MAX_READERS: Final = 100
"""Readers of one log at a time."""


class _LogReader:
    """One who reads, and what waits for him."""

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
        """Return all that waits, waiting for the first; empty at the end."""
        if not self.waiting and not self.ended:
            await self.woken.wait()
        self.woken.clear()
        data = b"".join(self.waiting)
        self.waiting.clear()
        self.size = 0
        return data


class Hub:
    """Hands events to all who read them at the moment. Belongs to one event loop."""

    def __init__(self, on_event: Callable[[int], None]) -> None:
        """Make a hub without readers.

        Args:
            on_event: Called with the number of readers that an event was handed to.
        """
        self._on_event = on_event
        self._readers: set[_LogReader] = set()
        self.elsewhere: Callable[[str], None] | None = None
        """Takes events to readers in other processes of the server, while there are some."""
        self.on_readers: Callable[[bool], None] = lambda _there_are: None
        """Called when the first reader of this process comes, and when the last one goes."""

    @property
    def has_readers(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers) or self.elsewhere is not None

    @property
    def is_full(self) -> bool:
        """Whether no more readers are taken."""
        return len(self._readers) >= MAX_READERS

    def publish(self, event: Mapping[str, Any]) -> None:
        """Hand an event to every reader."""
        if not self.has_readers:
            return
        line = json.dumps(event, separators=(",", ":"))
        self.deliver(line)
        if self.elsewhere is not None:
            self.elsewhere(line)

    def deliver(self, line: str) -> None:
        """Hand an event to the readers of this process."""
        if not self._readers:
            return
        data = line.encode("ascii") + b"\n"
        self._on_event(len(self._readers))
        for reader in list(self._readers):
            # One that has kept up gets the event however long it is.
            if reader.size and reader.size + len(data) > MAX_BACKLOG:
                self._end(reader)
            else:
                reader.put(data)

    def close(self) -> None:
        """End all streams of this process."""
        for reader in list(self._readers):
            self._end(reader)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield events from now on, as lines of JSON, several at once if several are there."""
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
    """Publishes what is logged, from whichever thread."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._hub = hub
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        if self._hub.has_readers and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hub.publish, {"message": self.format(record)})


async def send_stream(parts: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Send an answer part by part as it comes, until it ends or the client is gone."""

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

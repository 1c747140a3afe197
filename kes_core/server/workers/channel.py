"""Messages between the processes of one server: lines of JSON over a pair of connected sockets.

`tell` sends a message without an answer and never waits; `ask` waits for the answer. The other side has a function for
each message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from kes_core.faults import log_fault

__all__ = ["Channel", "ChannelClosedError", "PeerError"]

logger = logging.getLogger("kes.server")

_MAX_LINE: Final = 256 * 1024 * 1024
"""The longest message, in bytes. The largest is a configuration, whose characters may each take seven here."""
MAX_UNSENT: Final = 4 * 1024 * 1024
"""The limit of unread bytes. Beyond it, `tell` drops messages that are not urgent."""


class ChannelClosedError(Exception):
    """The other process is gone."""


class PeerError(Exception):
    """The other process could not carry out a request. The message says why."""


class Channel:
    """One end of a connection between two processes."""

    def __init__(
        self,
        *,
        asked: Mapping[str, Callable[..., Awaitable[Any]]],
        handlers: Mapping[str, Callable[..., None]],
    ) -> None:
        """Set up an end with the functions that the other end can call with `ask`, and with `tell`."""
        self._asked = asked
        self._handlers = handlers
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, sock: socket.socket) -> None:
        """Use `sock`. Only `run` starts to receive."""
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=_MAX_LINE)

    async def run(self) -> None:
        """Receive until the other side is gone."""
        try:
            async for line in self._reader:
                self._take(json.loads(line))
        except ConnectionError:
            pass
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ChannelClosedError("the other process is gone"))
            self._waiting.clear()
            self.close()

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def tell(self, what: str, *, urgent: bool = True, **arguments: Any) -> bool:
        """Send a message; return whether it was sent.

        It is dropped if the other side is gone, or if it is not urgent and the other side reads too slowly.
        """
        writer = self._writer
        if writer is None or (not urgent and writer.transport.get_write_buffer_size() > MAX_UNSENT):
            return False
        self._send({"tell": what, "with": arguments})
        return True

    async def ask(self, what: str, **arguments: Any) -> Any:
        """Send a message and return the answer.

        Raises:
            ChannelClosedError: The other process is gone.
            PeerError: It could not carry out the request.
        """
        if self._writer is None:
            raise ChannelClosedError("the other process is gone")
        self._last += 1
        number = self._last
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"ask": what, "number": number, "with": arguments})
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")

    def _take(self, message: Mapping[str, Any]) -> None:
        if "tell" in message:
            self._handlers[message["tell"]](**message["with"])
        elif "ask" in message:
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            answer = self._waiting.get(message["number"])
            if answer is None or answer.done():
                return  # the caller of `ask` has given up
            if "failed" in message:
                answer.set_exception(PeerError(message["failed"]))
            else:
                answer.set_result(message["answer"])

    async def _answer(self, message: Mapping[str, Any]) -> None:
        number = message["number"]
        try:
            answer = await self._asked[message["ask"]](**message["with"])
        except PeerError as error:
            self._send({"number": number, "failed": str(error)})
        except Exception as error:
            log_fault(logger, "internal error", error=error)
            self._send({"number": number, "failed": f"internal error: {type(error).__name__}"})
        else:
            self._send({"number": number, "answer": answer})

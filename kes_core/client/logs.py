"""Logs that a server sends for as long as a client reads them.

A log has a connection of its own, over HTTP/1.1: closing it ends the log at once, at both ends, and nothing else.
Waiting for the next event has no time limit; TCP's keep-alive probes notice when the server's machine is gone.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import httpx

from kes_core.client.errors import KESError, StreamEndedError, raise_for_status
from kes_core.client.requests import Log
from kes_core.client.transport import MAX_ANSWER, Settings, connection_errors, failed, parsed, too_large

__all__ = ["AsyncLogStream", "LogStream"]

E = TypeVar("E")

MAX_LINE: Final = 1024 * 1024
"""The longest line of a log, in bytes. A server's own limits keep lines far below it."""
_HEADERS: Final = {"accept": "application/x-ndjson", "accept-encoding": "identity"}
_WHY: Final = "the server is stopping, or this client did not keep up with the events"
_PROBES: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""After 30 seconds without an event, TCP probes the other side every 10 seconds, and gives up after three probes."""


def _socket_options() -> list[tuple[int, int, int]]:
    probes = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *probes]


def _wait_for_ever(response: httpx.Response) -> None:
    """Remove the time limit. The client's timeout applies only up to the headers."""
    response.request.extensions["timeout"]["read"] = None


class _Lines:
    """Cuts the received bytes into lines."""

    def __init__(self) -> None:
        self._whole: deque[bytes] = deque()
        self._rest = b""

    def add(self, data: bytes | None, endpoint: str) -> None:
        """Add received bytes; `None` marks the end of the log.

        Raises:
            StreamEndedError: The log ended.
            KESError: A line is too long.
        """
        if data is None:
            raise StreamEndedError(f"{endpoint}: the server ended the log: {_WHY}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise KESError(f"a line of the log is longer than {MAX_LINE} bytes")
        self._whole.extend(line for line in lines if line.strip())

    def next(self) -> bytes | None:
        return self._whole.popleft() if self._whole else None


def _tries(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Yield each endpoint once, first the one that answered last. The flag marks the last attempt."""
    count = len(settings.endpoints)
    for number, endpoint in enumerate(itertools.islice(settings.in_turn(), count), 1):
        yield number == count, endpoint


def _request(http: httpx.Client | httpx.AsyncClient, url: str) -> httpx.Request:
    return http.build_request("GET", url, headers=_HEADERS)


class LogStream(Generic[E]):
    """The events of a log from now on. Iterate over it inside a `with` block, or call `close`.

    The log starts when the block is entered, or with the first event that is read. It has no end of its own: reading
    raises `StreamEndedError` when the server ends it, and `KESConnectionError` when the connection breaks. The client
    does not open it again, because events would be missing. Another thread may call `close`; the iteration then ends.
    """

    def __init__(self, settings: Settings, log: Log[E], transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._log = log
        own = transport or httpx.HTTPTransport(verify=settings.ssl, trust_env=False, socket_options=_socket_options())
        self._http = httpx.Client(transport=own, timeout=settings.timeout, trust_env=False)
        self._endpoint = ""
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._lines = _Lines()
        self._closed = False
        # A reading thread holds this lock. While it reads, its connection must only be shut down, not closed.
        self._reading = threading.RLock()

    def __enter__(self) -> Self:
        with self._reading:
            self._open()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the log at once."""
        self._closed = True
        if self._response is not None:
            stream = self._response.extensions.get("network_stream")  # a transport from the caller may have none
            connection = stream.get_extra_info("socket") if stream is not None else None
            try:
                if connection is not None:
                    # Shut down the plain socket: the TLS object's own method would break a reading thread's session.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:  # it is closed already, perhaps by the other side
                pass
        with self._reading:
            self._http.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        line = self._next_line()
        if line is None:
            raise StopIteration
        try:
            return parsed(self._log.parse, httpx.codes.OK, line)
        except KESError:
            self.close()
            raise

    def lines(self) -> Iterator[bytes]:
        """Yield the events as the server sends them: one line of JSON each, without its line end."""
        while (line := self._next_line()) is not None:
            yield line

    def _next_line(self) -> bytes | None:
        with self._reading:
            self._open()
            while not self._closed:
                line = self._lines.next()
                if line is not None:
                    return line
                self._read()
            return None

    def _read(self) -> None:
        try:
            with connection_errors(self._endpoint):
                chunk = next(self._chunks, None)
            self._lines.add(chunk, self._endpoint)
        except (httpx.TransportError, httpx.StreamError, KESError) as error:
            if self._closed:  # another thread closed it, which broke the connection
                return
            self.close()
            if isinstance(error, httpx.TransportError):
                raise failed(error) from error
            raise

    def _open(self) -> None:
        if self._response is not None or self._closed:
            return
        try:
            self._response = response = self._connect()
            self._chunks = response.iter_raw()
            if not response.is_success:
                raise_for_status(response.status_code, self._refusal())
            _wait_for_ever(response)
        except BaseException as error:
            self.close()
            if isinstance(error, httpx.TransportError):
                raise failed(error) from error
            raise

    def _refusal(self) -> bytes:
        body = b""
        for chunk in self._chunks:
            body += chunk
            if len(body) > MAX_ANSWER:
                raise too_large(self._endpoint)
        return body

    def _connect(self) -> httpx.Response:
        """Ask each endpoint once; return the first answer."""
        for last, endpoint in _tries(self._settings):
            self._endpoint = endpoint
            try:
                with connection_errors(endpoint):
                    response = self._http.send(_request(self._http, endpoint + self._log.path), stream=True)
            except httpx.TransportError:
                if last:
                    raise
            else:
                self._settings.answered(endpoint)
                return response
        raise KESError("no endpoint is given")


class AsyncLogStream(Generic[E]):
    """The events of a log from now on, like `LogStream`. Iterate inside an `async with` block, or call `aclose`.

    Reading may be cancelled at any time. Another task may call `aclose`; the iteration then ends.
    """

    def __init__(self, settings: Settings, log: Log[E], transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._log = log
        own = transport or httpx.AsyncHTTPTransport(
            verify=settings.ssl, trust_env=False, socket_options=_socket_options()
        )
        self._http = httpx.AsyncClient(transport=own, timeout=settings.timeout, trust_env=False)
        self._endpoint = ""
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._lines = _Lines()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the log at once."""
        self._closed = True
        await self._http.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        line = await self._next_line()
        if line is None:
            raise StopAsyncIteration
        try:
            return parsed(self._log.parse, httpx.codes.OK, line)
        except KESError:
            await self.aclose()
            raise

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the events as the server sends them: one line of JSON each, without its line end."""
        while (line := await self._next_line()) is not None:
            yield line

    async def _next_line(self) -> bytes | None:
        await self._open()
        while not self._closed:
            line = self._lines.next()
            if line is not None:
                return line
            await self._read()
        return None

    async def _read(self) -> None:
        try:
            with connection_errors(self._endpoint):
                chunk = await anext(self._chunks, None) if self._chunks is not None else None
            self._lines.add(chunk, self._endpoint)
        except BaseException as error:  # a cancelled reader loses the data it was about to get
            expected = isinstance(error, httpx.TransportError | httpx.StreamError | KESError)
            if self._closed and expected:  # another task closed it, which broke the connection
                return
            await self.aclose()
            if isinstance(error, httpx.TransportError):
                raise failed(error) from error
            raise

    async def _open(self) -> None:
        if self._response is not None or self._closed:
            return
        try:
            self._response = response = await self._connect()
            self._chunks = response.aiter_raw()
            if not response.is_success:
                raise_for_status(response.status_code, await self._refusal(self._chunks))
            _wait_for_ever(response)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, httpx.TransportError):
                raise failed(error) from error
            raise

    async def _refusal(self, chunks: AsyncIterator[bytes]) -> bytes:
        body = b""
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_ANSWER:
                raise too_large(self._endpoint)
        return body

    async def _connect(self) -> httpx.Response:
        for last, endpoint in _tries(self._settings):
            self._endpoint = endpoint
            try:
                with connection_errors(endpoint):
                    response = await self._http.send(_request(self._http, endpoint + self._log.path), stream=True)
            except httpx.TransportError:
                if last:
                    raise
            else:
                self._settings.answered(endpoint)
                return response
        raise KESError("no endpoint is given")

"""Logs that a server sends for as long as a client reads. Private: the classes are imported from `kes_core.client`.

A log has a connection of its own, over HTTP/1.1: closing it ends the log at once, at both ends, and nothing else. It
waits for the next event as long as it takes; that the server's machine is gone is noticed by TCP's probes.
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

from kes_core._api import Log
from kes_core._errors import KESError, StreamEndedError, raise_for_status
from kes_core._transport import MAX_ANSWER, Settings, connection_errors, failed, parsed, too_large

__all__ = ["AsyncLogStream", "LogStream"]

E = TypeVar("E")

MAX_LINE: Final = 1024 * 1024
"""The longest line of a log, in bytes. A server's own limits keep lines far below it."""
_HEADERS: Final = {"accept": "application/x-ndjson", "accept-encoding": "identity"}
_WHY: Final = "it is stopping, or this client did not keep up with the events"
_PROBES: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""After 30 seconds without an event TCP asks whether the other side is there, and gives up after three more of 10."""


def _socket_options() -> list[tuple[int, int, int]]:
    probes = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *probes]


def _wait_for_ever(response: httpx.Response) -> None:
    """Let a log take its time from here on. Up to its headers the client's timeout has counted."""
    response.request.extensions["timeout"]["read"] = None


class _Lines:
    """Cuts what arrives into lines."""

    def __init__(self) -> None:
        self._whole: deque[bytes] = deque()
        self._rest = b""

    def add(self, data: bytes | None, endpoint: str) -> None:
        """Take what has arrived, or note that no more will.

        Raises:
            StreamEndedError: No more will.
            KESError: A line is too long.
        """
        if data is None:
            raise StreamEndedError(f"{endpoint}: the server has ended the log: {_WHY}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise KESError(f"a line of the log is longer than {MAX_LINE} bytes")
        self._whole.extend(line for line in lines if line.strip())

    def next(self) -> bytes | None:
        return self._whole.popleft() if self._whole else None


def _tries(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Yield each endpoint once, from the one that answered last, with whether it is the last to be tried."""
    count = len(settings.endpoints)
    for number, endpoint in enumerate(itertools.islice(settings.in_turn(), count), 1):
        yield number == count, endpoint


def _request(http: httpx.Client | httpx.AsyncClient, url: str) -> httpx.Request:
    return http.build_request("GET", url, headers=_HEADERS)


class LogStream(Generic[E]):
    """The events of a log from now on: iterate over it, and use it as a context manager, or `close` it.

    The log starts when the block is entered, or with the first event that is asked for. It has no end: when the server
    ends it, `StreamEndedError` is raised, and when the connection breaks, `KESConnectionError`. It is not opened again,
    because events would be missing. `close` may be called from another thread; the iteration then ends.
    """

    def __init__(self, settings: Settings, log: Log[E]) -> None:
        self._settings = settings
        self._log = log
        transport = httpx.HTTPTransport(verify=settings.ssl, trust_env=False, socket_options=_socket_options())
        self._http = httpx.Client(transport=transport, timeout=settings.timeout, trust_env=False)
        self._endpoint = ""
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._lines = _Lines()
        self._closed = False
        # Held by whoever reads: under a reading thread a connection must only be shut down, and not be closed.
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
            connection = self._response.extensions["network_stream"].get_extra_info("socket")
            try:
                # The method of the plain socket: that of TLS would take the session away from a reading thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:  # it is closed, or the other side was faster
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
        """Yield the events as the server sends them: a line of JSON each, without its end."""
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
            if self._closed:  # by another thread, which is what broke it
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
        """Return the answer of the first endpoint that gives one. Each is asked once."""
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
    """The events of a log from now on, as `LogStream`: iterate over it in `async with`, or `aclose` it.

    It may be cancelled at any time. `aclose` may be called from another task; the iteration then ends.
    """

    def __init__(self, settings: Settings, log: Log[E]) -> None:
        self._settings = settings
        self._log = log
        transport = httpx.AsyncHTTPTransport(verify=settings.ssl, trust_env=False, socket_options=_socket_options())
        self._http = httpx.AsyncClient(transport=transport, timeout=settings.timeout, trust_env=False)
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
        """Yield the events as the server sends them: a line of JSON each, without its end."""
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
        except BaseException as error:  # a cancelled reader has lost what it was about to get
            expected = isinstance(error, httpx.TransportError | httpx.StreamError | KESError)
            if self._closed and expected:  # by another task, which is what broke it
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

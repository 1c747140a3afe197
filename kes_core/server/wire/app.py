"""What a runtime serves: an application, by ASGI or at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from kes_core.access.sender import ProvenClient

__all__ = ["Answer", "App", "Begun", "Headers", "Message"]

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: Headers
    body: bytes


class App(Protocol):
    """The application."""

    @property
    def frequent(self) -> Sequence[str]:
        """The beginnings of the paths for which `may_begin` can be true."""

    def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        /,
    ) -> Awaitable[None]:
        """Serve a request (ASGI)."""

    def may_begin(self, scope: Message, /) -> bool:
        """Return whether `begin` can serve this request, once its whole body has arrived."""

    def begin(self, scope: Message, body: bytes, /) -> Answer | Awaitable[Answer]:
        """Serve a request for which `may_begin` is true, without a task.

        Args:
            scope: As in ASGI.
            body: The whole body.

        Returns:
            The answer; or, if the request has to wait, what to await for it.
        """

    def direct(
        self, client: ProvenClient, method: str, raw_path: bytes, body: bytes, /
    ) -> bytes | Answer | Awaitable[Answer] | None:
        """Serve a request whose whole body has arrived, if one like it has passed all checks on this connection.

        It is counted and recorded as every request. The caller calls `settle` before it sends an answer that is there
        at once.

        Args:
            client: The client of the connection.
            method: The method.
            raw_path: The path as the client sent it, without a query.
            body: The whole body.

        Returns:
            The body of an answer with status 200, in JSON; any other answer; what to await for the answer, if the
            request has to wait; or None: nothing was done, and the request has to go another way.
        """

    def settle(self) -> int:
        """Write what must be written before the answers of `direct` are sent: their audit records, all at once.

        Those of other requests are written before the next turn of the event loop ends, or by this call.

        Returns:
            How many records were written together.
        """


class Begun:
    """The ASGI application for a request that is served already."""

    def __init__(self, answer: Awaitable[Answer]) -> None:
        self._answer = answer

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        status, headers, body = await self._answer
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

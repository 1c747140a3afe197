"""A request for its handler, and functions to read its body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request

from kes_core.access.errors import RequestError
from kes_core.encoding import decode_base64, decode_json
from kes_core.protocol import INVALID_BODY

if TYPE_CHECKING:
    from kes_core.access.sender import Sender
    from kes_core.protocol import Route
    from kes_core.server.state import State
    from kes_core.server.wire.stream import Message

__all__ = ["Call", "WholeCall", "binary_member", "json_body"]


class Call(Request):
    """A request with its route, its argument, its sender and the state of the server."""

    whole_body = b""
    """What `limited_body` returns, if that is known without waiting and is not empty."""

    def __init__(
        self, scope: Message, receive: Any, *, state: State, route: Route, argument: str, sender: Sender
    ) -> None:
        super().__init__(scope, receive)
        self.server_state = state
        self.kes_route = route
        self.argument = argument
        """What follows the route's path: a name or a listing pattern, valid once a handler sees it."""
        self.sender = sender
        """The sender of the request."""
        self.is_authorized = False

    async def limited_body(self) -> bytes:
        """Return the body, cut off at the route's limit. Handlers ignore what follows a complete JSON value."""
        limit = self.kes_route.max_body
        body = b""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            body = body + chunk if body else chunk
            if len(body) >= limit:
                return body[:limit]
            if not message.get("more_body", False):
                return body


class WholeCall(Call):
    """A request whose body has arrived, for handlers that need nothing else of it.

    It is made for each of the most frequent requests. It has no headers, and is authorized.
    """

    def __init__(self, body: bytes, *, state: State, route: Route, argument: str, sender: Sender) -> None:
        # Without the constructors above, which need an ASGI scope.
        self.whole_body = body[: route.max_body]
        self.server_state = state
        self.kes_route = route
        self.argument = argument
        self.sender = sender
        self.is_authorized = True

    async def limited_body(self) -> bytes:
        return self.whole_body


def json_body(body: bytes, error: tuple[int, str] = INVALID_BODY) -> Any:
    """Return the first JSON value of `body` and ignore the rest; return None for null.

    Names of members are in lower case, however the client wrote them.

    Raises:
        RequestError: With `error`, if the body contains no JSON value.
    """
    try:
        return decode_json(body.decode("utf-8", "replace"))
    except ValueError:
        raise RequestError(*error) from None


def binary_member(members: Any, name: str, error: tuple[int, str] = INVALID_BODY) -> bytes:
    """Return the bytes of the member `name`, which is standard base64; missing and null are empty.

    Raises:
        RequestError: With `error`, if `members` is not an object or null, or the member is not base64.
    """
    if members is None:
        return b""
    if not isinstance(members, dict):
        raise RequestError(*error)
    text = members.get(name)
    if text is None:
        return b""
    if not isinstance(text, str):
        raise RequestError(*error)
    try:
        return decode_base64(text)
    except ValueError:
        raise RequestError(*error) from None

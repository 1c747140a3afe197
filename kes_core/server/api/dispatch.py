"""The FastAPI application, and the steps that every request goes through.

Everything between the HTTP server and the handlers happens in `_Dispatcher`, in the order that the protocol lays down:
route, method, certificate, policy, argument, and then the handler, which reads the body. The rules are those of
`kes_core.access`. FastAPI keeps the routes and their documentation; its middleware, its parameters and its validation,
none of which these routes use, cost more than the cryptography and are left out of a request's way.

There are two ways in, with the same code behind them. ASGI works for every request, and needs a task for each. `begin`
is for the most frequent requests, once their body has arrived: it runs the same coroutine to its first step that waits.
Usually there is none, because the key is in memory, and the answer is there without a task and without a timeout.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from kes_core import protocol
from kes_core.access.decide import decide_for_connection
from kes_core.access.errors import NotRoutedError, RequestError, UnidentifiedSenderError, error_body
from kes_core.access.routing import check_argument, find_route
from kes_core.access.sender import identify, identify_if_possible
from kes_core.boundary.steps import finish, go_on
from kes_core.faults import log_fault
from kes_core.protocol import ROUTES
from kes_core.server.api import importing, keys, logs, policies, system, versions
from kes_core.server.api.call import Call
from kes_core.server.api.enforcement import enforce, log_refusal, shortened
from kes_core.server.api.logs import Text
from kes_core.server.build import version
from kes_core.server.events import Hub, send_stream
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.wire.app import Answer, Message
from kes_core.server.wire.stream import RequestRefusedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send

    from kes_core.access.sender import Sender
    from kes_core.server.state import State
    from kes_core.server.workers.peers import Peers

__all__ = ["KESApp"]

logger = logging.getLogger("kes.server")

Handler = Callable[[Call], Awaitable[Any]]

_UNANSWERED: Final = 499
"""The status in the audit log for a request without an answer, because the client disconnected or the server stopped.
The server never sends this status; nginx logs the same number."""
_JSON: Final = (b"content-type", b"application/json")
_NDJSON: Final = (b"content-type", b"application/x-ndjson")
_FREQUENT: Final = tuple(
    f"/v1/key/{operation}/" for operation in ("generate", "encrypt", "decrypt", "hmac", "bulk/decrypt")
)
"""The routes that `begin` serves. Their handlers wait for nothing but the body and the key."""
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class KESApp(FastAPI):
    """The API of the server. `use` sets its state, and replaces the old one as a whole."""

    def __init__(self, state: State, metrics: Metrics, peers: Peers, expiry: ExpiryWatch) -> None:
        super().__init__(version=version(), openapi_url=None, redirect_slashes=False)
        self.server_state = state
        self.metrics = metrics
        self.peers = peers
        self.expiry = expiry
        self.error_log = Hub(self._count_error_events)
        self.audit_log = Hub(self._count_audit_events)
        streams = logs.handlers(metrics, peers, self.error_log, self.audit_log)
        own = {system.API_PATH: self._list_api, system.STATUS_PATH: self._status, system.READY_PATH: self._ready}
        self.handlers: Mapping[str, Handler] = {
            **system.HANDLERS,
            **own,
            **streams,
            **keys.HANDLERS,
            **versions.HANDLERS,
            **importing.handlers(),
            **policies.HANDLERS,
        }
        """What serves each route, by its path."""
        self._dispatcher = _Dispatcher(self)
        for route in ROUTES:
            handler = self.handlers[route.path]
            self.add_api_route(
                route.template, handler, methods=[route.method], summary=route.summary, response_model=None
            )

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of the routes. The server does not serve it, so it builds no models for it."""
        from kes_core.server.api.openapi import document

        return document(self.version)

    def use(self, state: State) -> None:
        """Use `state` from now on. Requests in progress keep the state with which they began."""
        state.audit.readers = self.audit_log
        self.metrics.credentials = state.cache.credentials
        self.metrics.keys = state.cache.keys
        self.server_state = state

    def close_streams(self) -> None:
        """End the log streams, which would never end on their own."""
        self.error_log.close()
        self.audit_log.close()

    def _count_error_events(self, count: int) -> None:
        self.metrics.error_events += count

    def _count_audit_events(self, count: int) -> None:
        self.metrics.audit_events += count

    async def _list_api(self, call: Call) -> list[dict[str, Any]]:
        return system.api_listing(call.server_state.timeouts)

    async def _ready(self, call: Call) -> None:
        await system.ready(call, self.peers)

    async def _status(self, call: Call) -> dict[str, Any]:
        return await system.status(call, self.metrics, self.peers)

    def build_middleware_stack(self) -> ASGIApp:
        return self._dispatcher

    frequent = _FREQUENT

    def may_begin(self, scope: Message) -> bool:
        """Return whether `begin` can serve this request (`wire.app.App`)."""
        # A loop costs less than a generator.
        for _name, engine in self.server_state.access.engines:
            if not engine.is_immediate:
                return False
        path: str = scope["path"]
        return path.startswith(_FREQUENT)

    def begin(self, scope: Message, body: bytes) -> Answer | Awaitable[Answer]:
        """Serve a request without a task (`wire.app.App`)."""
        return self._dispatcher.begin(scope, body)


class _Dispatcher:
    """Serves requests: checks access, calls the handler, and records the result."""

    def __init__(self, app: KESApp) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange = await self._serve(scope, receive)
        if exchange.status == _UNANSWERED:
            return
        headers, body = exchange.headers, exchange.body
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body})
        else:
            await send_stream(body, receive, send)

    def begin(self, scope: Message, body: bytes) -> Answer | Awaitable[Answer]:
        """Serve a request whose body has arrived: see `KESApp.begin`."""
        work = self._serve_whole(scope, body)
        try:
            waits_for = work.send(None)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        return go_on(work, waits_for)

    async def _serve_whole(self, scope: Message, body: bytes) -> Answer:
        message = {"type": "http.request", "body": body, "more_body": False}

        async def receive() -> Message:
            return message

        exchange = await self._serve(scope, receive)
        return Answer(exchange.status, exchange.headers, exchange.body)  # type: ignore[arg-type] # only logs are streams

    async def _serve(self, scope: Message, receive: Receive) -> _Exchange:
        """Serve a request up to its answer."""
        started = time.perf_counter()
        exchange = _Exchange()
        try:
            await self._answer(exchange, scope, receive)
        finally:
            # Before any part of the answer is sent: no client may get an answer that has no record.
            self._record(exchange, scope, time.perf_counter() - started)
        return exchange

    async def _answer(self, exchange: _Exchange, scope: Message, receive: Receive) -> None:
        """Find the answer to a request, also to one that fails."""
        try:
            call = exchange.call = self._begin(scope, receive)
            seconds = call.server_state.timeouts[call.kes_route.path]
            answer = await finish(self._execute(call, scope), seconds)
            exchange.answer(*_success(answer))
        except RequestError as error:
            exchange.answer(error.status, [_JSON], error_body(error.message, error.reason), error.why)
        except RequestRefusedError as error:
            exchange.answer(error.status, [_JSON], error_body(error.message), error.message)
        except NotRoutedError as error:
            exchange.answer(error.status, error.headers, error.body, error.reason)
        except TimeoutError:
            exchange.answer(protocol.TIMED_OUT[0], [_JSON], error_body(protocol.TIMED_OUT[1]), protocol.TIMED_OUT[1])
        except ClientDisconnect:
            pass  # the request stays without an answer
        except Exception as error:
            log_fault(logger, "internal error while serving %r", shortened(scope["path"]), error=error)
            exchange.answer(500, [_JSON], error_body(protocol.INTERNAL[1]), protocol.INTERNAL[1])

    def _begin(self, scope: Message, receive: Receive) -> Call:
        """Find the route and the sender of a request."""
        state = self._app.server_state
        route, argument = find_route(scope["method"], scope["raw_path"], scope["path"], scope["query_string"])
        client = scope["extensions"]["kes.client"]
        try:
            sender = identify(client, scope["headers"], state.access)
        except UnidentifiedSenderError as error:
            log_refusal(scope["path"], "the client of a TLS proxy", client.address, "certificate", error.why)
            raise
        self._note_expiry(sender)
        return Call(scope, receive, state=state, route=route, argument=argument, sender=sender)

    def _note_expiry(self, sender: Sender) -> None:
        """Remember a client whose certificate expires soon; forget it when it has a new certificate."""
        expiry = self._app.expiry
        if sender.expires < expiry.horizon:
            if sender.certificate is not None:
                expiry.see_client(sender.identity, sender.certificate)
        elif expiry.any_client:
            expiry.see_renewed(sender.identity)

    async def _execute(self, call: Call, scope: Message) -> Any:
        """Let the handler serve the request, if it is allowed."""
        route, sender, metrics = call.kes_route, call.sender, self._app.metrics
        decision = await decide_for_connection(
            scope["extensions"]["kes.client"],
            call.server_state.access,
            route,
            sender,
            method=scope["method"],
            path=scope["path"],
            argument=call.argument,
        )
        enforce(decision, metrics, sender, scope["path"])
        call.is_authorized = True
        metrics.active += route.is_counted
        try:
            check_argument(route, call.argument)
            return await self._app.handlers[route.path](call)
        finally:
            metrics.active -= route.is_counted

    def _record(self, exchange: _Exchange, scope: Message, seconds: float) -> None:
        """Count a request and write its one audit record, however it ended."""
        call, status = exchange.call, exchange.status
        if call is not None and call.is_authorized and call.kes_route.is_counted and status != _UNANSWERED:
            self._app.metrics.answered(status, seconds)
        state = self._app.server_state
        if state.audit.enabled:
            policy_of = state.policy_of
            if call is not None:
                sender = call.sender
                policy_of = call.server_state.policy_of  # a reload may have come between
            else:
                client = scope["extensions"]["kes.client"]
                sender = identify_if_possible(client, scope["headers"], state.access)
            state.audit.record(
                ip=sender.address,
                path=scope["path"],
                identity=sender.identity,
                code=status,
                seconds=seconds,
                policy=policy_of.get(sender.identity, ""),
                reason=exchange.reason,
            )


class _Exchange:
    """A request and its answer, filled in step by step."""

    __slots__ = ("body", "call", "headers", "reason", "status")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.status = _UNANSWERED
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | AsyncIterator[bytes] = b""
        self.reason = ""

    def answer(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | AsyncIterator[bytes], reason: str = ""
    ) -> None:
        """Set the answer. The reason of a refusal or a failure is for the operator."""
        if isinstance(body, bytes):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        self.status, self.headers, self.body, self.reason = status, headers, body, reason


def _success(answer: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes | AsyncIterator[bytes]]:
    if answer is None:
        return 200, [], b""
    if isinstance(answer, Text):
        return 200, [(b"content-type", answer.content_type)], answer.body
    if isinstance(answer, AsyncIterator):
        return 200, [_NDJSON], answer
    return 200, [_JSON], _encode(answer).encode("ascii")

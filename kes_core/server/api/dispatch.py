"""The FastAPI application, and the steps that every request goes through.

Everything between the HTTP server and the handlers happens in `_Dispatcher`, in the order that the protocol lays down:
route, method, certificate, policy, argument, and then the handler, which reads the body. The rules are those of
`kes_core.access`. FastAPI keeps the routes and their documentation; its middleware, its parameters and its validation,
none of which these routes use, cost more than the cryptography and are left out of a request's way.

There are three ways in, with the same code behind them. ASGI works for every request, and needs a task for each.
`begin` is for the most frequent requests, once their body has arrived: it runs the same coroutine to its first step
that waits. Usually there is none, because the key is in memory, and the answer is there without a task and without a
timeout. `direct` is for such a request when the connection has sent one like it before (`KnownRequest`): it leaves out
the checks whose results it knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI

from kes_core.access.decide import KnownRequest, decide_for_connection
from kes_core.access.errors import UnidentifiedSenderError
from kes_core.access.routing import check_argument, find_route
from kes_core.access.sender import identify, identify_if_possible
from kes_core.audit.event import request_text
from kes_core.boundary.steps import finish, finish_rest, go_on
from kes_core.encoding import encode_json
from kes_core.protocol import ROUTES
from kes_core.server.api import importing, keys, logs, policies, system, versions
from kes_core.server.api.call import Call, WholeCall
from kes_core.server.api.enforcement import enforce, log_refusal
from kes_core.server.api.exchange import JSON, UNANSWERED, Exchange
from kes_core.server.build import version
from kes_core.server.events import Hub, send_stream
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.wire.app import Answer, Message

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send

    from kes_core.access.sender import ProvenClient, Sender
    from kes_core.server.state import State
    from kes_core.server.workers.peers import Peers

__all__ = ["KESApp"]

logger = logging.getLogger("kes.server")

Handler = Callable[[Call], Awaitable[Any]]

_FREQUENT: Final = tuple(
    f"/v1/key/{operation}/"
    for operation in ("generate", "encrypt", "decrypt", "hmac", "bulk/decrypt", "bulk/generate", "bulk/encrypt")
)
"""The routes that `begin` and `direct` serve. Their handlers wait for nothing but the body and the key, and return what
JSON can express."""


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

    def direct(
        self, client: ProvenClient, method: str, raw_path: bytes, body: bytes
    ) -> bytes | Answer | Awaitable[Answer] | None:
        """Serve a request like one before it (`wire.app.App`)."""
        return self._dispatcher.direct(client, method, raw_path, body)

    def settle(self) -> int:
        """Write the audit records of `direct` (`wire.app.App`)."""
        return self.server_state.audit.settle()


class _Dispatcher:
    """Serves requests: checks access, calls the handler, and records the result."""

    def __init__(self, app: KESApp) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange = await self._serve(scope, receive)
        if exchange.status == UNANSWERED:
            return
        headers, body = exchange.headers, exchange.body
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body})
        else:
            await send_stream(body, receive, send)

    def begin(self, scope: Message, body: bytes) -> Answer | Awaitable[Answer]:
        """Serve a request whose body has arrived: see `KESApp.begin`."""
        if not scope["query_string"]:
            found = self.direct(scope["extensions"]["kes.client"], scope["method"], scope["raw_path"], body)
            self._app.server_state.audit.settle_soon()
            if type(found) is bytes:
                return Answer(200, [JSON, (b"content-length", b"%d" % len(found))], found)
            if found is not None:
                return found  # type: ignore[return-value] # not bytes
        return _begun(self._serve_whole(scope, body))

    def direct(
        self, client: ProvenClient, method: str, raw_path: bytes, body: bytes
    ) -> bytes | Answer | Awaitable[Answer] | None:
        """Serve a request like one that this connection has sent before: see `KESApp.direct`."""
        app = self._app
        state, metrics = app.server_state, app.metrics
        known = client.known_request(state.access, method, raw_path)
        if known is None:
            return None
        started = time.perf_counter()
        route, argument, path, sender, labels, record = known
        self._note_expiry(sender)
        for label in labels:
            metrics.decisions[label] += 1
        call = WholeCall(body, state=state, route=route, argument=argument, sender=sender)
        work: Any = app.handlers[route.path](call)
        status, reason, waits = UNANSWERED, "", False
        try:
            waits_for = work.send(None)
        except StopIteration as done:
            answer = encode_json(done.value)
            status = 200
            return answer
        except Exception as error:
            exchange = Exchange(call)
            exchange.fail(error, path)
            status, reason = exchange.status, exchange.reason
            return exchange.whole()
        else:
            waits = True
            return _begun(self._go_on(Exchange(call), path, started, work, waits_for))
        finally:
            if not waits:
                seconds = time.perf_counter() - started
                if status != UNANSWERED:
                    metrics.answered(status, seconds)
                app.server_state.audit.add(record, status, seconds, reason)  # a reload may have come between

    async def _go_on(self, exchange: Exchange, path: str, started: float, work: Any, waits_for: Any) -> Answer:
        """Serve a request of `direct` whose handler has to wait, up to its answer."""
        call: Any = exchange.call
        metrics = self._app.metrics
        metrics.active += 1
        try:
            seconds = call.server_state.timeouts[call.kes_route.path]
            await _answer(exchange, path, finish_rest(work, waits_for, seconds))
        finally:
            metrics.active -= 1
            self._record(exchange, path, time.perf_counter() - started)
        return exchange.whole()

    async def _serve_whole(self, scope: Message, body: bytes) -> Answer:
        message = {"type": "http.request", "body": body, "more_body": False}

        async def receive() -> Message:
            return message

        return (await self._serve(scope, receive)).whole()

    async def _serve(self, scope: Message, receive: Receive) -> Exchange:
        """Serve a request up to its answer."""
        started = time.perf_counter()
        exchange = Exchange()
        try:
            await _answer(exchange, scope["path"], self._find_answer(exchange, scope, receive))
        finally:
            # Before any part of the answer is sent: no client may get an answer that has no record.
            seconds = time.perf_counter() - started
            if exchange.call is not None:
                self._record(exchange, scope["path"], seconds)
            else:
                self._record_unrouted(exchange, scope, seconds)
        return exchange

    async def _find_answer(self, exchange: Exchange, scope: Message, receive: Receive) -> Any:
        call = exchange.call = self._begin(scope, receive)
        seconds = call.server_state.timeouts[call.kes_route.path]
        return await finish(self._execute(call, scope), seconds)

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
            if route.path in _FREQUENT and not scope["query_string"]:
                record = _request_text(call.server_state, sender, scope["path"])
                known = KnownRequest(route, call.argument, scope["path"], sender, decision.labels, record)
                client = scope["extensions"]["kes.client"]
                client.remember_request(call.server_state.access, scope["method"], scope["raw_path"], known)
            return await self._app.handlers[route.path](call)
        finally:
            metrics.active -= route.is_counted

    def _record(self, exchange: Exchange, path: str, seconds: float) -> None:
        """Count a request and write its one audit record, however it ended."""
        call: Any = exchange.call
        if call.is_authorized and call.kes_route.is_counted and exchange.status != UNANSWERED:
            self._app.metrics.answered(exchange.status, seconds)
        if self._app.server_state.audit.enabled:
            self._audit(exchange, path, seconds, call.sender, call.server_state)  # a reload may have come between

    def _record_unrouted(self, exchange: Exchange, scope: Message, seconds: float) -> None:
        """Write the audit record of a request without a route or a sender."""
        state = self._app.server_state
        if state.audit.enabled:
            sender = identify_if_possible(scope["extensions"]["kes.client"], scope["headers"], state.access)
            self._audit(exchange, scope["path"], seconds, sender, state)

    def _audit(self, exchange: Exchange, path: str, seconds: float, sender: Sender, state: State) -> None:
        audit = self._app.server_state.audit
        audit.add(_request_text(state, sender, path), exchange.status, seconds, exchange.reason)
        audit.settle_soon()


def _request_text(state: State, sender: Sender, path: str) -> str:
    """Return what the audit record says of a request."""
    policy = state.policy_of.get(sender.identity, "")
    return request_text(ip=sender.address, path=path, identity=sender.identity, policy=policy)


async def _answer(exchange: Exchange, path: str, work: Awaitable[Any]) -> None:
    """Await the result of a handler; answer with it, or with its error."""
    try:
        exchange.succeed(await work)
    except Exception as error:
        exchange.fail(error, path)


def _begun(work: Coroutine[Any, Any, Answer]) -> Answer | Awaitable[Answer]:
    """Run a coroutine to its first step that waits; return its result, or what to await for it."""
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    return go_on(work, waits_for)

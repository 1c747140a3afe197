"""The FastAPI application: the table of routes, and the one way that every request takes through it.

A request's path is decoded once. What is compared with the policies, what is routed and what is executed is that one
string; nothing normalises it afterwards. Everything between the HTTP server and the handlers happens in `_Dispatcher`,
in the order that the protocol lays down: route, method, certificate, policy, argument, and then the handler, which
reads the body. FastAPI keeps the routes and their documentation; its middleware, its parameters and its validation,
none of which these routes use, cost more than the cryptography and are left out of a request's way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import posixpath
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from fastapi import FastAPI
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from kes_core import protocol
from kes_core.access.errors import RequestError, error_body
from kes_core.access.sender import Sender
from kes_core.boundary import PluginError
from kes_core.faults import log_fault
from kes_core.names import is_valid_name, is_valid_pattern
from kes_core.policy import Decision, PolicyRequest
from kes_core.protocol import ROUTES, Argument, Auth, Route
from kes_core.server.api import keys, logs, openapi, policies, system
from kes_core.server.api.call import Call
from kes_core.server.api.logs import Text
from kes_core.server.events import Hub, send_stream
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.wire.stream import Message, RequestRefusedError, decode_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send

    from kes_core.server.state import State
    from kes_core.server.workers.peers import Peers

__all__ = ["KESApp"]

logger = logging.getLogger("kes.server")

Handler = Callable[[Call], Awaitable[Any]]

_MAX_PATH_SEGMENTS: Final = 5
"""The most segments before a route's argument: `/v1/key/bulk/decrypt/`."""
_UNANSWERED: Final = 499
"""The status in the audit log of a request that has no answer: the client left, or the server ended, before there was
one. No such answer is ever sent; nginx records the same number."""
_JSON: Final = (b"content-type", b"application/json")
_NDJSON: Final = (b"content-type", b"application/x-ndjson")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_MAX_SHOWN_PATH: Final = 500
"""Characters of a path that are logged: it is the client's, and may be very long."""
_LOCATION_SAFE: Final = "/%:@!$&'()*+,;=-._~"
_NOBODY: Final = Sender("", "tls: client certificate is required", "", None)
_SUBJECTS: Final = {"key": "key name", "policy": "policy name", "identity": "identity"}


class KESApp(FastAPI):
    """The API of the server. It works with `server_state`: `use` replaces everything at once."""

    def __init__(self, state: State, metrics: Metrics, peers: Peers, expiry: ExpiryWatch) -> None:
        super().__init__(title="kes-core", version=system.version(), openapi_url=None, redirect_slashes=False)
        self.server_state = state
        self.metrics = metrics
        self.peers = peers
        self.expiry = expiry
        self.error_log = Hub(self._count_error_events)
        self.audit_log = Hub(self._count_audit_events)
        state.audit.readers = self.audit_log
        self._handlers: dict[str, tuple[Route, Handler]] = {}
        streams = logs.handlers(metrics, peers, self.error_log, self.audit_log)
        own = {system.API_PATH: self._list_api, system.STATUS_PATH: self._status}
        handlers = {**system.HANDLERS, **own, **streams, **keys.HANDLERS, **policies.HANDLERS}
        for route in ROUTES:
            self._add(route, handlers[route.path])

    def use(self, state: State) -> None:
        """Work with `state` from now on; requests under way go on with the state they began with."""
        state.audit.readers = self.audit_log
        self.server_state = state

    def close_streams(self) -> None:
        """End the answers that would go on for ever."""
        self.error_log.close()
        self.audit_log.close()

    def _count_error_events(self, count: int) -> None:
        self.metrics.error_events += count

    def _count_audit_events(self, count: int) -> None:
        self.metrics.audit_events += count

    def _add(self, route: Route, handler: Handler) -> None:
        """Add a route of the table, with its documentation."""
        self._handlers[route.path] = (route, handler)
        argument = f"{{{route.argument.value}}}" if route.argument is not None else ""
        body = openapi.BODIES.get(route.path)
        extra: dict[str, Any] = {}
        if route.argument is not None:
            extra["parameters"] = [
                {"name": route.argument.value, "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        if body is not None:
            schema = TypeAdapter(body).json_schema()
            extra["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        self.add_api_route(
            route.path + argument,
            handler,
            methods=[route.method],  # and POST for PUT, which is an older spelling and not documented
            summary=route.summary,
            response_model=openapi.ANSWERS.get(route.path),
            responses={"default": {"model": openapi.Error}},
            openapi_extra=extra,
        )

    async def _list_api(self, call: Call) -> list[dict[str, Any]]:
        return system.api_listing(call.server_state.timeouts)

    async def _status(self, call: Call) -> dict[str, Any]:
        return await system.status(call, self.metrics, self.peers)

    def build_middleware_stack(self) -> ASGIApp:
        return _Dispatcher(self, self._handlers)


class _Dispatcher:
    """Serves one request after the other: who may do what, and what came of it."""

    def __init__(self, app: KESApp, handlers: Mapping[str, tuple[Route, Handler]]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path = decode_path(scope["raw_path"])
        exchange = _Exchange()
        try:
            await self._work_out(exchange, scope, receive, path)
        finally:
            # Before anything of the answer leaves: a client must not get it, or most of it, and be in no record.
            self._record(exchange, scope, path, time.perf_counter() - started)
        if exchange.status == _UNANSWERED:
            return
        headers, body = exchange.headers, exchange.body
        if isinstance(body, bytes):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
            await send_stream(body, receive, send)

    async def _work_out(self, exchange: _Exchange, scope: Message, receive: Receive, path: str) -> None:
        """Do what a request asks for. Whatever goes wrong becomes the answer."""
        try:
            call = exchange.call = self._begin(scope, receive, path)
            async with asyncio.timeout(call.server_state.timeouts[call.kes_route.path]):
                answer = await self._execute(call, path)
            exchange.answer(*_success(answer))
        except RequestError as error:
            exchange.answer(error.status, [_JSON], error_body(error.message, error.reason))
        except RequestRefusedError as error:
            exchange.answer(error.status, [_JSON], error_body(error.message))
        except _NotRouted as error:
            exchange.answer(error.status, error.headers, error.body)
        except TimeoutError:
            exchange.answer(protocol.TIMED_OUT[0], [_JSON], error_body(protocol.TIMED_OUT[1]))
        except ClientDisconnect:
            pass  # and it stays unanswered
        except Exception as error:
            log_fault(logger, "internal error while serving %r", _shown(path), error=error)
            exchange.answer(500, [_JSON], error_body(protocol.INTERNAL[1]))

    async def _execute(self, call: Call, path: str) -> Any:
        route, metrics = call.kes_route, self._app.metrics
        await self._authorize(call, path)
        metrics.active += route.is_counted
        try:
            _validate(route, call.argument)
            return await self._handlers[route.path][1](call)
        finally:
            metrics.active -= route.is_counted

    def _record(self, exchange: _Exchange, scope: Message, path: str, seconds: float) -> None:
        """Count a request and write its one audit record, whatever has become of it."""
        call, status = exchange.call, exchange.status
        if call is not None and call.is_authorized and call.kes_route.is_counted and status != _UNANSWERED:
            self._app.metrics.answered(status, seconds)
        audit = self._app.server_state.audit
        if audit.enabled:
            sender = call.sender if call is not None else self._sender_of(scope)
            address = sender.address or (scope["client"] or ("",))[0]
            audit.record(ip=address, path=path, identity=sender.identity, code=status, seconds=seconds)

    def _begin(self, scope: Message, receive: Receive, path: str) -> Call:
        """Find out what a request asks for, and who sent it."""
        state = self._app.server_state
        route, argument = self._route(scope, path)
        sender = _NOBODY
        if route.auth is not Auth.NONE or scope["extensions"]["kes.client"].presented:
            try:
                sender = _client_of(state, scope)
            except RequestError as error:
                why = error.message or "the forwarded certificate is not vouched for by a CA in tls.ca"
                _log_refusal(path, "the client of a TLS proxy", scope, f"certificate: {why}")
                raise
            self._look_at_expiry(sender)
        return Call(scope, receive, state=state, route=route, argument=argument, sender=sender)

    def _sender_of(self, scope: Message) -> Sender:
        """Return who sent a request that came to no handler, as far as it is known."""
        try:
            return _client_of(self._app.server_state, scope)
        except RequestError:
            return _NOBODY

    def _route(self, scope: Message, path: str) -> tuple[Route, str]:
        method = scope["method"]
        if method == "OPTIONS" and scope["raw_path"] == b"*":  # asks about the server (RFC 9110, section 9.3.7)
            raise _NotRouted(200, [], b"")
        if method == "CONNECT":  # names a host and no path
            raise _NotRouted(404, [_TEXT, (b"x-content-type-options", b"nosniff")], protocol.NO_ROUTE)
        route, argument = self._find(scope["raw_path"], path, scope["query_string"])
        if method != route.method and not (method == "POST" and route.method == "PUT"):
            message = f"received method '{method}' expected '{route.method}'"
            raise _NotRouted(405, [_JSON, (b"accept", route.method.encode("ascii"))], error_body(message))
        return route, argument

    def _find(self, raw_path: bytes, path: str, query: bytes) -> tuple[Route, str]:
        """Return the route for a decoded path, or where the client should ask instead."""
        clean = _clean(raw_path)
        if clean != raw_path:
            raise _redirect(clean, query)
        found = self._handlers.get(path)
        if found is not None:
            return found[0], ""
        end = 0
        for _segment in range(_MAX_PATH_SEGMENTS):
            end = path.find("/", end) + 1
            if not end:
                break
            found = self._handlers.get(path[:end])
            if found is not None:
                return found[0], path[end:]
        if path + "/" in self._handlers:
            raise _redirect(raw_path + b"/", query)
        raise _NotRouted(404, [_TEXT, (b"x-content-type-options", b"nosniff")], protocol.NO_ROUTE)

    def _look_at_expiry(self, sender: Sender) -> None:
        expiry = self._app.expiry
        if sender.expires < expiry.horizon:
            if sender.certificate is not None:
                expiry.see_client(sender.identity, sender.certificate)
        elif expiry.any_client:
            expiry.see_renewed(sender.identity)

    async def _authorize(self, call: Call, path: str) -> None:
        """Ask the policy engines: one that denies refuses, and one at least has to allow (protocol section 2)."""
        state, sender, route = call.server_state, call.sender, call.kes_route
        if route.auth is not Auth.POLICY or route.path in state.unauthenticated:
            call.is_authorized = True
            return
        if sender.error:
            _log_refusal(path, "somebody", call.scope, f"certificate: {sender.error}")
            raise RequestError(400, sender.error)
        if sender.identity == state.admin:
            call.is_authorized = True
            return
        request = PolicyRequest(
            identity=sender.identity,
            method=call.scope["method"],
            path=path,
            api=call.kes_route.path,
            resource=call.argument,
            remote_address=sender.address,
            time=datetime.now(UTC),
            certificate=sender.certificate,
        )
        allowed = False
        reasons = []
        decisions = self._app.metrics.decisions
        for name, engine in state.engines:
            try:
                decision, reason = await engine.authorize(request)
            except PluginError as error:
                logger.error("%s; the request is refused", error)
                decisions[name, "error"] += 1
                decision, reason = Decision.DENY, "failed"
            else:
                decisions[name, decision.value] += 1
            reasons.append(f"{name}: {reason}")
            if decision is Decision.DENY:
                reasons = reasons[-1:]
                allowed = False
                break
            allowed = allowed or decision is Decision.ALLOW
        if not allowed:
            _log_refusal(path, sender.identity, call.scope, "policy: " + "; ".join(reasons), sender.address)
            raise RequestError(*protocol.NOT_ALLOWED)
        call.is_authorized = True


class _Exchange:
    """A request and its answer, as far as they have come."""

    __slots__ = ("body", "call", "headers", "status")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.status = _UNANSWERED
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | AsyncIterator[bytes] = b""

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | AsyncIterator[bytes]) -> None:
        self.status, self.headers, self.body = status, headers, body


class _NotRouted(Exception):  # noqa: N818 # an answer, not a failure
    """A request that reaches no handler, with its answer."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


def _client_of(state: State, scope: Message) -> Sender:
    """Return who sent a request.

    Raises:
        RequestError: A TLS proxy's request does not say properly for whom it speaks.
    """
    try:
        return state.client_of(scope)
    except RequestError:
        raise
    except Exception:
        # A forwarded certificate may be of a kind that one library reads and the next does not.
        raise RequestError(*protocol.INVALID_CERTIFICATE) from None


def _clean(raw_path: bytes) -> bytes:
    """Return a path without empty and dot segments. Nothing is decoded: `%2e` is an ordinary part of a name."""
    if raw_path.startswith(b"/") and b"//" not in raw_path and b"/." not in raw_path:
        return raw_path
    clean = posixpath.normpath(b"/" + raw_path)
    clean = b"/" + clean.lstrip(b"/")
    return clean + b"/" if raw_path.endswith(b"/") and clean != b"/" else clean


def _redirect(raw_path: bytes, query: bytes) -> _NotRouted:
    location = quote(raw_path, safe=_LOCATION_SAFE) + ("?" + quote(query, safe=_LOCATION_SAFE + "?") if query else "")
    return _NotRouted(307, [_TEXT, (b"location", location.encode("ascii"))], b"")


def _log_refusal(path: str, who: str, scope: Message, why: str, address: str = "") -> None:
    """Tell the operator which layer refused a request, and by which rule. The client is told only what it may know."""
    if logger.isEnabledFor(logging.INFO):
        client = address or (scope["client"] or ("an unknown address",))[0].removeprefix("::ffff:")
        logger.info("refused %r to %s at %s: %s", _shown(path), who, client, why)


def _shown(path: str) -> str:
    return path if len(path) <= _MAX_SHOWN_PATH else path[:_MAX_SHOWN_PATH] + "..."


def _validate(route: Route, argument: str) -> None:
    """Refuse an argument that is no name or listing pattern, before anything is done with it."""
    if route.argument is Argument.NAME:
        if not is_valid_name(argument):
            subject = _SUBJECTS[route.path.split("/")[2]]
            raise RequestError(400, f"{subject} '{argument}' is empty, too long or contains invalid characters")
    elif route.argument is Argument.PATTERN:
        pattern, separator, place = argument.partition("~")
        if not is_valid_pattern(pattern + "*" if separator else pattern) or (separator and not is_valid_name(place)):
            raise RequestError(400, f"listing pattern '{argument}' is empty, too long or is invalid")


def _success(answer: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes | AsyncIterator[bytes]]:
    if answer is None:
        return 200, [], b""
    if isinstance(answer, Text):
        return 200, [(b"content-type", answer.content_type)], answer.body
    if isinstance(answer, AsyncIterator):
        return 200, [_NDJSON], answer
    return 200, [_JSON], json.dumps(answer, separators=(",", ":")).encode("ascii")

"""The keys of the server for front ends: each call is a request like those over HTTP.

The steps are those of the dispatcher, with the same code behind them: the sender, the decision of the policy engines,
the argument, the operation, and then the metrics and the audit record.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from datetime import UTC, datetime
from os import urandom
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kes_core.access.decide import decide_for_connection
from kes_core.access.errors import RequestError
from kes_core.access.routing import check_argument
from kes_core.access.sender import ProvenClient
from kes_core.faults import log_fault, one_line
from kes_core.frontends import (
    Encrypted,
    FrontendKeys,
    GeneratedDataKey,
    InvalidKeyUseError,
    KeyDescription,
    KeysThrottledError,
    KeysUnavailableError,
    KeyUseDeniedError,
    KeyUseError,
    KeyUseTimeoutError,
    NotAuthenticError,
    UnknownKeyError,
    UnusableKeyError,
    VersionDescription,
)
from kes_core.identity import is_identity
from kes_core.keys.stored import KeyState
from kes_core.keystore import KeyStoreReason
from kes_core.names import is_valid_name
from kes_core.protocol import INTERNAL, MAX_BODY, NOT_ALLOWED, NOT_DECRYPTED, ROUTES, TIMED_OUT
from kes_core.server.api.enforcement import enforce, log_refusal
from kes_core.server.api.operations import DATA_KEY_SIZE, described_key, open_all, stored_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kes_core.access.sender import Sender
    from kes_core.counters import PluginMetrics
    from kes_core.keys.cache import KeyCache
    from kes_core.protocol import Route
    from kes_core.server.api.dispatch import KESApp
    from kes_core.server.state import State

__all__ = ["Door"]

T = TypeVar("T")

logger = logging.getLogger("kes.server")

UNANSWERED: Final = 499
"""The status in the audit log for a call that was cancelled."""
NO_ADDRESS: Final = "0.0.0.0"  # noqa: S104 # nothing listens there
"""The address of a client without an address, for policy engines: they may expect one, and no rule for clients of a
network or of this machine should match."""
_MAX_CLIENTS: Final = 256
"""The limit of identities and addresses whose permissions are remembered."""
_MAX_REQUEST_ID: Final = 100
_MAX_SHOWN: Final = 100
"""The most characters of a name that is not valid, in the audit record."""
_ROUTE: Final = {
    operation: next(route for route in ROUTES if route.path == f"/v1/key/{operation}/")
    for operation in ("generate", "encrypt", "decrypt", "describe", "versions")
}
_BY_STATUS: Final[dict[int, type[KeyUseError]]] = {
    400: InvalidKeyUseError,
    403: KeyUseDeniedError,
    404: UnknownKeyError,
    409: UnusableKeyError,
    504: KeyUseTimeoutError,
}


class _Asked(NamedTuple):
    """The arguments that all calls have. A plugin may pass anything."""

    identity: Any
    name: Any
    address: Any
    request_id: Any


class _Outcome:
    """How a call ended."""

    __slots__ = ("authorized", "status", "why")

    def __init__(self) -> None:
        self.status = UNANSWERED
        self.why = ""
        self.authorized = False


class Door(FrontendKeys):
    """The keys of the server, for one front end. Belongs to one event loop."""

    def __init__(self, app: KESApp, frontend: str, metrics: PluginMetrics) -> None:
        """Open the door for the front end of this name. `metrics` are its own."""
        self._app = app
        self._frontend = frontend
        self._place = f"the front end {frontend!r}"
        self._metrics = metrics
        self._clients: dict[tuple[str, str], ProvenClient] = {}
        self._is_closed = False

    def close(self) -> None:
        """Serve no more calls. Calls under way go on."""
        self._is_closed = True

    async def generate(
        self, identity: str, name: str, *, associated_data: bytes = b"", address: str = "", request_id: str = ""
    ) -> GeneratedDataKey:
        async def work(cache: KeyCache) -> GeneratedDataKey:
            key = await stored_key(cache, name)
            plaintext = urandom(DATA_KEY_SIZE)
            ciphertext = key.key.encrypt(plaintext, associated_data)
            return GeneratedDataKey(plaintext, ciphertext, key.version, key.created_at.as_datetime())

        return await self._serve("generate", _Asked(identity, name, address, request_id), work, associated_data)

    async def encrypt(
        self,
        identity: str,
        name: str,
        plaintext: bytes,
        *,
        associated_data: bytes = b"",
        address: str = "",
        request_id: str = "",
    ) -> Encrypted:
        async def work(cache: KeyCache) -> Encrypted:
            key = await stored_key(cache, name)
            ciphertext = key.key.encrypt(plaintext, associated_data)
            return Encrypted(ciphertext, key.version, key.created_at.as_datetime())

        asked = _Asked(identity, name, address, request_id)
        return await self._serve("encrypt", asked, work, plaintext, associated_data)

    async def decrypt(
        self,
        identity: str,
        name: str,
        ciphertext: bytes,
        *,
        associated_data: bytes = b"",
        address: str = "",
        request_id: str = "",
    ) -> bytes:
        async def work(cache: KeyCache) -> bytes:
            _key, (plaintext,) = await open_all(cache, name, [(ciphertext, associated_data)])
            return plaintext

        asked = _Asked(identity, name, address, request_id)
        return await self._serve("decrypt", asked, work, ciphertext, associated_data)

    async def describe(self, identity: str, name: str, *, address: str = "", request_id: str = "") -> KeyDescription:
        async def work(cache: KeyCache) -> KeyDescription:
            key = await described_key(cache, name)
            is_scheduled = key.state is KeyState.SCHEDULED_FOR_DELETION
            return KeyDescription(
                name=name,
                algorithm=key.key.type.algorithm,
                created_at=key.created_at.as_datetime(),
                created_by=key.created_by,
                version=key.version,
                state=key.state.label,
                delete_at=datetime.fromtimestamp(key.condition.delete_at, UTC) if is_scheduled else None,
                min_decryption_version=key.condition.min_version,
            )

        return await self._serve("describe", _Asked(identity, name, address, request_id), work)

    async def versions(
        self, identity: str, name: str, *, address: str = "", request_id: str = ""
    ) -> Sequence[VersionDescription]:
        async def work(cache: KeyCache) -> Sequence[VersionDescription]:
            key = await described_key(cache, name)
            return tuple(
                VersionDescription(
                    each.version, each.key.type.algorithm, each.created_at.as_datetime(), each.created_by
                )
                for each in key.versions
            )

        return await self._serve("versions", _Asked(identity, name, address, request_id), work)

    async def _serve(self, operation: str, asked: _Asked, work: Callable[[KeyCache], Awaitable[T]], *data: Any) -> T:
        """Serve a call up to its result, and record it, however it ends.

        Raises:
            KeyUseError: It is refused, or fails.
        """
        if self._is_closed:
            raise KeysUnavailableError("the front end has stopped")
        started = time.perf_counter()
        state, route, outcome = self._app.server_state, _ROUTE[operation], _Outcome()
        failure: KeyUseError
        try:
            async with asyncio.timeout(state.timeouts[route.path]):
                result = await self._execute(state, route, asked, work, data, outcome)
        except RequestError as error:
            outcome.status, outcome.why = error.status, error.why
            failure = _failure(error)
        except TimeoutError:
            outcome.status, outcome.why = TIMED_OUT
            failure = KeyUseTimeoutError(TIMED_OUT[1])
        except Exception as error:
            log_fault(logger, "internal error while serving %r", _path(route, asked), error=error)
            outcome.status, outcome.why = INTERNAL
            failure = KeyUseError(INTERNAL[1])
        else:
            outcome.status = 200
            return result
        finally:
            seconds = time.perf_counter() - started
            self._metrics._timer(operation).add(seconds)  # noqa: SLF001 # made for the boundary
            self._record(state, route, asked, outcome, seconds)
        raise failure  # outside the handlers: the exceptions of the server stay inside

    async def _execute(
        self,
        state: State,
        route: Route,
        asked: _Asked,
        work: Callable[[KeyCache], Awaitable[T]],
        data: Sequence[Any],
        outcome: _Outcome,
    ) -> T:
        _check(route, asked, data)
        metrics, path = self._app.metrics, route.path + asked.name
        client, sender = self._sender(state, asked, path)
        decision = await decide_for_connection(
            client, state.access, route, sender, method=route.method, path=path, argument=asked.name
        )
        enforce(decision, metrics, sender, path, asked.address or self._place)
        outcome.authorized = True
        metrics.active += 1
        try:
            return await work(state.cache)
        finally:
            metrics.active -= 1

    def _sender(self, state: State, asked: _Asked, path: str) -> tuple[ProvenClient, Sender]:
        """Return the sender of a call. It is remembered as that of a connection, with what it was allowed."""
        key = (asked.identity, asked.address)
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= _MAX_CLIENTS:
                self._clients.clear()
            address = asked.address or NO_ADDRESS
            client = ProvenClient(asked.identity, "", None, verified=True, presented=False, address=address)
            self._clients[key] = client
        sender = client.sender_under(state.access)
        if sender is None:
            why = "the identity is that of a TLS proxy"
            log_refusal(path, asked.identity, asked.address or self._place, "certificate", why)
            raise RequestError(*NOT_ALLOWED, why=f"certificate: {why}")
        return client, sender

    def _record(self, state: State, route: Route, asked: _Asked, outcome: _Outcome, seconds: float) -> None:
        """Count a call and write its one audit record."""
        if outcome.authorized and outcome.status != UNANSWERED:
            self._app.metrics.answered(outcome.status, seconds)
        audit = self._app.server_state.audit  # a reload may have come between
        if not audit.enabled:
            return
        identity = asked.identity if is_identity(asked.identity) else ""
        audit.record(
            ip=asked.address if _is_address(asked.address) else "",
            path=_path(route, asked),
            identity=identity,
            code=outcome.status,
            seconds=seconds,
            policy=state.policy_of.get(identity, ""),
            reason=outcome.why,
            frontend=self._frontend,
            request_id=one_line(asked.request_id, _MAX_REQUEST_ID) if isinstance(asked.request_id, str) else "",
        )
        audit.settle()  # the front end may send its answer at once


def _path(route: Route, asked: _Asked) -> str:
    """Return the path of a call for the log and the audit record."""
    return route.path + (one_line(asked.name, _MAX_SHOWN) if isinstance(asked.name, str) else "")


def _check(route: Route, asked: _Asked, data: Sequence[Any]) -> None:
    """Refuse arguments that are not valid.

    Unlike over HTTP this comes before the policy engines: no plugin can pass on a path that is another one.

    Raises:
        RequestError: One is not valid; the message does not show it.
    """
    if not (isinstance(asked.identity, str) and is_identity(asked.identity)):
        raise RequestError(400, "the identity is not 64 hex digits in lower case")
    if not isinstance(asked.name, str):
        raise RequestError(400, "the name of the key is not text")
    if not is_valid_name(asked.name):
        check_argument(route, one_line(asked.name, _MAX_SHOWN))
        raise RequestError(400, "the name of the key is not valid")
    if asked.address != "" and not _is_address(asked.address):
        raise RequestError(400, "the address is not an IP address")
    if not all(isinstance(each, bytes) for each in data):
        raise RequestError(400, "a plaintext, ciphertext or associated data is not bytes")
    if sum(map(len, data)) > MAX_BODY:
        raise RequestError(400, f"more than {MAX_BODY} bytes")


def _is_address(text: Any) -> bool:
    if not isinstance(text, str) or "%" in text:  # any text can follow a `%`
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _failure(error: RequestError) -> KeyUseError:
    """Return the error for a front end that means the same as an answer of the HTTP API."""
    found = (error.status, error.message)
    if found == NOT_DECRYPTED:
        return NotAuthenticError(error.message)
    if error.status == 502:  # noqa: PLR2004 # the status of a failing key store
        reason = KeyStoreReason(error.reason) if error.reason is not None else None
        kind = KeysThrottledError if reason is KeyStoreReason.THROTTLED else KeysUnavailableError
        return kind(error.message, reason=reason)
    return _BY_STATUS.get(error.status, KeyUseError)(error.message)

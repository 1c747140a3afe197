"""Key stores behind the boundary. Private."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import math
import time
import types
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from kes_core.boundary.blocking import calls_plugin
from kes_core.boundary.calls import (
    AWAITABLE,
    BlockingWatch,
    Origin,
    TooSlowError,
    attribute_of,
    close_plugin,
    connect_plugin,
    is_ours,
    origin_of_store,
    translated,
    within,
)
from kes_core.boundary.steps import enter_task, watched
from kes_core.keystore import (
    PAGE_SIZE,
    Credential,
    EntryNotFoundError,
    EntryRefusedError,
    KeyStore,
    KeyStoreError,
    KeyStoreThrottledError,
    Page,
    StoreCapabilities,
    page_of,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.counters import PluginMetrics
    from kes_core.hookspecs import KeyStoreBackend, PluginContext

__all__ = ["access_policy", "connect_store", "is_credential", "sorted_page"]

P = ParamSpec("P")
T = TypeVar("T")

CALL_TIMEOUT: Final = 120.0
"""Seconds after which a call is cancelled. Requests do not wait as long, but some calls continue without a request."""
MOST_BYTES: Final = 1 << 20
"""The largest value that the server takes from a store, in bytes: it decodes values on the event loop."""
THROTTLE_TIME: Final = 10.0
"""Seconds for which a call is repeated while the store has too many requests: less than a request may take."""
THROTTLE_PAUSE: Final = 0.1
"""Seconds until the first repetition if the store does not state them. Each further pause is twice as long."""


async def connect_store(
    backend: KeyStoreBackend, config: BaseModel, context: PluginContext, *, for_requests: bool = False
) -> KeyStore:
    """Connect to a key store; return it behind the boundary.

    Args:
        backend: The kind of the store.
        config: Its section of the configuration.
        context: What it gets to know of this process.
        for_requests: Whether this process serves requests, which the store must not keep waiting.

    Raises:
        KeyStoreError: The store can't be used; the message says why.
    """
    origin = origin_of_store(backend)
    # mypy refuses an abstract class here; it only serves for isinstance().
    store = await connect_plugin(origin, backend.connect, config, context, KeyStore)  # type: ignore[type-abstract]
    if not isinstance(attribute_of(store, "capabilities"), StoreCapabilities):
        await close_plugin(origin, store)
        raise KeyStoreError(origin.returned("connect", store, "a KeyStore whose 'capabilities' are StoreCapabilities"))
    return _GuardedStore(store, origin, context.metrics, BlockingWatch(origin) if for_requests else None)


class _GuardedStore(KeyStore):
    """A plugin's key store that raises only `KeyStoreError` and returns only what `KeyStore` promises.

    It keeps to the store's capabilities, so that its users need not.
    """

    def __init__(self, store: KeyStore, origin: Origin, metrics: PluginMetrics, watch: BlockingWatch | None) -> None:
        self._store = store
        self._origin = origin
        self._metrics = metrics
        self.capabilities = store.capabilities
        self._watch = watch
        interval = attribute_of(store, "health_interval")
        if isinstance(interval, int | float) and 0 < interval < math.inf:
            self.health_interval = float(interval)
        interval = attribute_of(store, "check_interval")
        if isinstance(interval, int | float) and 0 <= interval < math.inf:
            self.check_interval = float(interval)
        most = self.capabilities.max_concurrency
        self._turn: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(most) if most else contextlib.nullcontext()
        )

    async def status(self) -> None:
        await self._call_once("status", self._store.status)

    async def create(self, name: str, value: bytes) -> None:
        problem = self.capabilities.problem_of_name(name) or self.capabilities.problem_of_value(value)
        if problem:
            raise EntryRefusedError(problem)
        await self._call("create", self._store.create, name, value)

    async def get(self, name: str) -> bytes:
        self._check_exists(name)
        value: Any = await self._call("get", self._store.get, name)
        if not isinstance(value, bytes):
            raise KeyStoreError(self._origin.returned("get", value, "bytes"))
        if len(value) > MOST_BYTES:
            raise KeyStoreError(
                f"{self._origin.what} returned {len(value)} bytes from get, which is too much for a key"
            )
        return value

    async def delete(self, name: str) -> None:
        self._check_exists(name)
        await self._call("delete", self._store.delete, name)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        page: Any = await self._call("list", self._store.list, prefix, start=start, limit=limit)
        await asyncio.sleep(0)  # otherwise a listing without end would keep all requests waiting
        if not (isinstance(page, tuple) and len(page) == len(Page._fields)):
            raise KeyStoreError(self._origin.returned("list", page, "a Page"))
        if not self.capabilities.ordered:
            page = sorted_page(page, prefix, start, limit)
        names, following = page
        problem = _problem_of_page(names, following, prefix, start, limit if limit > 0 else PAGE_SIZE)
        if problem:
            raise KeyStoreError(f"{self._origin.what} returned a page from list that {problem}")
        # A name that no request can use would only confuse.
        return Page([name for name in names if not self.capabilities.problem_of_name(name)], following)

    @calls_plugin
    def credentials(self) -> Sequence[Credential]:
        """Return what the plugin says, without what its contract does not allow."""
        try:
            found: Any = list(self._store.credentials())
            return [each for each in found if is_credential(each)]
        except BaseException as error:
            if is_ours(error):
                raise
            return ()  # `status` and the other calls tell of a broken plugin

    async def close(self) -> None:
        await close_plugin(self._origin, self._store)

    def _check_exists(self, name: str) -> None:
        problem = self.capabilities.problem_of_name(name)
        if problem:
            raise EntryNotFoundError(problem)

    async def _call(self, operation: str, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the store, and again for some time while it has too many requests."""
        ends, pause = time.monotonic() + THROTTLE_TIME, THROTTLE_PAUSE
        while True:
            try:
                async with self._turn:
                    return await self._call_once(operation, function, *args, **kwargs)
            except KeyStoreThrottledError as error:
                wait = pause if error.retry_after is None else error.retry_after
                if time.monotonic() + wait > ends:
                    raise
            await asyncio.sleep(wait)
            pause *= 2

    @calls_plugin
    async def _call_once(
        self, operation: str, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        started = time.perf_counter()
        await enter_task()
        try:
            call: Any = function(*args, **kwargs)
            if inspect.isawaitable(call):
                if self._watch is not None and isinstance(call, types.CoroutineType):
                    call = watched(call, self._watch)
                seconds = None if operation == "list" else CALL_TIMEOUT
                return await within(call, seconds, self._origin.what)
            failure = self._origin.error(self._origin.returned(operation, call, AWAITABLE))
        except TooSlowError:
            failure = self._origin.unreachable(f"{self._origin.what}: no answer within {CALL_TIMEOUT:g} s")
        except BaseException as error:
            if is_ours(error):
                raise
            failure = translated(self._origin, operation, error)
        finally:
            self._metrics._timer(operation).add(time.perf_counter() - started)  # noqa: SLF001 # made for the boundary
        raise failure  # outside the handler, as in `connect_plugin`


def sorted_page(page: Any, prefix: str, start: str, limit: int) -> Any:
    """Return the page that was asked for from a page of all names, or the page as it is if it is faulty."""
    names, following = page
    if following or not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return page
    return page_of(names, prefix, start=start, limit=limit)


def is_credential(found: Any) -> bool:
    """Return whether the metrics can show what `credentials` has returned."""
    if not isinstance(found, Credential):
        return False
    name: Any = found.name
    if not isinstance(name, str) or not name.isidentifier():
        return False
    numbers: list[Any] = [
        number for number in (found.expires_at, found.lifetime, found.uses_left) if number is not None
    ]
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def _problem_of_page(names: Any, following: Any, prefix: str, start: str, limit: int) -> str:
    """Return the fault of a page of a listing, or an empty string. Does not show names, which may be anything."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return "has names that are not str"
    if not isinstance(following, str):
        return "has a 'next' that is not a str"
    if len(names) > limit:
        return f"has {len(names)} names, where {limit} are the most"
    if any(first >= second for first, second in itertools.pairwise(names)):
        return "is not sorted, or has a name twice"
    if names and (names[0] < start or not all(name.startswith(prefix) for name in names)):
        return "has names that were not asked for"
    advances = not following or (names and following > names[-1])  # an empty page has nothing after it
    return "" if advances else "has a 'next' that does not advance"


def access_policy(backend: KeyStoreBackend, config: BaseModel) -> str:
    """Return the privileges that the server needs, in the store's policy language; empty if the plugin can't say.

    Raises:
        KeyStoreError: The plugin failed.
    """
    if backend.access_policy is None:
        return ""
    origin = origin_of_store(backend)
    try:
        text: Any = backend.access_policy(config)
    except BaseException as error:
        if is_ours(error):
            raise
        failure = translated(origin, "access_policy", error)
    else:
        if isinstance(text, str):
            return text
        failure = KeyStoreError(origin.returned("access_policy", text, "a str"))
    raise failure

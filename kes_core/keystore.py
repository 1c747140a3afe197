"""The interface of a key store, which back ends implement, and its errors.

A key store keeps opaque values under names. It does not deal with cryptography, policies or HTTP, and it needs no cache
because the server puts one in front of it. The methods of `KeyStore` say everything that a store has to guarantee.

    KeyStoreError                    any other failure
    ├── EntryExistsError             create: the name is taken
    ├── EntryNotFoundError           get, delete: the store has no key of that name
    ├── EntryRefusedError            create: the store can't hold a key of that name or size
    ├── KeyStoreThrottledError       the store answers that it has too many requests
    └── KeyStoreUnreachableError     the store did not answer
"""

from __future__ import annotations

import asyncio
import enum
import functools
import math
import queue
import re
import threading
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, ParamSpec, TypeVar

from kes_core.errors import BackendError

__all__ = [
    "MAX_VALUE_SIZE",
    "PAGE_SIZE",
    "BlockingCalls",
    "Credential",
    "EntryExistsError",
    "EntryNotFoundError",
    "EntryRefusedError",
    "KeyStore",
    "KeyStoreError",
    "KeyStoreReason",
    "KeyStoreThrottledError",
    "KeyStoreUnreachableError",
    "Page",
    "StoreCapabilities",
    "page_of",
]

P = ParamSpec("P")
T = TypeVar("T")

PAGE_SIZE: Final = 1024
"""The largest number of names in one answer of the listing API (protocol section 6)."""
MAX_VALUE_SIZE: Final = 64 * 1024
"""The size in bytes up to which a store accepts values, unless its capabilities state another one."""


class KeyStoreReason(enum.StrEnum):
    """Why a key store can't serve. Clients see this value; unlike the message it does not reveal where the store is."""

    UNREACHABLE = "unreachable"
    """It does not answer, or not in time; or nothing behind it answers."""
    LOCKED = "locked"
    """It answers, but serves nobody until an operator unlocks it or sets it up."""
    FORBIDDEN = "forbidden"
    """It rejects the server's credentials, or they do not permit the operation."""
    THROTTLED = "throttled"
    """It has too many requests, and will serve some later."""
    MISCONFIGURED = "misconfigured"
    """It answers, but not as the configuration of the server expects: another service, no such table or engine."""


class KeyStoreError(BackendError):
    """A key store failed. The message is for the operator's log and must not contain a secret."""

    default_reason: ClassVar[KeyStoreReason | None] = None

    def __init__(self, message: str = "", *, reason: KeyStoreReason | None = None) -> None:
        """Take the `message` for the operator and, if one of them applies, the `reason` for clients."""
        super().__init__(message)
        self.reason = reason if reason is not None else self.default_reason


class EntryExistsError(KeyStoreError):
    """The store already has a key of that name."""


class EntryNotFoundError(KeyStoreError):
    """The store has no key of that name."""


class EntryRefusedError(KeyStoreError):
    """The store can't hold a key of that name or size. Clients get the message, so it must not say where the store is.

    The server raises it itself if a name or a value does not fit the store's `StoreCapabilities`.
    """


class KeyStoreThrottledError(KeyStoreError):
    """The store did nothing because it has too many requests. That is not an outage.

    The server repeats the call for up to 10 seconds. If the store is still too busy, the request fails.
    """

    default_reason = KeyStoreReason.THROTTLED

    def __init__(
        self, message: str = "", *, reason: KeyStoreReason | None = None, retry_after: float | None = None
    ) -> None:
        """Take the `message` for the operator and, if the store gives them, the seconds to wait (`retry_after`)."""
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class KeyStoreUnreachableError(KeyStoreError):
    """The key store did not answer: connection refused, timeout, locked. A later attempt may succeed."""

    default_reason = KeyStoreReason.UNREACHABLE


class Page(NamedTuple):
    """One page of a listing."""

    names: list[str]
    """The names, in ascending byte order."""
    next: str
    """The first name that did not fit on the page, or an empty string when the listing is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCapabilities:
    """What a key store can do less than, or otherwise than, the contract says. The defaults are the whole contract.

    The server respects them, `kes migrate` too, and the conformance kit reports the clauses that they exclude.
    """

    max_value_size: int = MAX_VALUE_SIZE
    """The largest value in bytes. The server refuses to create a larger key."""
    name_pattern: str = ""
    """A regular expression that a whole name has to match; empty: every name of the protocol is possible. The server
    refuses to create other names, and finds no key under them."""
    folds_case: bool = False
    """Whether names that differ only in case are one name. The server then uses only names without upper-case letters:
    otherwise a client could evade a policy that denies `prod-*` with `PROD-1`."""
    ordered: bool = True
    """Whether `list` returns names in byte order, page by page. If not, `list` may ignore `start` and `limit`, and
    returns all names that begin with `prefix`, in any order and on one page: the server sorts and cuts them."""
    eventually_consistent: float = 0.0
    """Seconds for which a read or a listing may still show the state before a change. For that time, the server waits
    for a key that it has just created."""
    recovers_deleted: float = 0.0
    """Seconds for which the name of a deleted key stays taken, because the store could still recover the key: `get`
    does not find it, and `create` raises `EntryExistsError`. `math.inf`: until somebody ends that by other means."""
    max_concurrency: int = 0
    """The number of calls that the store takes at once, not counting `status`. Others wait. 0: any number."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.name_pattern)
        except re.error as error:
            raise ValueError(f"name_pattern is not a regular expression: {error}") from None
        if self.max_value_size < 1 or self.max_concurrency < 0:
            raise ValueError("max_value_size must be 1 or more, max_concurrency 0 or more")
        if not (0 <= self.eventually_consistent < math.inf and self.recovers_deleted >= 0):
            raise ValueError("eventually_consistent and recovers_deleted must be 0 or more seconds")

    def problem_of_name(self, name: str) -> str:
        """Return why the store can't hold a key named `name`, or an empty string."""
        if self.folds_case and name != name.lower():
            return "the key store does not tell upper case from lower case: use a name in lower case"
        if self.name_pattern and re.fullmatch(self.name_pattern, name) is None:
            return f"the key store takes only names that match {self.name_pattern}"
        return ""

    def problem_of_value(self, value: bytes) -> str:
        """Return why the store can't hold a value, or an empty string."""
        if len(value) > self.max_value_size:
            return f"the key store takes values of up to {self.max_value_size} bytes, and the key has {len(value)}"
        return ""


@dataclass(frozen=True, slots=True)
class Credential:
    """Something that a key store logs in with and that runs out, such as a token. It holds no secret."""

    name: str
    """What it is, in lower case: "token"."""
    expires_at: float | None = None
    """When it expires, in seconds since 1970; `None`: never, or the store does not know."""
    lifetime: float | None = None
    """How long it was valid at first, in seconds."""
    uses_left: int | None = None
    """How many times it can still be used; `None`: always, or the store does not know."""


class KeyStore(ABC):
    """Stores keys. All methods may be called concurrently.

    The server passes only names of keys, which are valid in the protocol, and names of later versions and of wrapping
    keys, which are longer and end in `-` (`kes_core.names.is_valid_entry`). To the store all are names alike. Values
    are opaque bytes of up to 64 KiB; the store returns them unchanged. A store that can't keep all of this contract
    says so in `capabilities`. Every method raises `KeyStoreUnreachableError` when the store does not answer,
    `KeyStoreThrottledError` when it has too many requests, and another `KeyStoreError` when it fails. The server treats
    any other exception as a fault of the plugin: it answers the request with an error, and logs only the type of the
    exception. After a cancelled call, the key is either complete or absent. Neither `repr()` nor an error may show a
    value or a credential.
    """

    health_interval: float = 10.0
    """Seconds between two calls of `status`. The server uses them to notice when the store fails or recovers."""
    check_interval: float = 10.0
    """Seconds after which the server reads a key in use again, to notice that another server deleted or replaced it.
    0: never, for a store that only this server can change."""
    capabilities: StoreCapabilities = StoreCapabilities()
    """How the store deviates from the contract. It may depend on the configuration; it must not change later."""

    @abstractmethod
    async def status(self) -> None:
        """Check that the store works; return if it does.

        Raises:
            KeyStoreUnreachableError: The store does not answer.
            KeyStoreError: The store answers, but can't serve.
        """

    @abstractmethod
    async def create(self, name: str, value: bytes) -> None:
        """Store `value` under `name`. Once this returns, the key is durable and every reader sees the complete value.

        Never overwrites: of several concurrent calls for one name exactly one succeeds.

        Raises:
            EntryExistsError: The name is taken; the stored value is unchanged.
            EntryRefusedError: The store can't hold a key of that name or size.
        """

    @abstractmethod
    async def get(self, name: str) -> bytes:
        """Return the value stored under `name`.

        Raises:
            EntryNotFoundError: The store has no key of that name.
        """

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Delete the key. Once this returns, the key is permanently gone.

        Raises:
            EntryNotFoundError: The store has no key of that name. A store that can't know this (Vault) returns instead.
        """

    @abstractmethod
    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        """Return the first `limit` names, in byte order, that begin with `prefix` and are not less than `start`.

        The page is empty if no name matches. A store that holds all its names in memory can use `page_of`.
        """

    def credentials(self) -> Sequence[Credential]:
        """Return what the store logs in with and that runs out, for the metrics. Does not block and does not fail.

        A store without such credentials need not define it.
        """
        return ()

    async def close(self) -> None:
        """Release the store's connections, files and threads. May be called twice; no other call follows.

        The server stops waiting after 5 seconds.
        """
        return


def page_of(names: Iterable[str], prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
    """Return one page of `names`, which may be in any order. Arguments and result are those of `KeyStore.list`.

    Raises:
        KeyStoreError: One of `names` is not text, so the store behind it does not hold keys.
    """
    names = list(names)
    if not all(isinstance(name, str) for name in names):
        raise KeyStoreError("the key store's listing has an entry that is not text")
    if limit <= 0:
        limit = PAGE_SIZE
    matching = sorted(name for name in names if name.startswith(prefix))
    first = bisect_left(matching, start)
    rest = matching[first : first + limit + 1]
    return Page(rest[:limit], rest[limit] if len(rest) > limit else "")


class BlockingCalls:
    """Runs the calls of a blocking client library on its own worker threads.

    A thread that hangs in a dead connection or file system can't be cancelled. Each store therefore has a few threads
    of its own, and can't exhaust those of others. Unlike the threads of the standard library's executors, these do not
    keep the process from exiting.
    """

    def __init__(self, name: str, *, threads: int = 8) -> None:
        self._name = f"kes-{name}"
        self._limit = threads
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._is_closed = False

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a worker thread and return its result.

        When the caller is cancelled, the thread still finishes the call and drops its result.

        Raises:
            KeyStoreError: `close` was called before the call started.
        """
        if self._is_closed:
            raise _closed()
        future: Future[T] = Future()
        self._waiting.put((future, functools.partial(function, *args, **kwargs)))
        if not self._idle.acquire(blocking=False) and self._threads < self._limit:
            self._threads += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Accept no more calls. Calls that run are not waited for; calls that have not started fail."""
        self._is_closed = True
        while True:
            try:
                call = self._waiting.get_nowait()
            except queue.Empty:
                break
            if call is not None and call[0].set_running_or_notify_cancel():
                call[0].set_exception(_closed())
        for _ in range(self._threads):
            self._waiting.put(None)

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                try:
                    result = function()
                except BaseException as error:  # any exception belongs to the caller
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result  # an idle thread must not keep a key in memory
            del call, future, function
            self._idle.release()


def _closed() -> KeyStoreError:
    return KeyStoreError("the key store has been closed")

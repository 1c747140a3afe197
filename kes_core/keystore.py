"""What a key store is: the interface that back ends implement, and its errors.

A key store keeps opaque values under names. It knows nothing of cryptography, policies or HTTP, needs no cache (the
server puts one in front of it) and has to promise only what the methods of `KeyStore` say.

    KeyStoreError              any failure that is none of the below
    ├── EntryExistsError         create: the name is taken
    ├── EntryNotFoundError       get, delete: no key of that name
    └── KeyStoreUnreachableError   the store did not answer at all
"""

from __future__ import annotations

import asyncio
import enum
import functools
import queue
import threading
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, ClassVar, Final, NamedTuple, ParamSpec, TypeVar

__all__ = [
    "PAGE_SIZE",
    "BlockingCalls",
    "EntryExistsError",
    "EntryNotFoundError",
    "KeyStore",
    "KeyStoreError",
    "KeyStoreReason",
    "KeyStoreUnreachableError",
    "Page",
    "page_of",
]

P = ParamSpec("P")
T = TypeVar("T")

PAGE_SIZE: Final = 1024
"""How many names one answer of the listing API holds at the most (protocol section 6)."""


class KeyStoreReason(enum.StrEnum):
    """Why a key store can't serve, as clients are told: unlike the message it tells nothing of where the store is."""

    UNREACHABLE = "unreachable"
    """It does not answer."""
    SEALED = "sealed"
    """It answers, but is locked until somebody unlocks it."""
    UNINITIALIZED = "uninitialized"
    """It has not been set up yet."""
    STANDBY = "standby"
    """The node that answers only stands by, and there is none that serves."""
    FORBIDDEN = "forbidden"
    """It refuses the server's credentials, or they do not allow what is tried."""


class KeyStoreError(Exception):
    """A key store failed. The message is for the operator's log and must hold no secret.

    The server shows it as one line, cut off after 512 characters, and never shows the exception behind it.
    """

    default_reason: ClassVar[KeyStoreReason | None] = None

    def __init__(self, message: str = "", *, reason: KeyStoreReason | None = None) -> None:
        """Say what failed to the operator (`message`), and why to clients (`reason`) if it is one of those."""
        super().__init__(message)
        self.reason = reason if reason is not None else self.default_reason


class EntryExistsError(KeyStoreError):
    """A key of that name is there already."""


class EntryNotFoundError(KeyStoreError):
    """There is no key of that name."""


class KeyStoreUnreachableError(KeyStoreError):
    """The key store did not answer: connection refused, time-out, sealed. Worth trying again later."""

    default_reason = KeyStoreReason.UNREACHABLE


class Page(NamedTuple):
    """One page of a listing."""

    names: list[str]
    """The names, in ascending order of their bytes."""
    next: str
    """The first name that did not fit on the page, or an empty string when the listing is complete."""


class KeyStore(ABC):
    """A place where keys are kept. All methods may be called concurrently.

    Names are valid names of the protocol (`kes_core.names`). Values are opaque bytes of up to 64 KiB and come back
    exactly as they went in. Every method raises `KeyStoreUnreachableError` when the store does not answer and another
    `KeyStoreError` when it fails. The server takes anything else for a fault of the plugin: it answers the request with
    an error, and logs no more than the type of the exception. A call that is cancelled leaves a key either whole or not
    there. Neither `repr()` nor an error may show a value or a credential.
    """

    health_interval: float = 10.0
    """Seconds between two calls of `status` by which the server notices that the store comes and goes."""
    check_interval: float = 10.0
    """Seconds after which a key that is in use is read again, to notice that another server has deleted it or made
    another one of its name; 0: never, for a store that nobody else can change."""

    @abstractmethod
    async def status(self) -> None:
        """Ask the store for a sign of life; returning means that it works.

        Raises:
            KeyStoreUnreachableError: It does not answer.
            KeyStoreError: It answers, but can't serve.
        """

    @abstractmethod
    async def create(self, name: str, value: bytes) -> None:
        """Store `value` under `name`. Once this returns, the key is durable and every reader sees it whole.

        Never overwrites: of several concurrent calls for one name exactly one succeeds.

        Raises:
            EntryExistsError: The name is taken; what is stored stays as it was.
        """

    @abstractmethod
    async def get(self, name: str) -> bytes:
        """Return the value stored under `name`.

        Raises:
            EntryNotFoundError: There is none.
        """

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Remove the key. Once this returns, it is gone for good.

        Raises:
            EntryNotFoundError: There is none. A store that can't tell (Vault) returns instead.
        """

    @abstractmethod
    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        """Return the first `limit` names that begin with `prefix` and are not less than `start`.

        Names are ordered by their bytes; nothing that matches gives an empty page. `page_of` does the work for a
        store that has all its names at hand.
        """

    async def close(self) -> None:
        """Release what the store holds: connections, files, threads. May be called twice; nothing else afterwards.

        Takes at most 5 seconds: the server then goes on without it.
        """
        return


def page_of(names: Iterable[str], prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
    """Cut a page out of all `names`, which may be in any order. Arguments and result as in `KeyStore.list`.

    Raises:
        KeyStoreError: One of `names` is not text: the store answers what no store of keys does.
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
    """Runs the calls of a blocking client library on worker threads of its own.

    A thread that is stuck in a dead connection or file system can't be cancelled. So each store has its own few
    threads and can use up no others; and, unlike those of the standard library's executors, they do not keep the
    process from ending.
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

        When the caller is cancelled the thread still finishes the call, whose result is then dropped.

        Raises:
            KeyStoreError: `close` was called before the call was begun.
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
        """Take no more calls. Does not wait for those under way; who waits for one not begun is told."""
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
                except BaseException as error:  # whatever it is, it is the caller's
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result  # a waiting thread keeps no key
            del call, future, function
            self._idle.release()


def _closed() -> KeyStoreError:
    return KeyStoreError("the key store has been closed")

"""The base class of the clauses of front ends, and the front end of one clause."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

from kes_core.frontends import (
    Encrypted,
    Frontend,
    FrontendContext,
    FrontendKeys,
    GeneratedDataKey,
    KeyDescription,
    VersionDescription,
)
from kes_core.testing._clause import Suite, credentials_of, optional
from kes_core.testing._running import BrokenError, ExcludedError, HookError, check, described, fail_hook, same_bytes
from kes_core.testing.host import FrontendHost

__all__ = ["STOP_TIME", "FrontendSuite", "FrontendTrial", "plaintext"]

T = TypeVar("T")

STOP_TIME: Final = 5.0
"""Seconds that a front end has to stop."""
_SIZE: Final = 32


def plaintext() -> bytes:
    """Return random bytes, as clients encrypt them."""
    return secrets.token_bytes(_SIZE)


class FrontendSuite(Suite):
    """The methods that the author of a front end defines."""

    takes_over: ClassVar[bool] = False
    """Whether the front end can start while an older one serves at the same address, as in `FrontendBackend`."""
    key: ClassVar[str] = "my-key"
    """The name of the key that the front end has to use."""

    identity: str
    """The identity that the front end has to use. Set before `make_frontend` is called."""

    async def make_frontend(self, context: FrontendContext) -> Frontend:
        """Return a front end that has not started, as `connect` does. The kit starts it, and stops it.

        It uses the key `self.key` as `self.identity`. The kit calls this once or twice per clause, each time for the
        same address, such as a socket in `self.tmp_path`.
        """
        raise NotImplementedError("define make_frontend() in the test class: it returns a front end")

    async def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt as a client of the front end, over a connection of its own; return what the client would store.

        Raise any exception if the front end refuses, or if nobody answers.
        """
        raise NotImplementedError("define encrypt() in the test class: it asks the front end as a client")

    async def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt what `encrypt` returned, in the same way."""
        raise NotImplementedError("define decrypt() in the test class: it asks the front end as a client")

    @optional
    async def send_raw(self, data: bytes) -> None:
        """Connect to the front end, send bytes, and close the connection. Optional."""
        raise NotImplementedError

    def _make_trial(self) -> FrontendTrial:
        return FrontendTrial(self)


class _WatchedKeys(FrontendKeys):
    """The keys of a host. It remembers each call, and can hold calls."""

    def __init__(self, keys: FrontendKeys) -> None:
        self._keys = keys
        self.calls: list[tuple[str, str, str]] = []
        """The operation, identity and name of each call."""
        self.versions_used: list[int] = []
        """The version of the key that encrypted, for each call that encrypted."""
        self.entered = asyncio.Event()
        """Set when `wanted` calls are held."""
        self.wanted = 1
        self._held = 0
        self.gate = asyncio.Event()
        """Calls that encrypt or decrypt wait for it."""
        self.gate.set()

    async def _pass(self, operation: str, identity: str, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls.append((operation, identity, name))
        self._held += 1
        if self._held >= self.wanted:
            self.entered.set()
        await self.gate.wait()
        self._held -= 1
        return await call()

    async def generate(self, identity: str, name: str, **options: Any) -> GeneratedDataKey:
        made = await self._pass("generate", identity, name, lambda: self._keys.generate(identity, name, **options))
        self.versions_used.append(made.version)
        return made

    async def encrypt(self, identity: str, name: str, plaintext: bytes, **options: Any) -> Encrypted:
        made = await self._pass(
            "encrypt", identity, name, lambda: self._keys.encrypt(identity, name, plaintext, **options)
        )
        self.versions_used.append(made.version)
        return made

    async def decrypt(self, identity: str, name: str, ciphertext: bytes, **options: Any) -> bytes:
        return await self._pass(
            "decrypt", identity, name, lambda: self._keys.decrypt(identity, name, ciphertext, **options)
        )

    async def describe(self, identity: str, name: str, **options: Any) -> KeyDescription:
        self.calls.append(("describe", identity, name))
        return await self._keys.describe(identity, name, **options)

    async def versions(self, identity: str, name: str, **options: Any) -> Sequence[VersionDescription]:
        self.calls.append(("versions", identity, name))
        return await self._keys.versions(identity, name, **options)


class FrontendTrial:
    """The front end that one clause tests. It has started."""

    def __init__(self, suite: FrontendSuite) -> None:
        self._suite = suite
        self.log = suite.kes_log
        self.longest_block = suite.longest_block
        self.host: FrontendHost
        self.keys: _WatchedKeys
        self.frontend: Frontend
        self._made: list[Frontend] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._crashes: list[BaseException] = []

    @property
    def subject(self) -> Frontend:
        """The front end of the author."""
        return self.frontend

    def check_capability(self, name: str) -> None:
        """Raise `ExcludedError` for a clause about the other way to replace a front end."""
        if self._suite.takes_over is (name == "takes_over"):
            raise ExcludedError(name)

    async def begin(self) -> None:
        """Start the front end, with a key."""
        self.host = await FrontendHost(self._suite.tmp_path).__aenter__()
        await self.host.create_key(self._suite.key)
        self.keys = _WatchedKeys(self.host.keys)
        self._suite.identity = self.host.identity
        self.frontend = await self.make()
        await self.frontend.start()

    async def make(self) -> Frontend:
        """Return another front end for the same address, which has not started."""
        context = FrontendContext(directory=self._suite.tmp_path, keys=self.keys, spawn=self._spawn)
        try:
            frontend = await self._suite.make_frontend(context)
        except Exception as error:
            raise HookError("make_frontend() failed") from error
        if not isinstance(frontend, Frontend):
            fail_hook(f"make_frontend() of the test class returned a {type(frontend).__name__}; expected a Frontend")
        self._made.append(frontend)
        return frontend

    def pace(self) -> str:
        """Return nothing: the calls are not counted."""
        return ""

    async def end(self, *, kept: bool) -> None:  # it matters only to sinks
        """Stop everything. Ignore errors: only some clauses test `stop`."""
        if hasattr(self, "keys"):
            self.keys.gate.set()
        for frontend in self._made:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(STOP_TIME):
                    await frontend.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def encrypt(self, plain: bytes) -> bytes:
        """Encrypt as a client. Whatever it raises breaks the clause."""
        return await self._suite.encrypt(plain)

    async def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt as a client."""
        return await self._suite.decrypt(ciphertext)

    async def works(self, when: str) -> bytes:
        """Check that a client can encrypt and decrypt; return a ciphertext."""
        plain = plaintext()
        try:
            ciphertext = await self.encrypt(plain)
            found = await self.decrypt(ciphertext)
        except Exception as error:
            raise BrokenError(f"{when}, a client fails: {described(error)}") from None
        same_bytes(found, plain, "decrypting")
        check(not self._crashes, f"{when}, a task has failed: {described(self._crashes[0]) if self._crashes else ''}")
        return ciphertext

    async def fails(self, call: Awaitable[object], when: str) -> None:
        """Check that a client's call is refused."""
        try:
            await call
        except Exception:  # the author's own
            return
        raise BrokenError(f"{when}, a client got an answer and no error")

    async def stop(self, frontend: Frontend) -> None:
        """Stop a front end, once."""
        self._made.remove(frontend)
        await frontend.stop()

    async def reached(self, *calls: asyncio.Future[bytes]) -> None:
        """Wait until all these calls of clients are held."""
        entered = asyncio.ensure_future(self.keys.entered.wait())
        waiting: list[asyncio.Future[Any]] = [entered, *calls]
        await asyncio.wait(waiting, timeout=STOP_TIME, return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        for call in calls:
            if call.done():
                await call  # it failed
        check(self.keys.entered.is_set(), f"of {len(calls)} clients at once, not all are served")

    @contextlib.contextmanager
    def held(self, wanted: int = 1) -> Iterator[None]:
        """Hold the calls that encrypt or decrypt while the context is active; `wanted` of them are expected."""
        self.keys.wanted = wanted
        self.keys.entered.clear()
        self.keys.gate.clear()
        try:
            yield
        finally:
            self.keys.gate.set()

    async def send_raw(self, data: bytes) -> None:
        """Send bytes to the front end. The connection may break while it does so."""
        with contextlib.suppress(OSError):
            await self._suite.send_raw(data)

    def credentials(self) -> list[bytes]:
        """Return the credentials that the author named."""
        return credentials_of(self._suite)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def watched() -> None:
            try:
                await work
            except Exception as error:
                self._crashes.append(error)

        task = asyncio.get_running_loop().create_task(watched())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

"""The boundary lets only results of the right type through, and only in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core import (
    BackendError,
    Credential,
    Decision,
    KeyStore,
    KeyStoreBackend,
    KeyStoreError,
    KeyStoreUnreachableError,
    Page,
    PluginContext,
    PolicyEngine,
    PolicyEngineType,
    PolicyRequest,
    Verdict,
    page_of,
)
from kes_core.boundary import PluginError, connect_engine, connect_store
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import Section

REQUEST = PolicyRequest(
    identity="a" * 64,
    method="PUT",
    path="/v1/key/create/my-key",
    api="/v1/key/create/",
    resource="my-key",
    remote_address="127.0.0.1",
    time=datetime(2026, 1, 1, tzinfo=UTC),
)
WHOSE = "the key store 'mine' (plugin 'mine' of kes-mine 1.0)"


def backend(connect: Callable[[Any, Any], Any]) -> KeyStoreBackend:
    return KeyStoreBackend(name="mine", config=Section, connect=connect, origin="plugin 'mine' of kes-mine 1.0")


async def guarded(store: Any) -> KeyStore:
    async def connect(_settings: Section, _context: Any) -> Any:
        return store

    return await connect_store(backend(connect), Section(), PluginContext())


async def guarded_engine(authorize: Callable[[Any], Any], seconds: float = 60.0) -> PolicyEngine:
    class Engine(PolicyEngine):
        def authorize(self, request: PolicyRequest) -> Any:
            return authorize(request)

    async def connect(_settings: Section, _context: Any) -> PolicyEngine:
        return Engine()

    return await connect_engine(
        PolicyEngineType(name="mine", config=Section, connect=connect), Section(), PluginContext(), seconds=seconds
    )


def failure(call: Awaitable[Any]) -> str:
    with pytest.raises((KeyStoreError, PluginError)) as caught:
        asyncio.run(asyncio.wait_for(call, 60))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


async def hang(*_arguments: object) -> Any:
    """Ignore cancellation, like a call that waits for a dead disk."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)
            return None


class Lender(MemoryKeyStore):
    """A store whose plugin says anything of its credentials."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def credentials(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


GOOD = Credential("token", 1.5, 2.0, 3)


@pytest.mark.parametrize(
    "answer",
    [
        [GOOD, "secret", Credential('a"b'), Credential("token", float("nan")), Credential("token", "soon")],  # type: ignore[arg-type] # as a plugin may
        RuntimeError("secret"),
        SystemExit(1),
        None,
        7,
    ],
    ids=repr,
)
def test_credentials_are_those_of_the_interface(answer: Any) -> None:
    """The metrics show nothing else: what breaks the rules is left out, and ends nothing."""
    store = asyncio.run(guarded(Lender(answer)))
    assert list(store.credentials()) == ([GOOD] if isinstance(answer, list) else [])


def test_get_has_to_return_bytes() -> None:
    class Odd(MemoryKeyStore):
        async def get(self, name: str) -> Any:
            return bytearray(b"secret")

    async def get() -> None:
        await (await guarded(Odd())).get("my-key")

    assert failure(get()) == f"{WHOSE} returned bytearray from get, which has to return bytes"


@given(st.sets(st.text(max_size=3)), st.text(max_size=1), st.text(max_size=2), st.integers(-1, 5))
def test_every_page_of_a_proper_store_passes(names: set[str], prefix: str, start: str, limit: int) -> None:
    class Store(MemoryKeyStore):
        async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Page:
            return page_of(names, prefix, start=start, limit=limit)

    async def listed() -> Page:
        return await (await guarded(Store())).list(prefix, start=start, limit=limit)

    assert asyncio.run(listed()) == page_of(names, prefix, start=start, limit=limit)


def test_text_of_a_key_store_error_is_one_short_line() -> None:
    class Wordy(MemoryKeyStore):
        async def status(self) -> None:
            raise KeyStoreUnreachableError("first\n\x1b[2Jsecond " + "x" * 5000) from ValueError("secret")

    async def status() -> None:
        await (await guarded(Wordy())).status()

    text = failure(status())
    assert text.startswith("first [2Jsecond xxx")
    assert len(text) == 512


def test_server_still_cancels_calls() -> None:
    class Slow(MemoryKeyStore):
        async def status(self) -> None:
            await asyncio.Event().wait()

    async def cancel() -> None:
        async with asyncio.timeout(0.05):
            await (await guarded(Slow())).status()

    with pytest.raises(TimeoutError):
        asyncio.run(cancel())


def ask(authorize: Callable[[Any], Any], seconds: float = 60.0) -> Coroutine[Any, Any, Verdict]:
    async def verdict() -> Verdict:
        return await (await guarded_engine(authorize, seconds)).authorize(REQUEST)

    return verdict()


def test_engine_that_waits_is_awaited() -> None:
    async def authorize(request: PolicyRequest) -> Verdict:
        async with asyncio.timeout(60):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(len, request.path)
        return Verdict(Decision.ALLOW, "two\nlines " + "x" * 600)

    decision, reason = asyncio.run(ask(authorize))
    assert decision is Decision.ALLOW
    assert reason.startswith("two lines xxx")
    assert len(reason) == 512


def test_engine_has_a_limited_time() -> None:
    async def slow(_request: PolicyRequest) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    async def own_limit(_request: PolicyRequest) -> Verdict:
        await asyncio.sleep(0)
        raise TimeoutError("secret")

    assert failure(ask(slow, 0.05)) == "the policy engine 'mine' has not answered within 0.05 s"
    assert "failed in authorize: TimeoutError" in failure(ask(own_limit))


def test_engine_says_why_it_can_not_be_connected_to() -> None:
    async def connect(_config: Section, _context: Any) -> PolicyEngine:
        raise BackendError("OPA at 127.0.0.1:8181 does not answer:\nstart it") from ValueError("secret")

    kind = PolicyEngineType(name="mine", config=Section, connect=connect)
    with pytest.raises(BackendError) as caught:
        asyncio.run(connect_engine(kind, Section(), PluginContext()))
    assert type(caught.value) is BackendError
    assert str(caught.value) == "OPA at 127.0.0.1:8181 does not answer: start it"
    assert caught.value.__cause__ is None


def test_engine_says_why_it_can_not_decide() -> None:
    async def authorize(_request: PolicyRequest) -> Verdict:
        raise BackendError("OPA at 127.0.0.1:8181 does not answer") from ValueError("secret")

    assert failure(ask(authorize)) == "the policy engine 'mine': OPA at 127.0.0.1:8181 does not answer"


def test_store_that_raises_the_base_error_fails_as_a_store() -> None:
    class Store(MemoryKeyStore):
        async def status(self) -> None:
            raise BackendError("the disk is full")

    async def status() -> None:
        await (await guarded(Store())).status()

    with pytest.raises(KeyStoreError, match="the disk is full"):
        asyncio.run(status())


@pytest.mark.parametrize("fault", [ValueError, SystemExit])
def test_error_that_can_not_be_shown_is_a_fault(fault: type[BaseException]) -> None:
    class OddError(BackendError):
        def __str__(self) -> str:
            raise fault("secret")

    async def authorize(_request: PolicyRequest) -> Verdict:
        raise OddError

    assert "failed in authorize: OddError, which is a fault of its plugin" in failure(ask(authorize))

"""The boundary lets only results of the right type through, and only in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core import (
    AuditSink,
    AuditSinkType,
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
from kes_core.boundary import PluginError, connect_engine, connect_sink, connect_store
from kes_core.boundary import calls as _calls
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


async def guarded_engine(authorize: Callable[[Any], Any], seconds: float = 1.0) -> PolicyEngine:
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
        asyncio.run(asyncio.wait_for(call, 20))
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


def test_connect_has_to_return_a_key_store() -> None:
    assert failure(guarded({})) == f"{WHOSE} returned dict from connect, which has to return KeyStore"
    call = connect_store(backend(lambda _settings, _context: MemoryKeyStore()), Section(), PluginContext())
    assert failure(call).startswith(f"{WHOSE} returned MemoryKeyStore from connect, which has to return an awaitable")


def test_connect_takes_a_limited_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_calls, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(_calls, "CONNECT_NOTICE", 0.1)
    with pytest.raises(KeyStoreUnreachableError, match=r"no answer within 0\.2 s"):
        asyncio.run(connect_store(backend(hang), Section(), PluginContext()))
    assert f"connecting to {WHOSE} ..." in caplog.messages


def test_close_takes_a_limited_time_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_calls, "CLOSE_TIMEOUT", 0.1)

    class Stuck(MemoryKeyStore):
        async def close(self) -> None:
            await hang()

    class Broken(MemoryKeyStore):
        async def close(self) -> None:
            raise SystemExit("secret")

    async def close() -> None:
        await (await guarded(Stuck())).close()
        await (await guarded(Broken())).close()

    asyncio.run(close())
    assert caplog.messages == [
        f"{WHOSE} did not close within 0.1 s and is left as it is",
        f"{WHOSE} could not be closed: SystemExit",
    ]


def test_get_has_to_return_bytes() -> None:
    class Odd(MemoryKeyStore):
        async def get(self, name: str) -> Any:
            return bytearray(b"secret")

    async def get() -> None:
        await (await guarded(Odd())).get("my-key")

    assert failure(get()) == f"{WHOSE} returned bytearray from get, which has to return bytes"


PAGES = {
    "returned NoneType from list, which has to return a Page": None,
    "names that are not str": Page(["a", b"b"], ""),  # type: ignore[list-item] # which is what is tested
    "a 'next' that is not a str": Page(["a"], 1),  # type: ignore[arg-type] # as above
    "5 names, where 4 are the most": Page(["a", "aa", "ab", "ac", "ad"], ""),
    "is not sorted": Page(["ab", "aa"], ""),
    "a name twice": Page(["aa", "aa"], ""),
    "names that were not asked for": Page(["b"], ""),
    "a 'next' that does not advance": Page(["aa"], "aa"),
}


@pytest.mark.parametrize("problem", PAGES)
def test_page_is_as_the_interface_says(problem: str) -> None:
    class Odd(MemoryKeyStore):
        async def list(self, *_arguments: Any, **_more: Any) -> Any:
            return PAGES[problem]

    async def names() -> None:
        await (await guarded(Odd())).list("a", limit=4)

    assert problem in failure(names())


def test_empty_page_that_leads_back_is_refused() -> None:
    class Endless(MemoryKeyStore):
        async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Page:
            return Page([], start)

    async def names() -> None:
        await (await guarded(Endless())).list("", start="b")

    assert "does not advance" in failure(names())


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


def ask(authorize: Callable[[Any], Any], seconds: float = 1.0) -> Coroutine[Any, Any, Verdict]:
    async def verdict() -> Verdict:
        return await (await guarded_engine(authorize, seconds)).authorize(REQUEST)

    return verdict()


def test_engine_that_waits_is_awaited() -> None:
    async def authorize(request: PolicyRequest) -> Verdict:
        async with asyncio.timeout(5):
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


VERDICTS: list[Any] = [
    None,
    True,
    (Decision.ALLOW, "because"),
    Verdict("allow", ""),  # type: ignore[arg-type] # which is what is tested
    Verdict(Decision.ALLOW, 1),  # type: ignore[arg-type] # as above
]


@pytest.mark.parametrize("answer", VERDICTS)
def test_engine_has_to_return_a_verdict(answer: Any) -> None:
    async def authorize(_request: PolicyRequest) -> Any:
        return answer

    text = failure(ask(authorize))
    assert text.startswith("the policy engine 'mine' returned ")
    assert text.endswith("from authorize, which has to return a Verdict")


def test_engine_that_does_not_wait_asynchronously_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def authorize(_request: PolicyRequest) -> Verdict:
        until = asyncio.get_running_loop().time() + 0.15
        while asyncio.get_running_loop().time() < until:
            pass
        return Verdict(Decision.ALLOW, "")

    async def twice() -> None:
        engine = await guarded_engine(authorize)
        await engine.authorize(REQUEST)
        await engine.authorize(REQUEST)

    asyncio.run(twice())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("the policy engine 'mine' kept all requests waiting for 0.")


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


def test_sink_says_why_it_lost_a_record(caplog: pytest.LogCaptureFixture) -> None:
    class Sink(AuditSink):
        def audit(self, event: Mapping[str, Any]) -> None:
            raise BackendError("the queue is full:\n" + event["text"])

    async def connect(_settings: Section, _context: Any) -> AuditSink:
        return Sink()

    async def check() -> None:
        kind = AuditSinkType(name="mine", config=Section, connect=connect)
        sink = await connect_sink(kind, Section(), PluginContext())
        sink.audit({"text": "wait"})
        sink.audit({"text": "wait"})

    asyncio.run(check())
    assert caplog.messages == ["the audit sink 'mine' did not take 1 records: the queue is full: wait"]


def test_sink_that_is_none_is_refused() -> None:
    class Waiting(AuditSink):
        async def audit(self, event: Mapping[str, Any]) -> None:  # type: ignore[override]
            pass

    def connecting_to(sink: Any) -> Coroutine[Any, Any, Any]:
        async def connect(_settings: Section, _context: Any) -> Any:
            return sink

        kind = AuditSinkType(name="mine", config=Section, connect=connect)
        return connect_sink(kind, Section(), PluginContext())

    for sink, message in (
        ([], "the audit sink 'mine' returned list from connect, which has to return AuditSink"),
        (Waiting(), "the audit sink 'mine' has a method 'audit' that is an 'async def' function"),
    ):
        with pytest.raises(BackendError, match=message):
            asyncio.run(connecting_to(sink))

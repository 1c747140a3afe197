"""The door through which front ends use keys: like an HTTP request, and without anything of the server's inside."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kes_core import (
    Decision,
    InvalidKeyUseError,
    KeysUnavailableError,
    KeyUseDeniedError,
    KeyUseError,
    KeyUseTimeoutError,
    NotAuthenticError,
    PolicyEngine,
    PolicyRequest,
    UnknownKeyError,
    UnusableKeyError,
    Verdict,
)
from kes_core.audit.log import open_audit_log
from kes_core.testing import FrontendHost
from tests.helpers.doctor import PLUGINS, config

NAME = "my-key"


def on(directory: Path, work: Callable[[FrontendHost], Awaitable[None]], **options: Any) -> None:
    """Run `work` with a host that has the key `my-key`."""

    async def main() -> None:
        async with FrontendHost(directory, **options) as host:
            await host.create_key(NAME)
            await work(host)

    asyncio.run(main())


async def failure_of(call: Coroutine[Any, Any, object]) -> KeyUseError:
    with pytest.raises(KeyUseError) as caught:
        await call
    # The exceptions behind it have frames with keys.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def test_what_is_encrypted_is_decrypted_with_the_same_associated_data(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        sealed = await host.keys.encrypt(host.identity, NAME, b"text", associated_data=b"for a")
        assert sealed.version == 1
        opened = await host.keys.decrypt(host.identity, NAME, sealed.ciphertext, associated_data=b"for a")
        assert opened == b"text"
        other = host.keys.decrypt(host.identity, NAME, sealed.ciphertext, associated_data=b"for b")
        assert type(await failure_of(other)) is NotAuthenticError
        made = await host.keys.generate(host.identity, NAME)
        assert len(made.plaintext) == 32
        assert made.plaintext.hex() not in repr(made)
        assert repr(made.plaintext) not in repr(made)
        assert await host.keys.decrypt(host.identity, NAME, made.ciphertext) == made.plaintext

    on(tmp_path, work)


def test_rotation_is_seen(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        before = await host.keys.encrypt(host.identity, NAME, b"text")
        await host.rotate_key(NAME)
        after = await host.keys.encrypt(host.identity, NAME, b"text")
        assert (before.version, after.version) == (1, 2)
        assert before.created_at == after.created_at
        found = await host.keys.describe(host.identity, NAME)
        assert (found.version, found.created_at, found.created_by) == (2, after.created_at, host.admin)
        assert [each.version for each in await host.keys.versions(host.identity, NAME)] == [1, 2]
        assert await host.keys.decrypt(host.identity, NAME, before.ciphertext) == b"text"
        await host.delete_key(NAME)
        await host.create_key(NAME)
        assert (await host.keys.describe(host.identity, NAME)).created_at > found.created_at

    on(tmp_path, work)


def test_each_failure_has_its_error_and_its_record(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        me, keys = host.identity, host.keys
        sealed = (await keys.encrypt(me, NAME, b"text")).ciphertext
        await host.create_key("off")
        await host.disable_key("off")
        calls: dict[Coroutine[Any, Any, object], tuple[type[KeyUseError], int, str]] = {
            keys.encrypt(me, "none", b""): (UnknownKeyError, 404, "key does not exist"),
            keys.encrypt("7f" * 32, NAME, b""): (KeyUseDeniedError, 403, "not authorized: insufficient permissions"),
            keys.decrypt(me, NAME, sealed[:-1]): (NotAuthenticError, 400, "decryption failed: ciphertext is not"),
            keys.decrypt(me, NAME, b""): (NotAuthenticError, 400, "decryption failed: ciphertext is not"),
            keys.encrypt(me, "off", b""): (UnusableKeyError, 409, "key is disabled"),
            keys.encrypt(me, "a/b", b""): (InvalidKeyUseError, 400, "key name 'a/b' is empty, too long or"),
            keys.encrypt(me, "../delete/x", b""): (InvalidKeyUseError, 400, "key name '../delete/x' is empty"),
            keys.encrypt(me, "", b""): (InvalidKeyUseError, 400, "key name '' is empty"),
            keys.encrypt("", NAME, b""): (InvalidKeyUseError, 400, "the identity is not 64 hex digits"),
            keys.encrypt(me.upper(), NAME, b""): (InvalidKeyUseError, 400, "the identity is not 64 hex digits"),
            keys.encrypt(me, NAME, bytes(10**6 + 1)): (InvalidKeyUseError, 400, "more than 1000000 bytes"),
            keys.encrypt(me, NAME, "text"): (InvalidKeyUseError, 400, "is not bytes"),  # type: ignore[arg-type]
            keys.describe(me, None): (InvalidKeyUseError, 400, "is not text"),  # type: ignore[arg-type]
            keys.describe(me, NAME, address="nowhere"): (InvalidKeyUseError, 400, "is not an IP address"),
        }
        for call, (kind, status, message) in calls.items():
            failure = await failure_of(call)
            assert (type(failure), failure.status) == (kind, status)
            assert message in str(failure)
            assert host.records[-1]["response"]["code"] == status
            assert host.records[-1]["response"]["reason"]
        assert len(host.records) == 1 + len(calls)

    on(tmp_path, work)


def test_record_is_in_the_file_before_the_front_end_gets_the_result(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"

    async def work(host: FrontendHost) -> None:
        audit = await open_audit_log(config(tmp_path, audit={"file": {"path": str(file)}}), PLUGINS)
        host._app.server_state = dataclasses.replace(host._app.server_state, audit=audit)
        for number in range(1, 4):
            await host.keys.encrypt(host.identity, NAME, b"text")
            assert file.read_text().count("\n") == number
        await audit.close()

    on(tmp_path, work)


def test_record_is_that_of_a_request_with_the_front_end(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        await host.keys.describe(host.identity, NAME, address="192.0.2.7", request_id="uid \n17" + 200 * "x")
        record = host.records[-1]
        assert record["request"] == {
            "ip": "192.0.2.7",
            "path": f"/v1/key/describe/{NAME}",
            "identity": host.identity,
            "policy": "front-end",
            "frontend": "test",
            "id": "uid 17" + 91 * "x" + "...",
        }
        assert record["response"].keys() == {"code", "time"}
        await failure_of(host.keys.encrypt("not\nan identity", "x\ny" * 200, b"", address="a\nb"))
        request = host.records[-1]["request"]
        assert (request["identity"], request["ip"]) == ("", "")
        assert "\n" not in request["path"]
        assert len(request["path"]) < 200

    on(tmp_path, work)


def test_policies_decide_and_a_reload_counts_at_once(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        for _ in range(2):  # the second time it is remembered
            await host.keys.encrypt(host.identity, NAME, b"text")
        assert type(await failure_of(host.keys.describe(host.identity, NAME))) is KeyUseDeniedError
        reason = host.records[-1]["response"]["reason"]
        assert (
            reason == "policy: static: no allow rule of policy 'front-end' matches; the closest is '/v1/key/encrypt/*'"
        )
        await host.keys.describe(host.admin, NAME)
        await host.set_policy(allow=["/v1/key/describe/*"])
        await host.keys.describe(host.identity, NAME)
        assert type(await failure_of(host.keys.encrypt(host.identity, NAME, b"text"))) is KeyUseDeniedError

    on(tmp_path, work, allow=["/v1/key/encrypt/*"])


def test_outage_has_a_reason_and_tells_nothing_of_the_store(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        with host.outage():
            failure = await failure_of(host.keys.encrypt(host.identity, NAME, b"text"))
        assert isinstance(failure, KeysUnavailableError)
        assert (str(failure), failure.reason) == ("failed to read key", "unreachable")
        await host.keys.encrypt(host.identity, NAME, b"text")

    on(tmp_path, work)


def test_time_limit_and_cancellation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_arguments: object) -> Any:
        await asyncio.Event().wait()

    async def work(host: FrontendHost) -> None:
        monkeypatch.setattr(host._store, "get", hang)
        state = host._app.server_state
        object.__setattr__(state, "timeouts", {**state.timeouts, "/v1/key/encrypt/": 0.05})
        failure = await failure_of(host.keys.encrypt(host.identity, NAME, b"text"))
        assert (type(failure), str(failure)) == (KeyUseTimeoutError, "request timed out")
        assert host.records[-1]["response"]["code"] == 504
        call = asyncio.ensure_future(host.keys.decrypt(host.identity, NAME, b"text"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert host.records[-1]["response"]["code"] == 499
        monkeypatch.undo()
        await state.cache.close()

    on(tmp_path, work)


def test_fault_of_the_server_stays_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object) -> Any:
        raise ValueError("canary-2f6a")

    async def work(host: FrontendHost) -> None:
        monkeypatch.setattr(host._app.server_state.cache, "peek", fail)
        failure = await failure_of(host.keys.encrypt(host.identity, NAME, b"text"))
        assert (type(failure), str(failure), failure.status) == (KeyUseError, "internal server error", 500)
        assert host.records[-1]["response"]["code"] == 500

    on(tmp_path, work)
    assert "canary" not in caplog.text
    assert "internal error while serving '/v1/key/encrypt/my-key': ValueError" in caplog.text


def test_requests_are_counted(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        await host.keys.encrypt(host.identity, NAME, b"text")
        await failure_of(host.keys.encrypt(host.identity, "none", b"text"))
        await failure_of(host.keys.encrypt("7f" * 32, NAME, b"text"))
        numbers = host._app.metrics.snapshot()
        assert numbers["codes"] == {"200": 1, "404": 1}  # as over HTTP, a refused one does not count
        assert numbers["active"] == 0
        assert numbers["decisions"] == {"static allow": 2, "static abstain": 1}

    on(tmp_path, work)


def test_many_identities_take_limited_memory(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        for number in range(600):
            await failure_of(host.keys.encrypt(f"{number:064x}", NAME, b"text"))
        assert len(host.keys._clients) <= 256  # type: ignore[attr-defined]

    on(tmp_path, work)


def test_refusal_is_logged_with_the_front_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(host: FrontendHost) -> None:
        await failure_of(host.keys.encrypt(host.identity, NAME, b""))
        await failure_of(host.keys.encrypt(host.identity, NAME, b"", address="192.0.2.1"))

    caplog.set_level("INFO")
    on(tmp_path, work, allow=[])
    first, second = (line for line in caplog.messages if line.startswith("refused"))
    assert "at the front end 'test': policy: static: no allow rule of policy 'front-end' matches" in first
    assert "at 192.0.2.1: policy: " in second


def test_identity_of_a_tls_proxy_may_do_nothing(tmp_path: Path) -> None:
    async def work(host: FrontendHost) -> None:
        state = host._app.server_state
        object.__setattr__(state.access, "proxies", frozenset({host.identity}))
        assert type(await failure_of(host.keys.encrypt(host.identity, NAME, b""))) is KeyUseDeniedError
        assert host.records[-1]["response"]["reason"] == "certificate: the identity is that of a TLS proxy"

    on(tmp_path, work)


def test_policy_engine_gets_the_facts_of_a_request(tmp_path: Path) -> None:
    seen: list[PolicyRequest] = []

    class Watcher(PolicyEngine):
        async def authorize(self, request: PolicyRequest) -> Verdict:
            seen.append(request)
            return Verdict(Decision.ALLOW, "all is fine")

    async def work(host: FrontendHost) -> None:
        object.__setattr__(host._app.server_state.access, "engines", (("watcher", Watcher()),))
        await host.keys.encrypt(host.identity, NAME, b"", address="192.0.2.1")
        await host.keys.encrypt(host.identity, NAME, b"")
        assert host.records[-1]["request"]["ip"] == ""

    on(tmp_path, work)
    first, second = seen
    assert (first.identity, first.method, first.path) == (second.identity, "PUT", "/v1/key/encrypt/my-key")
    assert (first.api, first.resource) == ("/v1/key/encrypt/", "my-key")
    # Engines that read the address get one, which no rule for a network or for this machine matches.
    assert (first.remote_address, second.remote_address) == ("192.0.2.1", "0.0.0.0")

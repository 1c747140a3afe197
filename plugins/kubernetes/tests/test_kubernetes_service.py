"""The methods of KMS v2: what they answer, what they refuse, and how health follows the key."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kes_core import (
    FrontendError,
    InvalidKeyUseError,
    KeysThrottledError,
    KeyStoreReason,
    KeysUnavailableError,
    KeyUseDeniedError,
    KeyUseError,
    KeyUseTimeoutError,
    NotAuthenticError,
    UnknownKeyError,
    UnusableKeyError,
)
from kes_kubernetes import kms_v2_pb2 as pb
from tests.helpers.kms import IDENTITY

Run = Callable[..., Any]
FIRST = "my-key/v1/2026-11-26T08:15:30.123456Z"


def test_status_names_the_version_that_encrypts(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        assert client.status() == pb.StatusResponse(version="v2", healthz="ok", key_id=FIRST)
        running.keys.rotate()
        assert client.status().key_id == FIRST.replace("v1", "v2")
        assert client.encrypt(b"x").key_id == FIRST.replace("v1", "v2")


def test_each_version_decrypts_its_own(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        old = client.encrypt(bytes(32))
        running.keys.rotate()
        new = client.encrypt(bytes(32))
        for sealed in (old, new):
            assert client.decrypt(sealed.ciphertext, sealed.key_id) == bytes(32)
        assert (len(old.ciphertext), dict(old.annotations)) == (76, {})


def test_calls_are_made_in_the_name_of_the_identity_with_the_uid_of_kubernetes(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        sealed = client.encrypt(b"x", uid="uid-1")
        client.decrypt(sealed.ciphertext, sealed.key_id, uid="uid-2")
        client.status()
    made = [("encrypt", "uid-1"), ("decrypt", "uid-2"), ("encrypt", "status"), ("decrypt", "status")]
    assert running.keys.calls == [(method, IDENTITY, "my-key", uid) for method, uid in made]


def test_ciphertext_of_another_use_of_the_key_is_refused(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        foreign = running.keys.key.encrypt(b"for another purpose")
        code, text = client.error("decrypt", foreign, FIRST)
    assert (code, text) == ("INVALID_ARGUMENT", "key 'my-key': decryption failed: ciphertext is not authentic")


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"key_id": "other/v1/2026-11-26T08:15:30.123456Z"}, "NOT_FOUND", "is of the key 'other', which is neither"),
        ({"key_id": "my-key"}, "INVALID_ARGUMENT", "the key_id is not one of this plugin"),
        ({"key_id": ""}, "INVALID_ARGUMENT", "the key_id is not one of this plugin"),
        ({"key_id": FIRST + "\n"}, "INVALID_ARGUMENT", "the key_id is not one of this plugin"),
        ({"ciphertext": b""}, "INVALID_ARGUMENT", "a ciphertext has 1 to 1024 bytes"),
        ({"ciphertext": bytes(1025)}, "INVALID_ARGUMENT", "a ciphertext has 1 to 1024 bytes"),
        ({"ciphertext": bytes(1024)}, "INVALID_ARGUMENT", "ciphertext is not authentic"),
        ({"a.example.com": b"x"}, "INVALID_ARGUMENT", "this plugin makes none"),
    ],
)
def test_object_that_is_not_of_this_plugin_is_refused(
    change: dict[str, Any], code: str, text: str, run_frontend: Run
) -> None:
    with run_frontend() as (_running, client):
        sealed = client.encrypt(bytes(32))
        found = client.error("decrypt", **{"ciphertext": sealed.ciphertext, "key_id": sealed.key_id} | change)
    assert found[0] == code
    assert text in found[1]


def test_former_key_decrypts(run_frontend: Run) -> None:
    with run_frontend(old_keys=["former"]) as (running, client):
        sealed = client.encrypt(bytes(32))
        running.keys.calls.clear()
        assert client.decrypt(sealed.ciphertext, sealed.key_id.replace("my-key", "former")) == bytes(32)
        assert [name for _method, _identity, name, _uid in running.keys.calls] == ["former"]


def test_key_that_was_made_again_is_named(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        sealed = client.encrypt(bytes(32))
        running.keys.replace()
        assert client.status().key_id == "my-key/v1/2026-11-27T08:15:30.123456Z"
        code, text = client.error("decrypt", sealed.ciphertext, sealed.key_id)
    assert code == "NOT_FOUND"
    assert text == (
        "the key 'my-key' of 2026-11-26T08:15:30.123456Z is gone; the present one is of 2026-11-27T08:15:30.123456Z"
    )


def test_every_ciphertext_is_short_enough_for_the_api_server(run_frontend: Run) -> None:
    with run_frontend(key="k" * 80) as (_running, client):
        for size in (1, 32, 512):
            sealed = client.encrypt(bytes(size))
            assert len(sealed.ciphertext) <= 1024
            assert len(sealed.key_id) <= 114
            assert client.decrypt(sealed.ciphertext, sealed.key_id) == bytes(size)
        for size in (0, 513):
            assert client.error("encrypt", bytes(size)) == ("INVALID_ARGUMENT", "a plaintext has 1 to 512 bytes")


def test_requests_that_are_not_valid_are_refused(run_frontend: Run) -> None:
    with run_frontend() as (_running, client):
        assert client.error("call", "Decrypt", b"\xff\xff") == ("INVALID_ARGUMENT", "the request is not valid")
        invalid_text = b"\x12\x01\xff"  # the uid, which is not UTF-8
        assert client.error("call", "Encrypt", invalid_text) == ("INVALID_ARGUMENT", "the request is not valid")
        code, _text = client.error("encrypt", bytes(70_000))
        assert code == "RESOURCE_EXHAUSTED"
        assert client.status().healthz == "ok"


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (InvalidKeyUseError("invalid name"), "INVALID_ARGUMENT", "invalid name"),
        (KeyUseDeniedError("not authorized"), "PERMISSION_DENIED", "not authorized"),
        (UnknownKeyError("key does not exist"), "NOT_FOUND", "key does not exist"),
        (UnusableKeyError("key is disabled"), "FAILED_PRECONDITION", "key is disabled"),
        (NotAuthenticError("not authentic"), "INVALID_ARGUMENT", "not authentic"),
        (KeyUseTimeoutError("request timed out"), "DEADLINE_EXCEEDED", "request timed out"),
        (KeysThrottledError("failed to read key"), "RESOURCE_EXHAUSTED", "failed to read key"),
        (
            KeysUnavailableError("failed to read key", reason=KeyStoreReason.UNREACHABLE),
            "UNAVAILABLE",
            "failed to read key (unreachable)",
        ),
        (KeyUseError("new"), "INTERNAL", "new"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_failure_has_its_code(fault: KeyUseError, code: str, text: str, run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        running.keys.fault = fault
        for call in (("encrypt", b"x"), ("decrypt", b"x", FIRST)):
            assert client.error(*call) == (code, f"key 'my-key': {text}")


def test_unexpected_error_shows_nothing(run_frontend: Run, caplog: pytest.LogCaptureFixture) -> None:
    with run_frontend() as (running, client):
        running.keys.fault = RuntimeError("a key in a text")
        assert client.error("encrypt", b"x") == ("INTERNAL", "internal error")
        assert client.error("status") == ("INTERNAL", "internal error")
    assert "a key in a text" not in caplog.text
    assert "internal error: RuntimeError in EncryptRequest" in caplog.messages


def test_temporary_failure_keeps_the_key_id_and_a_refusal_does_not(run_frontend: Run) -> None:
    unreachable = KeysUnavailableError("failed to read key", reason=KeyStoreReason.UNREACHABLE)
    with run_frontend() as (running, client):
        running.keys.fault = unreachable
        assert client.error("status")[0] == "UNAVAILABLE"  # the key_id is not known yet
        running.keys.fault = None
        assert client.status().healthz == "ok"
        running.keys.fault = unreachable
        text = "key 'my-key': failed to read key (unreachable)"
        assert client.status() == pb.StatusResponse(version="v2", healthz=text, key_id=FIRST)
        running.keys.fault = UnusableKeyError("key is disabled")
        assert client.error("status") == ("FAILED_PRECONDITION", "key 'my-key': key is disabled")
        running.keys.fault = None
        assert client.status().healthz == "ok"


def test_changes_of_health_are_logged_once(run_frontend: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with run_frontend() as (running, client):
        for fault in (None, KeyUseDeniedError("not authorized"), None):
            running.keys.fault = fault
            for _ in range(3):
                if fault is None:
                    client.status()
                else:
                    client.error("status")
    health = [message for message in caplog.messages if "healthy" in message]
    assert health == ["the plugin is not healthy: key 'my-key': not authorized", "the plugin is healthy again"]


def test_readiness_of_the_server(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        running.keys.fault = UnknownKeyError("key does not exist")
        with pytest.raises(FrontendError, match=re.escape("key 'my-key': key does not exist")):
            running.run(running.frontend.ready())
        running.keys.fault = None
        running.run(running.frontend.ready())
        asked = len(running.keys.calls)
        running.run(running.frontend.ready())
        assert len(running.keys.calls) == asked, "a health check that has just succeeded is good enough"
        running.keys.fault = UnknownKeyError("key does not exist")
        client.error("status")
        with pytest.raises(FrontendError):
            running.run(running.frontend.ready())


def test_call_ends_with_its_deadline(run_frontend: Run) -> None:
    with run_frontend() as (running, client):
        running.keys.blocks = asyncio.Event()
        assert client.error("encrypt", b"x", timeout=0.2)[0] == "DEADLINE_EXCEEDED"
        running.keys.blocks = None
        assert client.status().healthz == "ok"


def test_many_calls_at_once(run_frontend: Run) -> None:
    with run_frontend() as (_running, client), ThreadPoolExecutor(32) as pool:
        sealed = list(pool.map(client.encrypt, [b"%d" % number for number in range(1, 500)]))
        opened = pool.map(lambda one: client.decrypt(one.ciphertext, one.key_id), sealed)
        assert list(opened) == [b"%d" % number for number in range(1, 500)]


def test_stop_finishes_calls_under_way(run_frontend: Run) -> None:
    with run_frontend() as (running, client), ThreadPoolExecutor() as pool:
        running.keys.blocks = asyncio.Event()
        waiting = pool.submit(client.encrypt, b"x")
        while not running.keys.calls:
            pass
        stopping = pool.submit(running.run, running.frontend.stop())
        while running.socket.exists():
            pass
        running.run(_set(running.keys.blocks))
        assert waiting.result().key_id == FIRST
        stopping.result()


async def _set(event: asyncio.Event) -> None:
    event.set()

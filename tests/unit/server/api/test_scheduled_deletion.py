"""The API of scheduled deletion, and what the server logs and counts, through the whole server but the network."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.client import APIError, Client, KeyDisabledError, KeyExistsError, KeyNotFoundError
from kes_core.config import CacheExpiry
from kes_core.config.sections import DeletionSettings
from kes_core.keys.cache import KeyCache
from kes_core.keys.deletion import planned
from kes_core.keys.stored import KeyVersion
from kes_core.server.deletion import DeletionWatch
from kes_core.server.exposition import exposition
from kes_core.server.metrics import Metrics
from kes_core.testing import FakeServer
from tests.helpers.shared_store import set_condition

USER = "ab" * 32
DAY = 86400


@pytest.fixture
def server() -> Iterator[FakeServer]:
    policies = {"user": {"allow": ["/v1/key/schedule-delete/*"], "deny": [], "identities": [USER]}}
    fake = FakeServer(keys=["k"], policies=policies)
    settings = DeletionSettings(scheduled=True, delay=2.0 * DAY)
    fake._thread._config = fake._thread._config.model_copy(update={"deletion": settings})
    with fake as running:
        yield running


def test_scheduled_key_is_refused_for_every_use_until_it_is_undeleted(client: Client, http: httpx.Client) -> None:
    sealed = client.encrypt("k", b"text")
    before = datetime.now(UTC)
    delete_at = client.schedule_key_deletion("k", after=timedelta(days=7))
    assert before + timedelta(days=7) <= delete_at <= datetime.now(UTC) + timedelta(days=7, seconds=1)
    for route in ("generate", "encrypt", "decrypt", "hmac", "rewrap", "rotate", "disable", "enable"):
        answer = http.put(f"/v1/key/{route}/k", json={})
        assert (answer.status_code, answer.json()) == (409, {"message": "key is scheduled for deletion"}), route
    for route in ("generate", "encrypt", "decrypt", "rewrap"):
        answer = http.put(f"/v1/key/bulk/{route}/k", json=[{}])
        assert (answer.status_code, answer.json()) == (409, {"message": "key is scheduled for deletion"}), route
    with pytest.raises(KeyDisabledError):
        client.decrypt("k", sealed)
    with pytest.raises(KeyExistsError):
        client.create_key("k")
    found = client.describe_key("k")
    assert (found.state, found.delete_at) == ("scheduled-for-deletion", delete_at)
    versions = http.get("/v1/key/versions/k").json()
    assert versions["state"] == "scheduled-for-deletion"
    assert datetime.fromisoformat(versions["delete_at"]) == delete_at
    client.undelete_key("k")
    assert client.decrypt("k", sealed) == b"text"
    assert http.get("/v1/key/describe/k").json().keys() == {"name", "algorithm", "created_at", "created_by"}
    client.undelete_key("k")  # nothing to do


def test_time_is_the_servers_unless_the_client_wants_a_longer_one(client: Client) -> None:
    assert client.schedule_key_deletion("k") - datetime.now(UTC) > timedelta(days=1.9)
    with pytest.raises(APIError, match="this server deletes keys after 48h or later") as refused:
        client.schedule_key_deletion("k", after=timedelta(days=1))
    assert refused.value.status == 400
    assert client.schedule_key_deletion("k", after=timedelta(days=30)) - datetime.now(UTC) > timedelta(days=29)


def test_client_that_may_only_schedule_neither_deletes_nor_undeletes(server: FakeServer) -> None:
    with httpx.Client(transport=server.transport(USER), base_url="https://server") as user:
        assert user.put("/v1/key/schedule-delete/k").status_code == 200
        assert user.put("/v1/key/undelete/k").status_code == 403
        assert user.delete("/v1/key/delete/k").status_code == 403


def test_plain_deletion_is_as_before(client: Client) -> None:
    client.delete_key("k")
    with pytest.raises(KeyNotFoundError):
        client.describe_key("k")
    with pytest.raises(KeyNotFoundError):
        client.schedule_key_deletion("k")
    with pytest.raises(KeyNotFoundError):
        client.undelete_key("k")


@pytest.mark.parametrize("body", [[], 1, {"in": "7d"}, {"in": -1}, {"in": True}, {"in": 1e12}])
def test_bodies_that_are_refused(http: httpx.Client, body: Any) -> None:
    answer = http.put("/v1/key/schedule-delete/k", json=body)
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})
    assert "state" not in http.get("/v1/key/describe/k").json()


def test_server_without_the_setting_schedules_nothing() -> None:
    with FakeServer(keys=["k"]) as plain, Client(transport=plain.transport()) as client:
        with pytest.raises(APIError, match="this server does not schedule deletions") as refused:
            client.schedule_key_deletion("k")
        assert refused.value.status == 409
        assert client.describe_key("k").state == "enabled"


def test_what_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = KeyCache(MemoryKeyStore(), CacheExpiry())
    metrics = Metrics()
    watch = DeletionWatch(metrics)

    def lines() -> set[str]:
        text = exposition(metrics.snapshot(), metrics).decode()
        return {line for line in text.splitlines() if line.startswith(("kes_keys_", "kes_key_next_"))}

    async def check() -> None:
        assert lines() == set()
        await cache.create("k", KeyVersion.generate("me"))
        await watch.check(cache)
        assert lines() == {"kes_keys_scheduled_for_deletion 0.0"}
        await set_condition(cache, planned(4_000_000_000))
        await watch.check(cache)
        await watch.check(cache)
        assert lines() == {
            "kes_keys_scheduled_for_deletion 1.0",
            "kes_key_next_deletion_timestamp_seconds 4e+09",
        }
        assert caplog.messages == [
            "keys are scheduled for deletion: 'k' at 2096-10-02T07:06:40Z; `kes key undelete` keeps a key"
        ]
        caplog.clear()
        await set_condition(cache, planned(int(time.time())))
        await watch.check(cache)
        assert caplog.messages == ["key 'k' is deleted, as me has scheduled it"]
        assert lines() == {"kes_keys_scheduled_for_deletion 0.0"}
        assert (await cache.list()).names == []

    asyncio.run(check())

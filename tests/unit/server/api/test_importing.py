"""The API of imported keys, plain and wrapped, through the whole server but the network."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from os import urandom
from typing import Any

import httpx
import pytest

from kes_core.client import (
    APIError,
    Client,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStoreUnavailableError,
    UnsupportedKeyError,
    WrappingKeyUnknownError,
)
from kes_core.keys.wrapping import wrap
from kes_core.keystore import KeyStoreUnreachableError
from kes_core.testing import FakeServer
from tests.helpers.wrapping import VECTORS, entry, wrapping_key

USER, IMPORTER = "ab" * 32, "cd" * 32
KEY = base64.b64decode(VECTORS["key"])
CURRENT, EXPIRED = wrapping_key(0), wrapping_key(1)
REFUSAL = "the key can't be unwrapped: it was wrapped in another way or for another wrapping key, or changed"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def store_of(server: FakeServer) -> Any:
    return server._thread._app.server_state.cache.store


@pytest.fixture
def server() -> Iterator[FakeServer]:
    policies = {
        "user": {"allow": ["/v1/key/create/*", "/v1/key/rotate/*"], "deny": [], "identities": [USER]},
        "importer": {"allow": ["/v1/key/import/*", "/v1/key/wrapping-key"], "deny": [], "identities": [IMPORTER]},
    }
    with FakeServer(keys=["k"], policies=policies) as running:
        for number, days_left in ((0, 10), (1, -1)):
            created = store_of(running).create(*entry(number, days_left=days_left))
            running._thread.submit(created).result()
        yield running


def put(http: httpx.Client, route: str, **body: Any) -> tuple[int, str]:
    """Send a body; return the status and the message of the answer."""
    answer = http.put(f"/v1/key/{route}", json=body)
    return answer.status_code, answer.json()["message"] if answer.status_code != 200 else ""


def test_wrapped_key_is_the_same_key_as_the_plain_one(client: Client) -> None:
    found = client.wrapping_key()
    assert (found.id, found.public_key) == (CURRENT.id, CURRENT.public_key)
    assert found.algorithm == "RSA-4096-OAEP-SHA256+AES-256-KWP"
    assert timedelta(days=7) < found.expires_at - datetime.now(UTC) <= timedelta(days=10)
    for cipher in ("AES256", "ChaCha20"):
        client.import_key(f"plain-{cipher}", KEY, cipher)
        client.import_wrapped_key(f"wrapped-{cipher}", found.wrap(KEY), found.id, cipher)
        sealed = client.encrypt(f"wrapped-{cipher}", b"text", b"context")
        assert client.decrypt(f"plain-{cipher}", sealed, b"context") == b"text"
        assert client.describe_key(f"wrapped-{cipher}").algorithm == cipher
        assert len(client.hmac(f"wrapped-{cipher}", b"text")) == 32
    with pytest.raises(KeyExistsError):
        client.import_wrapped_key("k", found.wrap(KEY), found.id)


@pytest.mark.parametrize("case", VECTORS["accepted"], ids=lambda case: case["made_by"])
def test_key_that_another_program_wrapped_is_imported(client: Client, case: dict[str, Any]) -> None:
    client.import_key("plain", KEY)
    client.import_wrapped_key("wrapped", base64.b64decode(case["wrapped_key"]), CURRENT.id)
    assert client.decrypt("plain", client.encrypt("wrapped", b"text")) == b"text"


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_given_key_becomes_the_newest_version(
    client: Client, is_wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    old = client.encrypt("k", b"old")
    code = client.hmac("k", b"message")
    found = client.wrapping_key()
    arguments: dict[str, Any] = {"wrapping_key": found.id} if is_wrapped else {}
    with caplog.at_level(logging.INFO):
        done = client.import_key_version("k", found.wrap(KEY) if is_wrapped else KEY, **arguments)
    assert (done.version, done.is_rotated) == (2, True)
    assert "key 'k' has a new version, which was imported: 2" in caplog.text
    new = client.encrypt("k", b"new")
    assert new[-28:-24] == b"\0\0\0\2"
    assert [client.decrypt("k", each) for each in (old, new)] == [b"old", b"new"]
    assert client.hmac("k", b"message") == code
    # The given key, and no other one, is version 2: as version 2 of another key it opens the ciphertext too.
    client.create_key("other")
    client.import_key_version("other", KEY, cipher=client.describe_key("k").algorithm)
    assert client.decrypt("other", new) == b"new"
    assert client.rotate_key("k").version == 3
    assert [each.version for each in client.key_versions("k")] == [1, 2, 3]
    assert client.decrypt("k", new) == b"new"


def test_version_keeps_the_cipher_of_the_key_unless_it_names_one(client: Client) -> None:
    client.import_key("c", urandom(32), "ChaCha20")
    client.import_key_version("c", urandom(32))
    sealed = [client.encrypt("c", b"text")]
    client.import_key_version("c", urandom(32), cipher="AES256")
    sealed.append(client.encrypt("c", b"text"))
    assert [each.algorithm for each in client.key_versions("c")] == ["ChaCha20", "ChaCha20", "AES256"]
    assert [client.decrypt("c", each) for each in sealed] == [b"text", b"text"]


def test_repeated_import_of_a_version_adds_nothing(client: Client) -> None:
    client.import_key("twice", KEY)
    for _ in range(2):
        with pytest.raises(APIError, match="version 1 of the key has this key material already") as caught:
            client.import_key_version("twice", KEY)
        assert caught.value.status == 409
    client.import_key_version("twice", bytes(32))
    client.rotate_key("twice")
    with pytest.raises(APIError, match="version 2 of the key has"):
        client.import_key_version("twice", bytes(32))
    assert len(client.key_versions("twice")) == 3


def test_version_of_a_key_that_is_not_there_or_is_disabled(client: Client) -> None:
    with pytest.raises(KeyNotFoundError):
        client.import_key_version("nowhere", KEY)
    client.disable_key("k")
    assert client.import_key_version("k", KEY).version == 2  # as a rotation
    with pytest.raises(KeyDisabledError):
        client.encrypt("k", b"text")


@pytest.mark.parametrize("route", ["import/new", "import-version/k"])
def test_refused_wrapped_keys(http: httpx.Client, route: str) -> None:
    public = CURRENT.private_key.public_key()

    def refusal(wrapped: bytes, wrapping_key: Any = CURRENT.id, **more: Any) -> tuple[int, str]:
        return put(http, route, wrapped_key=b64(wrapped), wrapping_key=wrapping_key, **{"cipher": "AES256", **more})

    for case in VECTORS["refused"]:
        assert refusal(base64.b64decode(case["wrapped_key"])) == (400, REFUSAL), case["fault"]
    unknown = (400, "there is no wrapping key of this id, or it has expired")
    assert refusal(wrap(EXPIRED.private_key.public_key(), KEY), EXPIRED.id) == unknown
    for wrong in ("", None, "0" * 64, "k", "../k", CURRENT.id.upper(), CURRENT.id + "-"):
        assert refusal(wrap(public, KEY), wrong) == unknown
    for size in (25, 31):
        assert refusal(wrap(public, bytes(size))) == (400, f"a key has 32 bytes, the one that was wrapped has {size}")
    for size in (16, 24, 33, 64):
        wrapped = wrap(public, bytes(size))
        assert refusal(wrapped) == (400, f"a wrapped key has 552 bytes, this one has {len(wrapped)}")
    assert refusal(KEY) == (400, "a wrapped key has 552 bytes, this one has 32")
    invalid = (400, "invalid import key request body")
    assert refusal(wrap(public, KEY), 7) == invalid
    assert refusal(wrap(public, KEY), key=b64(KEY)) == invalid
    assert put(http, route, wrapped_key="no base64", wrapping_key=CURRENT.id, cipher="AES256") == invalid
    assert put(http, route, wrapped_key=7, wrapping_key=CURRENT.id, cipher="AES256") == invalid
    assert refusal(wrap(public, KEY), cipher="DES") == (406, "algorithm 'DES' is not supported")
    assert refusal(wrap(public, KEY), cipher=7) == invalid
    assert http.get("/v1/key/describe/new").status_code == 404
    assert "version" not in http.get("/v1/key/describe/k").json()


def test_refused_plain_keys(http: httpx.Client, client: Client) -> None:
    assert put(http, "import/new", key=b64(KEY)) == (406, "algorithm '' is not supported")
    assert put(http, "import/new", key=b64(b"short"), cipher="AES256") == (406, "invalid key size for 'AES256'")
    assert put(http, "import-version/k", key=b64(b"short"), cipher="AES256") == (406, "invalid key size for 'AES256'")
    assert put(http, "import-version/k", key=b64(b"short")) == (406, "invalid key size for 'k'")
    for body in (b"", b"[]", b"7", b'"text"'):
        assert http.put("/v1/key/import-version/k", content=body).status_code == 400, body
    assert http.put("/v1/key/import-version/k", content=b"null").status_code == 406
    with pytest.raises(UnsupportedKeyError):
        client.import_key_version("k", b"short")


def test_clients_without_permission_are_refused(server: FakeServer) -> None:
    found = wrapping_key(0)
    body = {"wrapped_key": b64(wrap(found.private_key.public_key(), KEY)), "wrapping_key": found.id, "cipher": "AES256"}
    with httpx.Client(transport=server.transport(USER), base_url="https://server") as user:
        assert user.get("/v1/key/wrapping-key").status_code == 403
        assert user.put("/v1/key/import/mine", json=body).status_code == 403
        assert user.put("/v1/key/import-version/k", json=body).status_code == 403
    with httpx.Client(transport=server.transport(IMPORTER), base_url="https://server") as importer:
        assert importer.get("/v1/key/wrapping-key").json()["id"] == found.id
        assert importer.put("/v1/key/import-version/k", json=body).status_code == 403
        assert importer.put("/v1/key/import/mine", json=body).status_code == 200


def test_wrapping_keys_are_neither_listed_nor_reachable_as_keys(client: Client, http: httpx.Client) -> None:
    assert list(client.list_keys()) == ["k"]
    assert list(client.list_keys("kes-wrapping-key-*")) == []
    name, _value = entry(0)
    for method, operation in (("GET", "describe"), ("PUT", "encrypt"), ("DELETE", "delete"), ("PUT", "create")):
        assert http.request(method, f"/v1/key/{operation}/{name}", json={}).status_code == 400


def test_answer_has_no_private_key(http: httpx.Client) -> None:
    answer = http.get("/v1/key/wrapping-key")
    assert set(answer.json()) == {"id", "public_key", "algorithm", "created_at", "created_by", "expires_at"}
    assert "PRIVATE" not in answer.text


def test_unreachable_key_store(server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_arguments: Any, **_more: Any) -> Any:
        raise KeyStoreUnreachableError("cut off")

    for call in ("get", "list"):
        monkeypatch.setattr(store_of(server)._store, call, fail)
    calls: list[Callable[[], Any]] = [
        client.wrapping_key,
        lambda: client.import_wrapped_key("new", b"x" * 552, CURRENT.id),
    ]
    for call_it in calls:
        with pytest.raises(KeyStoreUnavailableError, match="failed to read wrapping key"):
            call_it()


def test_program_that_wrapped_for_an_expired_key_learns_it(client: Client) -> None:
    with pytest.raises(WrappingKeyUnknownError):
        client.import_wrapped_key("new", wrap(EXPIRED.private_key.public_key(), KEY), EXPIRED.id)

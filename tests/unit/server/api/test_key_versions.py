"""The API of key versions: what clients send and get, through the whole server but the network."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from kes_core.client import (
    APIError,
    Client,
    DecryptionError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyRotationConflictError,
)
from kes_core.keys.changes import rotate_key
from kes_core.keys.secret import hinted_version
from kes_core.testing import FakeServer

USER = "ab" * 32


@pytest.fixture
def server() -> Iterator[FakeServer]:
    policies = {"user": {"allow": ["/v1/key/generate/*", "/v1/key/rewrap/*"], "deny": [], "identities": [USER]}}
    with FakeServer(keys=["k"], policies=policies) as running:
        yield running


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_answers_for_a_key_that_was_never_rotated_are_as_before(http: httpx.Client) -> None:
    assert set(http.put("/v1/key/generate/k").json()) == {"plaintext", "ciphertext"}
    assert set(http.put("/v1/key/encrypt/k", json={}).json()) == {"ciphertext"}
    assert set(http.get("/v1/key/describe/k").json()) == {"name", "algorithm", "created_at", "created_by"}
    ciphertexts = [base64.b64decode(http.put("/v1/key/generate/k").json()["ciphertext"]) for _ in range(20)]
    assert len({ciphertext[-28:-24] for ciphertext in ciphertexts}) == 20  # random: no hint


def test_answers_for_a_rotated_key_name_its_version_as_text(http: httpx.Client) -> None:
    rotated = http.put("/v1/key/rotate/k").json()
    assert (rotated["version"], rotated["rotated"]) == ("2", True)
    assert http.put("/v1/key/generate/k", json={"version": "1"}).json()["version"] == "2"  # a request's is ignored
    assert http.put("/v1/key/encrypt/k", json={}).json()["version"] == "2"
    described = http.get("/v1/key/describe/k").json()
    versions = http.get("/v1/key/versions/k").json()
    assert (described["version"], versions["name"]) == ("2", "k")
    assert [version["version"] for version in versions["versions"]] == ["1", "2"]
    assert versions["versions"][0]["created_at"] == described["created_at"]
    assert versions["versions"][1]["created_at"] == rotated["created_at"]


def test_everything_decrypts_after_rotations(client: Client) -> None:
    made = []
    codes = {client.hmac("k", b"message")}
    for version in range(1, 6):
        key = client.generate_data_key("k", b"context")
        assert key.version == version
        made.append((key.ciphertext, key.plaintext))
        made.append((client.encrypt("k", b"text", b"context"), b"text"))
        assert client.rotate_key("k").version == version + 1
        codes.add(client.hmac("k", b"message"))
        for ciphertext, plaintext in made:
            assert client.decrypt("k", ciphertext, b"context") == plaintext
    items = [(ciphertext, b"context") for ciphertext, _plaintext in made]
    assert client.decrypt_all("k", items) == [plaintext for _ciphertext, plaintext in made]
    assert len(codes) == 1
    assert client.describe_key("k").version == 6
    assert [version.version for version in client.key_versions("k")] == [1, 2, 3, 4, 5, 6]
    assert list(client.list_keys()) == ["k"]


def test_rewrapped_ciphertext_has_the_newest_version_and_the_same_plaintext(client: Client) -> None:
    old = [client.encrypt("k", bytes([number]), b"c") for number in range(100)]
    client.rotate_key("k")
    new = [client.rewrap("k", old[0], b"c"), *client.rewrap_all("k", [(ciphertext, b"c") for ciphertext in old[1:]])]
    assert [hinted_version(ciphertext) for ciphertext in new] == [2] * 100
    assert client.decrypt_all("k", [(ciphertext, b"c") for ciphertext in new]) == [bytes([n]) for n in range(100)]
    with pytest.raises(DecryptionError):
        client.rewrap("k", old[0], b"another context")
    with pytest.raises(DecryptionError):
        client.rewrap_all("k", [(old[0], b"c"), (old[1], b"another context")])


def test_client_that_may_rewrap_gets_no_plaintext_and_may_not_rotate(server: FakeServer, http: httpx.Client) -> None:
    sealed = http.put("/v1/key/encrypt/k", json={"plaintext": b64(b"secret")}).json()["ciphertext"]
    with httpx.Client(transport=server.transport(USER), base_url="https://server") as user:
        answer = user.put("/v1/key/rewrap/k", json={"ciphertext": sealed})
        assert set(answer.json()) == {"ciphertext"}
        for method, path in (
            ("PUT", "rotate/k"),
            ("GET", "versions/k"),
            ("PUT", "bulk/rewrap/k"),
            ("PUT", "bulk/generate/k"),
            ("PUT", "bulk/encrypt/k"),
            ("PUT", "disable/k"),
            ("PUT", "enable/k"),
        ):
            assert user.request(method, f"/v1/key/{path}", json=[]).status_code == 403


def test_bulk_generate_and_encrypt(client: Client) -> None:
    contexts = [f"object-{number}".encode() for number in range(1000)]
    keys = client.generate_data_keys("k", contexts)
    assert len({key.plaintext for key in keys}) == 1000
    assert client.decrypt("k", keys[7].ciphertext, contexts[7]) == keys[7].plaintext
    sealed = client.encrypt_all("k", [(context, b"c") for context in contexts])
    assert client.decrypt_all("k", [(ciphertext, b"c") for ciphertext in sealed]) == contexts
    client.rotate_key("k")
    assert [key.version for key in client.generate_data_keys("k", [b"", b""])] == [2, 2]
    for call in (client.generate_data_keys, client.encrypt_all, client.rewrap_all):
        assert call("k", []) == []
    with pytest.raises(APIError, match="too many items"):
        client.generate_data_keys("k", [b""] * 1001)
    with pytest.raises(APIError, match="too many items"):
        client.encrypt_all("k", [(b"", b"")] * 1001)
    with pytest.raises(APIError, match="too many ciphertexts"):
        client.rewrap_all("k", [(b"", b"")] * 1001)


@pytest.mark.parametrize("route", ["bulk/generate", "bulk/encrypt", "bulk/rewrap"])
@pytest.mark.parametrize("body", [{}, "text", [1], [{"context": 1}], [{"context": "no base64"}], [None, "x"]])
def test_bulk_bodies_that_are_refused(http: httpx.Client, route: str, body: Any) -> None:
    answer = http.put(f"/v1/key/{route}/k", json=body)
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})


@pytest.mark.parametrize("body", [[], 1, {"if_older_than": "90d"}, {"if_older_than": -1}, {"if_older_than": True}])
def test_rotation_bodies_that_are_refused(http: httpx.Client, body: Any) -> None:
    answer = http.put("/v1/key/rotate/k", json=body)
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})
    assert "version" not in http.get("/v1/key/describe/k").json()


@pytest.mark.parametrize("body", [{"if_older_than": 1e999}, {"if_older_than": 10**30}])
def test_ages_without_sense_are_refused(http: httpx.Client, body: Any) -> None:
    content = '{"if_older_than": %s}' % ("1e999" if body["if_older_than"] == float("inf") else 10**30)
    assert http.put("/v1/key/rotate/k", content=content).status_code == 400


def test_young_key_is_not_rotated(client: Client) -> None:
    for _ in range(3):
        done = client.rotate_key("k", if_older_than=timedelta(days=90))
        assert (done.version, done.is_rotated) == (1, False)
    assert client.rotate_key("k", if_older_than=timedelta(0)).version == 2


def test_missing_key(client: Client) -> None:
    for call in (client.rotate_key, client.key_versions):
        with pytest.raises(KeyNotFoundError):
            call("missing")
    with pytest.raises(KeyNotFoundError):
        client.rewrap("missing", b"x" * 60)


def test_too_many_versions_is_a_clear_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kes_core.keys.changes.MAX_VERSIONS", 2)
    client.rotate_key("k")
    with pytest.raises(APIError, match="the key has 2 versions, which is the most") as caught:
        client.rotate_key("k")
    assert caught.value.status == 409
    assert not isinstance(caught.value, KeyRotationConflictError)


def test_name_of_a_version_reaches_no_api(http: httpx.Client) -> None:
    """Nobody reads, deletes or creates the entry of a version by its name."""
    http.put("/v1/key/rotate/k")
    name = "k-r2-0123456789abcdef-"
    for method, route in (("GET", "describe"), ("DELETE", "delete"), ("PUT", "create"), ("PUT", "generate")):
        answer = http.request(method, f"/v1/key/{route}/{name}")
        assert answer.status_code == 400
        assert "contains invalid characters" in answer.json()["message"]


def test_attackers_hint_costs_no_more_than_a_second(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """A hint that names an unknown version is answered like any other ciphertext that is not authentic."""
    caplog.set_level(logging.WARNING)
    http.put("/v1/key/rotate/k")
    for hint in (3, 1000):
        sealed = bytes(40) + hint.to_bytes(4, "big") + bytes(24)
        answer = http.put("/v1/key/decrypt/k", json={"ciphertext": b64(sealed)})
        assert (answer.status_code, answer.json()) == (
            400,
            {"message": "decryption failed: ciphertext is not authentic"},
        )
    assert not caplog.records


def test_disabled_key_is_refused_for_every_use_and_nothing_is_lost(client: Client, http: httpx.Client) -> None:
    sealed = client.encrypt("k", b"text")
    code = client.hmac("k", b"message")
    client.disable_key("k")
    bodies = {"ciphertext": b64(sealed)}
    for route in ("generate", "encrypt", "decrypt", "hmac", "rewrap"):
        answer = http.put(f"/v1/key/{route}/k", json=bodies)
        assert (answer.status_code, answer.json()) == (409, {"message": "key is disabled"}), route
    for route in ("generate", "encrypt", "decrypt", "rewrap"):
        answer = http.put(f"/v1/key/bulk/{route}/k", json=[bodies])
        assert (answer.status_code, answer.json()) == (409, {"message": "key is disabled"}), route
    assert client.describe_key("k").state == "disabled"
    assert list(client.list_keys()) == ["k"]
    assert client.rotate_key("k").version == 2
    with pytest.raises(KeyDisabledError):
        client.encrypt("k", b"text")
    client.enable_key("k")
    assert "state" not in http.get("/v1/key/describe/k").json()
    assert client.decrypt("k", sealed) == b"text"
    assert client.hmac("k", b"message") == code
    client.disable_key("k")
    client.delete_key("k")
    with pytest.raises(KeyNotFoundError):
        client.enable_key("k")


def test_key_that_only_decrypts(client: Client, http: httpx.Client) -> None:
    sealed = client.encrypt("k", b"text")
    client.disable_key("k", allow_decrypt=True)
    assert client.decrypt("k", sealed) == b"text"
    assert client.decrypt_all("k", [(sealed, b"")]) == [b"text"]
    assert client.hmac("k", b"message")
    for route in ("generate", "encrypt", "rewrap"):
        answer = http.put(f"/v1/key/{route}/k", json={"ciphertext": b64(sealed)})
        assert (answer.status_code, answer.json()) == (409, {"message": "key is disabled for encryption"}), route
    for route in ("generate", "encrypt", "rewrap"):
        answer = http.put(f"/v1/key/bulk/{route}/k", json=[{"ciphertext": b64(sealed)}])
        assert (answer.status_code, answer.json()) == (409, {"message": "key is disabled for encryption"}), route
    assert client.describe_key("k").state == "decrypt-only"


@pytest.mark.parametrize("body", [[], 1, {"allow_decrypt": "yes"}, {"allow_decrypt": 1}])
def test_bodies_to_disable_that_are_refused(http: httpx.Client, body: Any) -> None:
    answer = http.put("/v1/key/disable/k", json=body)
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})
    assert "state" not in http.get("/v1/key/describe/k").json()


def test_old_versions_do_not_decrypt_from_a_minimum_on(client: Client, http: httpx.Client) -> None:
    sealed = []
    for _ in range(4):
        sealed.append(client.encrypt("k", b"text", b"c"))
        client.rotate_key("k")
    code = client.hmac("k", b"message")
    client.set_min_decryption_version("k", 3)
    for old in sealed[:2]:
        with pytest.raises(KeyDisabledError, match="is of a version of the key that does not decrypt any more"):
            client.decrypt("k", old, b"c")
        with pytest.raises(KeyDisabledError):
            client.rewrap("k", old, b"c")
        with pytest.raises(KeyDisabledError):
            client.decrypt_all("k", [(sealed[3], b"c"), (old, b"c")])
        with pytest.raises(DecryptionError):  # nobody learns of a version by a ciphertext that is not authentic
            client.decrypt("k", old, b"another context")
    assert client.decrypt_all("k", [(new, b"c") for new in sealed[2:]]) == [b"text"] * 2
    assert client.hmac("k", b"message") == code
    client.disable_key("k")
    client.enable_key("k")
    client.rotate_key("k")
    described = client.describe_key("k")
    assert (described.version, described.min_decryption_version) == (6, 3)
    assert http.get("/v1/key/versions/k").json()["min_decryption_version"] == "3"
    client.set_min_decryption_version("k", 1)
    assert client.decrypt_all("k", [(each, b"c") for each in sealed]) == [b"text"] * 4
    assert "min_decryption_version" not in http.get("/v1/key/describe/k").json()


@pytest.mark.parametrize("version", [0, -1, 2, 1001, 2**40])
def test_minimum_is_a_version_of_the_key(client: Client, version: int) -> None:
    with pytest.raises(APIError, match=f"the key has no version {version}: its newest one is 1") as refused:
        client.set_min_decryption_version("k", version)
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [None, [], {}, {"version": "2"}, {"version": True}, {"version": 1.5}])
def test_bodies_with_a_minimum_that_are_refused(http: httpx.Client, body: Any) -> None:
    answer = http.put("/v1/key/min-version/k", json=body)
    assert (answer.status_code, answer.json()) == (400, {"message": "invalid request body"})


def test_hmac_of_a_later_version_only_for_whoever_names_it(client: Client, http: httpx.Client) -> None:
    first = client.hmac("k", b"message")
    client.rotate_key("k")
    codes = [client.hmac("k", b"message", version=version) for version in (1, 2)]
    client.rotate_key("k")
    assert [client.hmac("k", b"message", version=version) for version in (1, 2)] == codes
    assert codes[0] == first != codes[1]
    for version in ("2", 2):  # `version` is what some SDKs send with every request
        body = {"message": b64(b"message"), "version": version}
        assert http.put("/v1/key/hmac/k", json=body).json() == {"hmac": b64(first)}
    answer = http.put("/v1/key/hmac/k", json={"message": b64(b"message"), "HMAC_Version": 2})
    assert answer.json() == {"hmac": b64(codes[1])}


@pytest.mark.parametrize("version", [0, -1, 4, 1001, 10**12])
def test_hmac_of_a_version_that_is_not_there_is_refused(client: Client, version: int) -> None:
    client.rotate_key("k")
    with pytest.raises(APIError, match=r"the key has no version .*: its newest one is 2") as caught:
        client.hmac("k", b"message", version=version)
    assert caught.value.status == 400


@pytest.mark.parametrize("version", ["2", True, 1.0, [1], {}])
def test_hmac_version_that_is_not_a_number_is_refused(http: httpx.Client, version: object) -> None:
    answer = http.put("/v1/key/hmac/k", json={"hmac_version": version})
    assert (answer.status_code, answer.json()["message"]) == (400, "invalid request body")


def test_hmac_of_a_version_that_another_server_has_just_added(server: FakeServer, client: Client) -> None:
    async def rotate_elsewhere() -> None:
        await rotate_key(server._thread._app.server_state.cache.store, "k", "somebody")

    first = client.hmac("k", b"message")
    server._thread.submit(rotate_elsewhere()).result(timeout=30)
    assert client.hmac("k", b"message", version=2) != first

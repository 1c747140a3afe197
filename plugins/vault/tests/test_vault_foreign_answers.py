"""Answers from other programs than Vault, and credentials that can't be sent. The store recovers from all of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import PreparedRequest, Response

from kes_core import EntryNotFoundError, KeyStoreError, KeyStoreUnreachableError
from kes_vault.store import VaultKeyStore, connect
from kes_vault.transport import HEALTH, _is_of_vault
from tests.helpers.openbao import WIDE, OpenBao, Tenant, failure, run_store
from tests.helpers.proxy import Answer, Proxy

HTML: Final = b"<html><body>Not here.</body></html>"
JSON: Final = "application/json"
ANSWERS: Final = {
    "HTML 200": Answer(200, "text/html", HTML),
    "HTML 404": Answer(404, "text/html", HTML),
    "HTML 403": Answer(403, "text/html", HTML),
    "HTML 400": Answer(400, "text/html", HTML),
    "HTML 500": Answer(500, "text/html", HTML),
    "HTML said to be JSON": Answer(404, JSON, HTML),
    "truncated JSON": Answer(200, JSON, b'{"data": {"data": {"k": "'),
    "truncated JSON of an error": Answer(404, JSON, b'{"errors": ['),
    "JSON of another API, 404": Answer(404, JSON, b'{"message": "no such route"}'),
    "JSON of another API, 403": Answer(403, JSON, b'{"error": "forbidden"}'),
    "errors are not a list": Answer(404, JSON, b'{"errors": "none"}'),
    "errors are not text": Answer(404, JSON, b'{"errors": [{"code": 1}]}'),
    "list": Answer(404, JSON, b"[]"),
    "no object": Answer(200, JSON, b'"fine"'),
    "nested too deep": Answer(200, JSON, b"[" * 100_000),
    "nothing": Answer(404, "", b""),
    "empty success": Answer(200, "", b""),
    "wrong type": Answer(404, "text/plain", b'{"errors": []}'),
    "wrong type of a success": Answer(200, "text/html", b'{"data": {"keys": []}}'),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_answer_of_a_proxy_is_an_outage_that_passes(bao: OpenBao, version: str, answer: Answer) -> None:
    tenant = Tenant(bao, version, WIDE)

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        await store.create("k", b"v")
        proxy.fault = answer
        proxy.requests.clear()
        for call in (store.get("k"), store.get("new"), store.create("new", b"v"), store.delete("k"), store.list()):
            with pytest.raises(KeyStoreUnreachableError, match=r"does not answer like Vault \(status \d+, tried to"):
                await call
        with pytest.raises(KeyStoreUnreachableError):
            await store.status()
        assert proxy.count("POST", "/login") == 0
        proxy.fault = None
        assert await store.get("k") == b"v"
        with pytest.raises(EntryNotFoundError):
            await store.get("new")
        assert (await store.list()).names == ["k"]
        await store.status()
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


WRONG_SHAPES: Final = [
    {},
    {"data": None},
    {"data": []},
    {"data": "text"},
    {"data": {"keys": [1, None]}},
    {"data": {"data": [1], "metadata": {}}},
    {"data": {"data": {"k": "v"}, "metadata": "none"}},
    {"data": {"data": {"k": "v"}, "metadata": {"version": "latest", "deletion_time": ""}}},
]


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_answer_of_the_wrong_shape_is_an_error_of_the_store(bao: OpenBao, version: str, status: int) -> None:
    tenant = Tenant(bao, version, WIDE)

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        await store.create("k", b"v")
        for shape in WRONG_SHAPES:
            proxy.fault = Answer(status, JSON, json.dumps(shape).encode())
            for call in (store.get("k"), store.list()):
                with pytest.raises(KeyStoreError) as caught:
                    await call
                assert not isinstance(caught.value, EntryNotFoundError)
        proxy.fault = None
        assert await store.get("k") == b"v"
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_engine_that_is_gone_is_no_missing_key(bao: OpenBao, version: str) -> None:
    tenant = Tenant(bao, version, WIDE)

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        bao.root.sys.disable_secrets_engine(tenant.engine)
        for call in (store.get("k"), store.list(), store.delete("k")):
            with pytest.raises(KeyStoreError, match="no K/V engine is mounted at") as caught:
                await call
            assert not isinstance(caught.value, EntryNotFoundError)

    run_store(tenant.config(), check)


@pytest.mark.parametrize("index", ["garbled", "\xff\xfe", "two words", "x" * 5000, "", "a\r\n b"])
def test_garbled_index_costs_no_request(bao: OpenBao, index: str) -> None:
    """A proxy damages the header that tells a standby about our last write."""
    tenant = Tenant(bao, "v2")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        proxy.added = {"X-Vault-Index": index}
        await store.create("k", b"v")
        assert await store.get("k") == b"v"
        await store.create("other", b"v")
        proxy.added = {}
        assert (await store.list()).names == ["k", "other"]
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


@pytest.mark.parametrize("garbage", ["s.first\ns.second", "s.t\u00f6ken", "s.\u200btoken", "s.to ken", "s.\x00token"])
def test_token_that_cannot_be_sent_is_named_and_replaced(bao: OpenBao, tmp_path: Path, garbage: str) -> None:
    tenant = Tenant(bao, "v2")
    token_file = tmp_path / "token"
    section = {"approle": None, "token_file": str(token_file), "status": {"ping": "1s"}}

    def new_token() -> str:
        return str(bao.root.auth.token.create(policies=[tenant.role], ttl="1h")["auth"]["client_token"])

    token_file.write_text(garbage, encoding="utf-8")
    message = failure(tenant.config(**section))
    assert f"the token in '{token_file}' can't be sent" in message
    assert garbage not in message

    async def check(store: VaultKeyStore) -> None:
        await store.create("k", b"v")
        bao.root.auth.token.revoke(token_file.read_text())
        token_file.write_text(garbage, encoding="utf-8")
        with pytest.raises(KeyStoreError, match="can't be sent") as caught:
            await store.get("k")
        assert caught.value.reason == "forbidden"
        token_file.write_text(new_token())
        session = store._session
        session._wake.clear()
        while session._problem is not None:  # the session retries by itself
            await session._wake.wait()
        assert await store.get("k") == b"v"

    token_file.write_text(new_token())
    run_store(tenant.config(**section), check)


VALUES: Final = st.sampled_from([[], ["text"], [1], ["text", None], "text", {}, None, True, 0])
BODIES: Final = st.binary(max_size=20) | st.dictionaries(
    st.sampled_from(["errors", "error", "data", "sealed"]), VALUES
).map(lambda value: json.dumps(value).encode())


@given(st.integers(400, 599), BODIES)
def test_only_errors_in_the_form_of_vaults_count_as_its_errors(status: int, body: bytes) -> None:
    response = Response()
    response.status_code, response._content = status, body
    response.headers["Content-Type"] = JSON
    response.request = PreparedRequest()
    response.request.url = "https://vault:8200/v1/kv/data/k"
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    known = value if isinstance(value, dict) else {}
    errors = known.get("errors")
    if errors is None:
        expected = isinstance(known.get("data"), dict)
    else:
        expected = isinstance(errors, list) and all(isinstance(error, str) for error in errors)
    assert _is_of_vault(response) is expected
    response.request.url = f"https://vault:8200{HEALTH}"
    assert _is_of_vault(response) is (expected or "sealed" in known)

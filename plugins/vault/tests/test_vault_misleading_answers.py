"""What the Vault store makes of answers that are none of Vault's, or that mislead."""

from __future__ import annotations

import asyncio
import logging

import pytest

from kes_core import (
    EntryExistsError,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
)
from kes_vault.store import connect
from tests.helpers.openbao import KV2_POLICY, OpenBao, Tenant
from tests.helpers.proxy import Proxy


def test_rate_limit_is_no_outage(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        proxy.message, proxy.fault = "request path: rate limit quota exceeded", 429
        # The status of a standby is 429 too, and its health check asks the active node.
        for call in (store.get("k"), store.status(), store.examine("k")):
            with pytest.raises(KeyStoreThrottledError, match="raise its rate limit quota") as caught:
                await call
            assert caught.value.reason is KeyStoreReason.THROTTLED
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


@pytest.mark.parametrize("status", [200, 201, 418])
def test_answer_that_vault_did_not_send(bao: OpenBao, status: int) -> None:
    """Another server at the address answers everything with success, or with nonsense."""
    tenant = Tenant(bao, "v2")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        await store.create("k", b"v")
        proxy.fault = status
        for call in (store.create("new", b"v"), store.get("k"), store.list()):
            with pytest.raises(KeyStoreError) as caught:
                await call
            assert "\n" not in str(caught.value)
        with pytest.raises(KeyStoreError):
            await store._session._renew()
        proxy.fault = None
        assert await store.get("k") == b"v"
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))
        proxy.fault = status
        with pytest.raises(KeyStoreError):
            asyncio.run(connect(tenant.config(endpoint=proxy.url)))


@pytest.mark.parametrize("status", [301, 302, 303])
def test_redirect_is_never_taken_for_success(bao: OpenBao, status: int) -> None:
    """A redirected POST becomes a GET, so a create would only read."""
    tenant = Tenant(bao, "v2")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        proxy.fault, proxy.location = status, bao.url + "/v1/sys/health"
        for call in (store.create("k", b"v"), store.get("k"), store.delete("k"), store.list(), store.status()):
            with pytest.raises(KeyStoreError, match="redirects requests: set endpoint"):
                await call
        proxy.location = ""
        with pytest.raises(KeyStoreError, match="redirects requests"):
            await store.create("k", b"v")
        proxy.fault = None
        await store.create("k", b"v")
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


def test_redirect_to_the_active_node_is_followed_over_tls_only(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2")

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        proxy.fault, proxy.location = 307, f"{bao.url}/v1/{tenant.engine}/data/k"
        await store.create("k", b"v")
        assert tenant.read("k") == {"k": "v"}
        proxy.location = proxy.location.replace("https:", "http:")
        with pytest.raises(KeyStoreError, match="redirects requests"):
            await store.get("k")
        proxy.location = f"{proxy.url}/v1/{tenant.engine}/data/k"  # an endless loop
        with pytest.raises(KeyStoreError, match="redirects requests"):
            await store.get("k")
        proxy.fault = None
        with pytest.raises(EntryExistsError):
            await store.create("k", b"other")
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))


def test_connection_cut_in_the_handshake_is_an_outage(bao: OpenBao, caplog: pytest.LogCaptureFixture) -> None:
    """The message does not blame an untrusted certificate, which would mislead the operator."""
    caplog.set_level(logging.WARNING)

    async def check() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        section = Tenant(bao, "v2", KV2_POLICY).config(endpoint=f"https://127.0.0.1:{port}")
        with pytest.raises(KeyStoreUnreachableError, match="can't be reached"):
            await connect(section)
        server.close()

    asyncio.run(check())

"""Creating one key on two servers at once over K/V v1, which has no check-and-set."""

from __future__ import annotations

import asyncio
import threading

import pytest
import requests

from kes_core import EntryExistsError
from kes_vault.store import connect
from tests.helpers.openbao import WIDE, OpenBao, Tenant
from tests.helpers.proxy import Proxy

LATE = 0.1
"""The second server's write reaches Vault this many seconds after the first one's."""


class SlowWrites(Proxy):
    """Delays writes to `engine` until `may_write` is set."""

    engine = ""
    may_write: threading.Event

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> requests.Response:
        if method == "POST" and self.engine in path:
            assert self.may_write.wait(30)
        return super().forward(method, path, headers, body)


class ReportedWrites(Proxy):
    """Sets `may_write` a moment after a write to `engine`."""

    engine = ""
    may_write: threading.Event

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> requests.Response:
        answer = super().forward(method, path, headers, body)
        if method == "POST" and self.engine in path:
            threading.Timer(LATE, self.may_write.set).start()
        return answer


def test_write_that_comes_late_does_not_make_a_second_winner(bao: OpenBao) -> None:
    """Both servers find the name free. The second write arrives after the first server could have answered."""
    tenant = Tenant(bao, "v1", WIDE)

    async def race(first: ReportedWrites, second: SlowWrites) -> None:
        first.engine = second.engine = f"/v1/{tenant.engine}/"
        first.may_write = second.may_write = threading.Event()
        quick = await connect(tenant.config(endpoint=first.url))
        slow = await connect(tenant.config(endpoint=second.url))
        try:
            late = asyncio.create_task(slow.create("k", b"of the slow server"))
            await asyncio.to_thread(second.wait_for, "POST", second.engine, 1)
            with pytest.raises(EntryExistsError):
                await quick.create("k", b"of the quick server")
            await late
            assert await quick.get("k") == await slow.get("k") == b"of the slow server"
        finally:
            await quick.close()
            await slow.close()

    with ReportedWrites(bao).running() as first, SlowWrites(bao).running() as second:
        assert isinstance(first, ReportedWrites)
        assert isinstance(second, SlowWrites)
        asyncio.run(race(first, second))


@pytest.mark.parametrize(("version", "reads", "writes"), [("v1", 2, 1), ("v2", 0, 1)])
def test_requests_that_creating_a_key_costs(bao: OpenBao, version: str, reads: int, writes: int) -> None:
    """Only on K/V v1 does a create need reads. The cache checks that a new key can be read."""
    tenant = Tenant(bao, version)

    async def check(proxy: Proxy) -> None:
        store = await connect(tenant.config(endpoint=proxy.url))
        proxy.requests.clear()
        await store.create("k", b"v")
        engine = f"/v1/{tenant.engine}/"
        assert (proxy.count("GET", engine), proxy.count("POST", engine)) == (reads, writes)
        await store.close()

    with Proxy(bao).running() as proxy:
        asyncio.run(check(proxy))

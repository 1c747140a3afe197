"""Every request makes exactly one audit record, whatever happens to it."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import h2.errors
import pytest

from kes_core.access.rules import AccessRules
from kes_core.access.sender import ProvenClient
from kes_core.audit.log import AuditLog
from kes_core.identity import APIKey
from kes_core.protocol import ROUTES
from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.wire.stream import Message
from kes_core.server.workers.peers import LocalPeers
from tests.helpers.http2 import Http2Client
from tests.helpers.server import Server

IDENTITY = "3ecf" * 16


CLIENT = ProvenClient(IDENTITY, "", None, verified=False, presented=True, address="192.0.2.1")


class Faulty:
    """An application with a fault in its state; records its audit records and answers."""

    def __init__(self, rules: Any = None, **faults: Any) -> None:
        metrics = Metrics()
        self.records: list[Any] = []
        state: Any = SimpleNamespace(
            access=AccessRules(admin=IDENTITY) if rules is None else rules,
            timeouts={route.path: 5.0 for route in ROUTES},
            policy_of={},
            audit=AuditLog([SimpleNamespace(audit=self.records.append)]),  # type: ignore[list-item] # all of a sink that is used
        )
        state.__dict__.update(faults)
        self.app = KESApp(state, metrics, LocalPeers(metrics), ExpiryWatch(metrics))
        self.sent: list[Message] = []

    async def ask(
        self, method: str, path: str, receive: Any = None, *, headers: Any = (), client: Any = CLIENT
    ) -> None:
        scope = {
            "type": "http",
            "method": method,
            "raw_path": path.encode(),
            "path": path,
            "query_string": b"",
            "headers": list(headers),
            "client": ("192.0.2.1", 1),
            "extensions": {"kes.client": client},
        }

        async def send(message: Message) -> None:
            self.sent.append(message)

        await self.app.build_middleware_stack()(scope, receive, send)

    @property
    def codes(self) -> list[int]:
        return [record["response"]["code"] for record in self.records]


def fail(*_arguments: object) -> Any:
    raise RuntimeError("ASN.1: 0x30 0x82")


def test_forwarded_certificate_that_breaks_a_library(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the blame (400), and nothing of the certificate reaches the log."""
    authorities: Any = SimpleNamespace(verify=fail)
    proxy = replace(CLIENT, verified=True)
    rules = AccessRules(proxies=frozenset([IDENTITY]), proxy_header=b"cert", authorities=authorities)
    pem = quote(APIKey.generate().certificate()[1]).encode()
    faulty = Faulty(rules)
    asyncio.run(faulty.ask("GET", "/v1/status", headers=[(b"cert", pem)], client=proxy))
    assert faulty.sent[0]["status"] == 400
    assert faulty.sent[1]["body"] == b'{"message":"invalid client certificate"}'
    assert faulty.codes == [400]
    assert "ASN.1" not in caplog.text


@pytest.mark.parametrize("faults", [{"timeouts": None}, {"rules": AccessRules(engines=("no pair",))}])  # type: ignore[arg-type] # that is the fault
def test_failure_in_any_place(faults: dict[str, Any]) -> None:
    """An unexpected error is a 500, in the answer and in the record."""
    faulty = Faulty(**faults)
    asyncio.run(faulty.ask("GET", "/v1/status"))
    assert faulty.sent[0]["status"] == 500
    assert faulty.codes == [500]


def test_request_that_is_stopped_with_the_server() -> None:
    async def stop() -> None:
        faulty = Faulty()
        reading = asyncio.Event()

        async def receive() -> Message:
            reading.set()
            await asyncio.Event().wait()
            raise AssertionError("never")

        task = asyncio.get_running_loop().create_task(faulty.ask("PUT", "/v1/key/encrypt/a", receive))
        await reading.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert faulty.codes == [499]
        assert faulty.sent == []

    asyncio.run(stop())


def test_record_has_the_policy_that_the_request_was_decided_under() -> None:
    """A reload during the request moves the identity to another policy."""

    async def check() -> None:
        faulty = Faulty(policy_of={IDENTITY: "old"})
        reloaded = SimpleNamespace(**{**vars(faulty.app.server_state), "policy_of": {IDENTITY: "new"}})

        async def receive() -> Message:
            faulty.app.server_state = reloaded  # type: ignore[assignment] # as much of a state as is used
            return {"type": "http.request", "body": b"{", "more_body": False}

        await faulty.ask("PUT", "/v1/key/encrypt/a", receive)
        await faulty.ask("PUT", "/v1/key/encrypt/a", receive)
        assert [record["request"]["policy"] for record in faulty.records] == ["old", "new"]

    asyncio.run(check())


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
def test_client_that_leaves_before_its_answer(server: Server, http2: bool) -> None:
    """The audit log records the request, with a status that no answer ever has."""
    path = f"/v1/key/encrypt/left-{base64.b32encode(bytes([http2])).decode().strip('=')}"
    with server.client() as reader, reader.stream("GET", "/v1/log/audit") as log:
        lines = log.iter_lines()
        with server.connection(alpn=["h2" if http2 else "http/1.1"]) as connection:
            if http2:
                client = Http2Client(connection)
                stream = client.request("PUT", path, end=False)
                client.h2.send_data(stream, b'{"plain')
                client.flush()
                client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                client.flush()
                wait_for(lines, path)
            else:
                connection.sendall(b"PUT %b HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{" % path.encode())
        if not http2:
            wait_for(lines, path)


def wait_for(lines: Any, path: str) -> None:
    for line in lines:
        if f'"path":"{path}"' in line:
            assert '"code":499' in line
            return
    raise AssertionError("no record")

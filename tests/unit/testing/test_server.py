"""`FakeServer`, as the tests of an application use it, with both clients."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kes_core.client import (
    AsyncClient,
    AuditEvent,
    Client,
    KESConnectionError,
    KeyExistsError,
    KeyNotFoundError,
    LogStream,
    NotAllowedError,
)
from kes_core.config import ConfigError
from kes_core.testing import FakeServer

APP = "a1" * 32
POLICIES = {
    "app": {"allow": ["/v1/key/generate/*", "/v1/key/decrypt/*"], "deny": ["/v1/key/generate/b"], "identities": [APP]}
}


def test_keys_of_the_admin() -> None:
    with FakeServer() as server, Client(transport=server.transport()) as client:
        client.create_key("my-key")
        with pytest.raises(KeyExistsError):
            client.create_key("my-key")
        data_key = client.generate_data_key("my-key", context=b"object")
        assert client.decrypt("my-key", data_key.ciphertext, context=b"object") == data_key.plaintext
        with pytest.raises(KeyNotFoundError):
            client.generate_data_key("other")
        assert list(client.list_keys()) == ["my-key"]
        client.delete_key("my-key")
        assert list(client.list_keys()) == []


def test_policies_hold_for_other_identities() -> None:
    with (
        FakeServer(keys=["a", "b"], policies=POLICIES, identity=APP) as server,
        Client(transport=server.transport()) as app,
        Client(transport=server.transport(identity="c2" * 32)) as stranger,
    ):
        data_key = app.generate_data_key("a")
        assert app.decrypt("a", data_key.ciphertext) == data_key.plaintext
        for forbidden in (
            lambda: app.generate_data_key("b"),
            lambda: app.create_key("c"),
            lambda: stranger.decrypt("a", data_key.ciphertext),
        ):
            with pytest.raises(NotAllowedError):
                forbidden()


def test_asynchronous_client() -> None:
    async def use(server: FakeServer) -> None:
        async with AsyncClient(transport=server.async_transport()) as client:
            data_keys = await asyncio.gather(*(client.generate_data_key("a") for _ in range(10)))
            sealed = [(data_key.ciphertext, b"") for data_key in data_keys]
            assert await client.decrypt_all("a", sealed) == [data_key.plaintext for data_key in data_keys]
            assert [name async for name in client.list_keys()] == ["a"]
            async with client.audit_log() as log:
                await client.describe_key("a")
                event = await anext(aiter(log))
            assert (event.path, event.code) == ("/v1/key/describe/a", 200)

    with FakeServer(keys=["a"]) as server:
        asyncio.run(use(server))


def test_audit_log() -> None:
    with (
        FakeServer(policies=POLICIES) as server,
        Client(transport=server.transport()) as admin,
        Client(transport=server.transport(APP)) as app,
        admin.audit_log() as log,
    ):
        with pytest.raises(NotAllowedError):
            app.create_key("c")
        event = next(iter(log))
        assert (event.identity, event.path, event.code) == (APP, "/v1/key/create/c", 403)


def test_servers_are_separate_and_end_completely() -> None:
    before = threading.active_count()
    with FakeServer(keys=["a"]) as one, FakeServer() as other:
        client = Client(transport=one.transport())
        assert list(Client(transport=other.transport()).list_keys()) == []
        assert list(client.list_keys()) == ["a"]
    assert threading.active_count() == before
    with pytest.raises(KESConnectionError, match="the fake server is not running"):
        client.describe_key("a")


def test_log_ends_with_the_server() -> None:
    ended: list[Exception] = []

    def read(log: LogStream[AuditEvent]) -> None:
        try:
            next(iter(log))
        except KESConnectionError as error:
            ended.append(error)

    with FakeServer() as server:
        log = Client(transport=server.transport()).audit_log()
        log.__enter__()
        reader = threading.Thread(target=read, args=(log,))
        reader.start()
    reader.join()
    assert ended


def test_wrong_arguments_are_errors_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"FakeServer:\d+: policy\.p\.alow"):
        FakeServer(policies={"p": {"alow": ["/v1/*"]}})

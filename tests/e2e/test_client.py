"""The Python client, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kes_core.client import (
    APIError,
    AsyncClient,
    Client,
    ClientCertificateError,
    DecryptionError,
    HMACUnsupportedError,
    IdentityNotFoundError,
    InvalidNameError,
    KESConnectionError,
    KESError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStoreUnavailableError,
    NotAllowedError,
    PolicyNotFoundError,
    UnsupportedKeyError,
)
from kes_core.client.errors import raise_for_status
from kes_core.identity import APIKey
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.command import kes
from tests.helpers.programs import free_port
from tests.helpers.server import Server, start_server
from tests.helpers.vectors import vectors

POLICIES = {
    "app": {"allow": ["/v1/key/*", "/v1/status"], "deny": ["/v1/key/delete/*"]},
    "other": {"allow": ["/version"]},
}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("user"), "user")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, user: Credentials) -> Iterator[Server]:
    policies = {**POLICIES, "app": {**POLICIES["app"], "identities": [user.identity]}}
    server = start_server(tmp_path_factory.mktemp("server"), {"policy": policies})
    yield server
    assert server.stop() == 0


def client(server: Server, credentials: Credentials | None = None) -> Client:
    return Client(server.url, api_key=(credentials or server.admin).api_key, insecure=True)


def test_keys_and_data_keys(server: Server) -> None:
    with client(server) as kms:
        kms.create_key("a-key")
        with pytest.raises(KeyExistsError, match="key already exists"):
            kms.create_key("a-key")
        data_key = kms.generate_data_key("a-key", b"context")
        assert len(data_key.plaintext) == 32
        assert repr(data_key.plaintext) not in repr(data_key)
        assert kms.decrypt("a-key", data_key.ciphertext, b"context") == data_key.plaintext
        with pytest.raises(DecryptionError) as caught:
            kms.decrypt("a-key", data_key.ciphertext)
        assert caught.value.status == 400
        sealed = kms.encrypt("a-key", b"text")
        assert kms.decrypt_all("a-key", [(sealed, b""), (data_key.ciphertext, b"context")]) == [
            b"text",
            data_key.plaintext,
        ]
        kms.import_key("imported", bytes(32), "ChaCha20")
        info = kms.describe_key("imported")
        assert (info.name, info.algorithm, info.created_by) == ("imported", "ChaCha20", server.admin.identity)
        assert len(kms.hmac("imported", b"message")) == 32
        assert list(kms.list_keys("imp*")) == ["imported"]
        kms.delete_key("imported")
        for call in (kms.describe_key, kms.delete_key, kms.generate_data_key):
            with pytest.raises(KeyNotFoundError):
                call("imported")
        with pytest.raises(APIError, match="is empty, too long or contains invalid characters"):
            kms.create_key("no/name")


def test_server_policies_and_identities(server: Server, user: Credentials) -> None:
    with client(server) as kms:
        assert kms.version().version
        kms.ready()
        status = kms.status()
        assert status.keystore_reachable
        assert status.uptime >= timedelta(0)
        assert "/v1/key/create/" in {route.path for route in kms.apis()}
        assert list(kms.list_policies()) == ["app", "other"]
        assert list(kms.list_policies("o")) == ["other"]
        assert kms.describe_policy("app").allow == ()
        policy = kms.read_policy("app")
        assert policy.allow == ("/v1/key/*", "/v1/status")
        assert policy.deny == ("/v1/key/delete/*",)
        with pytest.raises(PolicyNotFoundError):
            kms.read_policy("nothing")
        assert list(kms.list_identities()) == sorted([server.admin.identity, user.identity])
        assert kms.describe_identity(user.identity).policy == "app"
        with pytest.raises(IdentityNotFoundError):
            kms.describe_identity("0" * 64)
        assert kms.describe_self().is_admin
    with client(server, user) as kms:
        me = kms.describe_self()
        assert (me.identity, me.is_admin, me.policy) == (user.identity, False, "app")
        assert me.allow == policy.allow
        with pytest.raises(NotAllowedError):
            kms.delete_key("a-key")


def test_asynchronous_client(server: Server) -> None:
    async def check() -> None:
        async with AsyncClient(server.url, api_key=server.admin.api_key, insecure=True) as kms:
            await kms.create_key("async-key")
            data_keys = await asyncio.gather(*(kms.generate_data_key("async-key") for _ in range(50)))
            opened = await asyncio.gather(*(kms.decrypt("async-key", key.ciphertext) for key in data_keys))
            assert opened == [key.plaintext for key in data_keys]
            assert [name async for name in kms.list_keys("async")] == ["async-key"]
            with pytest.raises(KeyExistsError):
                await kms.create_key("async-key")
            assert (await kms.describe_self()).is_admin
            assert (await kms.status()).keystore_reachable
            await kms.ready()
            await kms.delete_key("async-key")

    asyncio.run(check())


ERRORS = {
    ClientCertificateError: {"client certificate"},
    NotAllowedError: {"not authorized"},
    InvalidNameError: {"is empty, too long or"},
    KeyExistsError: {"key already exists"},
    KeyNotFoundError: {"key does not exist"},
    PolicyNotFoundError: {"policy does not exist"},
    IdentityNotFoundError: {"identity does not exist"},
    DecryptionError: {"ciphertext is not authentic"},
    HMACUnsupportedError: {"does not support HMAC"},
    UnsupportedKeyError: {"is not supported", "invalid key size", "FIPS"},
    KeyStoreUnavailableError: {"failed to", "key store is"},
}
"""The messages of each type. All other errors are faults of the program or of the server."""


@pytest.mark.parametrize("case", vectors("errors")["cases"], ids=lambda case: f"{case['status']} {case['message']}")
def test_errors_that_a_program_tells_apart_have_a_type(case: dict[str, Any]) -> None:
    status, message = case["status"], case["message"]
    with pytest.raises(APIError) as caught:
        raise_for_status(status, json.dumps({"message": message}).encode())
    assert (caught.value.status, caught.value.message) == (status, message)
    if type(caught.value) is APIError:
        assert status in {405, 500} or "body" in message or "insecure connection" in message
    else:
        assert any(part in message for part in ERRORS[type(caught.value)]) or (status, message) == (403, "")


def test_reason_of_a_key_store_that_is_gone(run_server: Callable[..., Server], tmp_path: Path) -> None:
    server = run_server({"keystore": {"fs": {"path": str(tmp_path / "keys")}}})
    (tmp_path / "keys").rmdir()
    with client(server) as kms:
        for call in (kms.ready, lambda: kms.create_key("a"), lambda: kms.generate_data_key("a")):
            with pytest.raises(KeyStoreUnavailableError):
                call()


def test_metrics_are_text_for_prometheus(server: Server) -> None:
    with client(server) as kms:
        text = kms.metrics()
    assert "# TYPE kes_http_request_active gauge\nkes_http_request_active " in text


def test_all_names_of_many_pages(run_server: Callable[..., Server]) -> None:
    names = [f"key-{number:04}" for number in range(2500)]
    server = run_server({"keys": [{"name": name} for name in names]})
    with client(server) as kms:
        assert list(kms.list_keys()) == names
        assert list(kms.list_keys("key-2*")) == names[2000:]


def test_dead_endpoints_are_passed_over(server: Server) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with Client(f"{dead}, {server.url}", api_key=server.admin.api_key, insecure=True) as kms:
        assert kms.version().version
        kms.create_key("second-endpoint")  # the refused connection has sent nothing
        assert list(kms.list_keys("second")) == ["second-endpoint"]
    with (
        Client(dead, api_key=server.admin.api_key, insecure=True) as kms,
        pytest.raises(KESConnectionError, match=f"https://{dead}: .*refused"),
    ):
        kms.version()


def test_the_endpoint_that_answered_last_is_asked_first(server: Server) -> None:
    """An endpoint that takes connections and never answers costs its time-out once, not with every request."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoints = [f"127.0.0.1:{silent.getsockname()[1]}", server.url]
        with Client(endpoints, api_key=server.admin.api_key, insecure=True, timeout=3.0) as kms:
            kms.version()
            kms.version()
            assert connections_to(silent) == 1

        async def check() -> None:
            async with AsyncClient(endpoints, api_key=server.admin.api_key, insecure=True, timeout=3.0) as kms:
                await kms.version()
                await kms.version()
                assert connections_to(silent) == 1

        asyncio.run(check())


def connections_to(listening: socket.socket) -> int:
    """Accept the connections that wait; return their number."""
    listening.setblocking(False)
    number = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            number += 1
    return number


def test_a_client_without_certificate_gets_a_clear_error(server: Server) -> None:
    """The alert arrives after the handshake (TLS 1.3); on asyncio, httpx does not turn it into one of its errors."""
    with Client(server.url, insecure=True) as kms, pytest.raises(KESConnectionError, match="certificate required"):
        kms.version()

    async def check() -> None:
        async with AsyncClient(server.url, insecure=True) as kms:
            with pytest.raises(KESConnectionError, match="certificate required"):
                await kms.version()

    asyncio.run(check())


@pytest.mark.parametrize("name", ["..", ".", "a.b", "../../status", "%2e%2e", "\udcff", "a?b", "a#b", "é", ""])
def test_every_name_reaches_the_server_as_it_is(server: Server, name: str) -> None:
    with client(server) as kms, pytest.raises(APIError, match="contains invalid characters") as caught:
        kms.delete_key(name)
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert f"'{shown}'" in caught.value.message


def test_a_request_that_is_too_long_is_not_sent(server: Server) -> None:
    with client(server) as kms:
        kms.create_key("long")
        with pytest.raises(APIError, match="invalid request body"):
            kms.encrypt("long", bytes(750_000))
        with pytest.raises(KESError, match="the request has 2666697 bytes: servers accept up to 1048576"):
            kms.encrypt("long", bytes(2_000_000))
        assert kms.decrypt("long", kms.encrypt("long", bytes(700_000))) == bytes(700_000)


class BreakingServer:
    """Accepts TLS connections and reads requests, then hangs up without an answer. No real server can be made to."""

    def __init__(self, directory: Path) -> None:
        credentials = make_credentials(directory, "breaking")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(credentials.cert, credentials.key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            with self.context.wrap_socket(raw, server_side=True) as connection:
                self.requests.append(connection.recv(65536).split(b" HTTP/")[0])

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[BreakingServer]:
    breaking = BreakingServer(tmp_path)
    yield breaking
    breaking.close()


def test_only_what_may_be_repeated_is_sent_again(server: Server, breaking: BreakingServer) -> None:
    endpoints = [breaking.url, server.url]
    with Client(endpoints, api_key=server.admin.api_key, insecure=True) as kms:
        with pytest.raises(KESConnectionError):
            kms.create_key("never-twice")
        with pytest.raises(KESConnectionError):
            kms.import_key("never-twice", bytes(32))
        assert list(kms.list_keys("never")) == []  # the client repeats this request at the other server
    assert breaking.requests.count(b"GET /v1/key/list/never") == 1
    assert breaking.requests.count(b"PUT /v1/key/create/never-twice") == 1
    assert breaking.requests.count(b"PUT /v1/key/import/never-twice") == 1


def test_server_certificate_is_verified(server: Server) -> None:
    with (
        Client(server.url, api_key=server.admin.api_key) as kms,
        pytest.raises(KESConnectionError, match=r"CERTIFICATE_VERIFY_FAILED.*trust it or skip"),
    ):
        kms.version()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"endpoints": ""}, "no endpoint is given"),
        ({"endpoints": "http://a"}, "'http://a' is not a valid URL"),
        ({"endpoints": "https://a/path"}, "is not a valid URL"),
        ({"endpoints": "https://a?b"}, "is not a valid URL"),
        ({"endpoints": "https://a/#b"}, "is not a valid URL"),
        ({"endpoints": "https://[::1"}, "is not a valid URL"),
        ({"endpoints": "https://bad..host"}, "'https://bad..host' is not a valid URL"),
        ({"endpoints": f"{'a' * 64}.example.com:7373"}, "is not a valid URL"),
        ({"endpoints": "https://xn--.example.com"}, "is not a valid URL"),
        ({"endpoints": "https://me:secret@a"}, r"^an endpoint can't have a user name or password: [^@]*$"),
        ({"ca": "missing.pem"}, "the CA file 'missing.pem' can't be read: No such file or directory"),
        ({"ca": __file__}, "does not hold a PEM certificate"),
        ({"key_file": ".", "cert_file": "."}, "the client's private key '.' can't be read"),
        ({"api_key": "kes:v1:nonsense"}, "not an API key"),
        ({"api_key": APIKey.generate(), "key_file": "a", "cert_file": "b"}, "give only one of them"),
        ({"key_file": "a"}, "give both files"),
        ({"key_file": "missing", "cert_file": "missing"}, "the client's private key 'missing' can't be read"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Client(**arguments)  # type: ignore[arg-type] # some are wrong, which is the point


def test_encrypted_key_file(server: Server, tmp_path: Path) -> None:
    kes("identity", "new", "--encrypt", "x", cwd=tmp_path, environment={"KES_PRIVATE_KEY_PASSWORD": "correct horse"})
    key, cert = tmp_path / "private.key", tmp_path / "public.crt"
    with Client(server.url, key_file=key, cert_file=cert, password="correct horse", insecure=True) as kms:
        assert kms.version().version
    with pytest.raises(ValueError, match="is encrypted: a password is needed"):
        Client(server.url, key_file=key, cert_file=cert)
    for wrong in ("wrong", ""):
        with pytest.raises(ValueError, match=r"private\.key' is encrypted: the password is wrong$"):
            Client(server.url, key_file=key, cert_file=cert, password=wrong)
    with pytest.raises(ValueError, match="can't be used: KEY_VALUES_MISMATCH"):
        Client(server.url, key_file=key, cert_file=server.admin.cert, password="correct horse")

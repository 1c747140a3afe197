"""Where a client gets its credentials, and how it uses a transport from the caller."""

from __future__ import annotations

import asyncio
import traceback

import httpx
import pytest

import kes_core.client
from kes_core.client import APIError, AsyncClient, Client, KeyNotFoundError
from kes_core.client.transport import MissingCredentialsError, arguments_from_environment
from kes_core.identity import APIKey

CREATED = "2026-03-01T14:00:00.123456789Z"


def test_first_variable_that_is_set_wins() -> None:
    environment = {
        "MINIO_KMS_KES_ENDPOINT": "https://third",
        "KES_SERVER": "https://second",
        "MINIO_KES_SERVER": "https://first",
        "KES_API_KEY": "second",
        "MINIO_KES_API_KEY": "first",
    }
    expected = {"endpoints": "https://first", "api_key": "first"}
    assert arguments_from_environment(environment) == expected
    del environment["MINIO_KES_SERVER"], environment["MINIO_KES_API_KEY"]
    assert arguments_from_environment(environment) == {"endpoints": "https://second", "api_key": "second"}


def test_option_wins_over_the_variables() -> None:
    environment = {"KES_SERVER": "https://a", "KES_CLIENT_KEY": "a.key", "KES_CLIENT_CERT": "a.crt"}
    arguments = arguments_from_environment(environment, endpoints="https://b", api_key="key")
    assert arguments == {"endpoints": "https://b", "api_key": "key"}
    files = {"key_file": "a.key", "cert_file": "a.crt", "password": None}
    assert arguments_from_environment(environment) == {"endpoints": "https://a", **files}


def test_missing_and_double_credentials_are_errors_that_say_what_to_set() -> None:
    with pytest.raises(MissingCredentialsError) as missing:
        arguments_from_environment({})
    assert str(missing.value) == "no client credentials: set KES_API_KEY, or KES_CLIENT_CERT and KES_CLIENT_KEY"
    with pytest.raises(MissingCredentialsError, match="both an API key and a key file are set"):
        arguments_from_environment({"KES_API_KEY": "a", "KES_CLIENT_KEY": "b", "KES_CLIENT_CERT": "c"})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_client_from_the_environment(kind: type[Client | AsyncClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KES_API_KEY", str(APIKey.generate()))
    monkeypatch.setenv("KES_SERVER", "localhost:1234")
    client = kind.from_environment(insecure=True)
    assert client._settings.endpoints == ["https://localhost:1234"]
    monkeypatch.delenv("KES_API_KEY")
    with pytest.raises(ValueError, match="no client credentials"):
        kind.from_environment()


def answer(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/key/describe/a":
        return httpx.Response(200, json={"name": "a", "algorithm": "AES256", "created_at": CREATED})
    return httpx.Response(404, json={"message": "key does not exist"})


def test_transport_takes_the_place_of_the_network() -> None:
    with Client(transport=httpx.MockTransport(answer)) as client:
        assert client.describe_key("a").created_at.isoformat() == "2026-03-01T14:00:00.123456+00:00"
        with pytest.raises(KeyNotFoundError) as missing:
            client.describe_key("b")
    assert isinstance(missing.value, APIError)


def test_asynchronous_client_takes_a_transport_too() -> None:
    async def describe() -> str:
        async with AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return (await client.describe_key("a")).algorithm

    assert asyncio.run(describe()) == "AES256"


def test_tracebacks_show_the_names_that_users_import() -> None:
    text = traceback.format_exception_only(KeyNotFoundError(404, "key does not exist"))
    assert text == ["kes_core.client.KeyNotFoundError: key does not exist\n"]
    names = [getattr(kes_core.client, name) for name in kes_core.client.__all__]
    assert {named.__module__ for named in names} == {"kes_core.client"}

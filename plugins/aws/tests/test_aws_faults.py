"""What the AWS store makes of refusals, outages and odd answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path

import pytest

from kes_aws.store import SecretsManagerKeyStore
from kes_core import (
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
)
from tests.helpers.aws import DENIED, EXPIRED, SECRET_KEY, THROTTLED, TOKEN, AWSProxy, Moto, Reply
from tests.helpers.aws_store import failure, run

PAGES_OF_3 = {"token": "", "count": 3, "pending": False}

# Credentials and permissions


def test_expired_credentials_are_told_as_such(moto: Moto, proxy: AWSProxy) -> None:
    config = moto.config(endpoint=proxy.url)

    async def use(store: SecretsManagerKeyStore) -> None:
        proxy.always("*", EXPIRED)
        for call in (store.status(), store.get("k"), store.create("k", b"v"), store.list(), store.delete("k")):
            with pytest.raises(KeyStoreError, match="the credentials for AWS have expired") as caught:
                await call
            assert caught.value.reason is KeyStoreReason.FORBIDDEN
            assert not isinstance(caught.value, KeyStoreUnreachableError)

    run(config, use)


def test_credentials_in_a_file_are_read_again(
    moto: Moto, proxy: AWSProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program replaces them before or after they expire."""
    file = tmp_path / "credentials"

    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n")

    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    config = moto.config(endpoint=proxy.url, credentials={})
    assert "there are no usable credentials for AWS (NoCredentialsError)" in str(failure(config, lambda s: s.status()))
    write("AKIAFIRST")

    async def use(store: SecretsManagerKeyStore) -> None:
        proxy.plan("GetSecretValue", EXPIRED)
        with pytest.raises(KeyStoreError, match="have expired"):
            await store.get("k")
        write("AKIASECOND")
        store.aws._looked_at -= 60
        proxy.plan("GetSecretValue", EXPIRED, "pass")
        with pytest.raises(EntryNotFoundError):
            await store.get("k")

    run(config, use)


def test_refused_operation_names_the_permission(moto: Moto, proxy: AWSProxy) -> None:
    text = (
        "User: arn:aws:iam::123456789012:user/kes is not authorized to perform: secretsmanager:GetSecretValue on "
        "resource: k because no identity-based policy allows the secretsmanager:GetSecretValue action"
    )
    proxy.plan("GetSecretValue", Reply("AccessDeniedException", text))
    error = failure(moto.config(endpoint=proxy.url), lambda store: store.get("k"))
    assert str(error) == f"AWS refuses to read the secret 'k': {text}"
    assert error.reason is KeyStoreReason.FORBIDDEN


def test_store_works_without_the_permission_to_list(moto: Moto, proxy: AWSProxy) -> None:
    proxy.always("ListSecrets", DENIED)
    config = moto.config(endpoint=proxy.url)

    async def use(store: SecretsManagerKeyStore) -> None:
        await store.status()
        await store.create("k", b"v")
        with pytest.raises(KeyStoreError, match="AWS refuses to list the secrets"):
            await store.list()

    run(config, use)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply("UnrecognizedClientException", "The security token is invalid."), "AWS does not accept the credentials"),
        (
            Reply("InvalidSignatureException", "Signature expired: 20261126T000000Z is now earlier than 20261126"),
            "set the clock of this machine by NTP",
        ),
        (
            Reply("InvalidSignatureException", f"The Canonical String should have been x-amz-security-token:{TOKEN}"),
            "check credentials.accesskey, secretkey and token",
        ),
        (Reply("DecryptionFailure", "no"), "the KMS key of the secret is disabled"),
        (Reply("LimitExceededException", "too many secrets"), "LimitExceededException): too many secrets"),
        (Reply("ValidationException", f"Value '{SECRET_KEY}' failed"), "AWS can't read the secret 'k': ValidationExc"),
    ],
    ids=lambda value: value.code if isinstance(value, Reply) else "",
)
def test_refusals(moto: Moto, proxy: AWSProxy, reply: Reply, text: str) -> None:
    proxy.always("GetSecretValue", reply)
    error = failure(moto.config(endpoint=proxy.url), lambda store: store.get("k"))
    assert text in str(error)
    assert TOKEN not in str(error)
    assert SECRET_KEY not in str(error)
    assert not isinstance(error, KeyStoreUnreachableError)


# Outages


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply("InternalServiceError", status=500), "is not available at the moment (InternalServiceError"),
        (
            Reply("", status=502, body=b"<html>Bad gateway</html>"),
            "does not answer like AWS Secrets Manager (status 502",
        ),
        ("cut", "can't be reached: the connection was closed"),
    ],
    ids=["500", "502", "cut"],
)
def test_outage_is_asked_about_twice_and_reported(moto: Moto, proxy: AWSProxy, reply: Reply | str, text: str) -> None:
    config = moto.config(endpoint=proxy.url)
    moto.client(config).create_secret(Name="k", SecretString="v")
    proxy.plan("GetSecretValue", reply, "pass")
    assert run(config, lambda store: store.get("k")) == b"v"
    proxy.plan("GetSecretValue", reply, reply)
    error = failure(config, lambda store: store.get("k"))
    assert text in str(error)
    assert isinstance(error, KeyStoreUnreachableError)


def test_throttled_request_is_not_repeated_at_once(moto: Moto, proxy: AWSProxy) -> None:
    """The server repeats it, after a pause."""
    proxy.plan("GetSecretValue", THROTTLED)
    error = failure(moto.config(endpoint=proxy.url), lambda store: store.get("k"))
    assert str(error) == "AWS throttles requests (ThrottlingException, tried to read the secret 'k')"
    assert isinstance(error, KeyStoreThrottledError)


def test_network_that_swallows_everything(moto: Moto, proxy: AWSProxy) -> None:
    """A call ends in time, and a cancelled one at once, though its thread still waits."""

    async def use(store: SecretsManagerKeyStore) -> None:
        proxy.always("GetSecretValue", "stall")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.get("k")
        with pytest.raises(KeyStoreUnreachableError, match="does not answer in time"):
            await store.get("k")
        await store.status()

    run(moto.config(endpoint=proxy.url, timeout="1s"), use)


@pytest.mark.parametrize("operation", ["CreateSecret", "GetSecretValue", "DeleteSecret", "ListSecrets"])
@pytest.mark.parametrize("body", [b"<html>Log in to the guest network</html>", b"{}", b"[]", b'{"Name": 1}'])
def test_answer_that_aws_did_not_send_is_no_success(moto: Moto, proxy: AWSProxy, operation: str, body: bytes) -> None:
    async def use(store: SecretsManagerKeyStore) -> None:
        proxy.always(operation, Reply("", status=200, body=body))
        call: dict[str, Awaitable[object]] = {
            "CreateSecret": store.create("k", b"v"),
            "GetSecretValue": store.get("k"),
            "DeleteSecret": store.delete("k"),
            "ListSecrets": store.list(),
        }
        chosen = call.pop(operation)
        for other in call.values():
            other.close()  # type: ignore[attr-defined] # they are coroutines
        with pytest.raises(KeyStoreError, match="does not answer like AWS Secrets Manager"):
            await chosen

    run(moto.config(endpoint=proxy.url), use)


def test_listing_has_the_pages_of_aws(moto: Moto, proxy: AWSProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecretsManagerKeyStore.page_of_secrets, "__kwdefaults__", PAGES_OF_3)
    config = moto.config(endpoint=proxy.url)
    aws = moto.client(config)
    names = [f"key-{number}" for number in range(8)]
    for name in (*names, "other"):
        aws.create_secret(Name=name, SecretString="v")
    assert sorted(run(config, lambda store: store.list("key-")).names) == names
    assert proxy.operations.count("ListSecrets") == 1 + 3


def test_certificate_that_is_not_trusted(moto: Moto, tls_proxy: tuple[AWSProxy, str]) -> None:
    proxy, ca = tls_proxy
    error = failure(moto.config(endpoint=proxy.url), lambda store: store.status())
    assert str(error) == (
        f"the certificate of AWS at {proxy.url} is not trusted: if a proxy of yours opens the TLS connections to AWS, "
        "set tls.ca to its CA"
    )
    assert error.reason is KeyStoreReason.MISCONFIGURED
    config = moto.config(endpoint=proxy.url.replace("127.0.0.1", "localhost"), tls={"ca": ca})
    assert "is for another host" in str(failure(config, lambda store: store.status()))
    config = moto.config(endpoint=proxy.url.replace("https:", "http:"))
    assert isinstance(failure(config, lambda store: store.status()), KeyStoreUnreachableError)


def test_listing_that_does_not_end(moto: Moto, proxy: AWSProxy) -> None:
    async def use(store: SecretsManagerKeyStore) -> None:
        proxy.always("ListSecrets", Reply("", status=200, body=b'{"SecretList": [], "NextToken": "again"}'))
        with pytest.raises(KeyStoreError, match="AWS's listing of secrets does not end"):
            await store.list()

    run(moto.config(endpoint=proxy.url), use)


def test_server_waits_for_aws_at_its_start(moto: Moto, proxy: AWSProxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.plan("ListSecrets", "cut", "cut", "cut", "cut", "pass")
    run(moto.config(endpoint=proxy.url, start_timeout="60s"), lambda store: store.status())
    assert caplog.text.count("waiting for AWS: AWS Secrets Manager at") == 1


def test_log_of_the_sdk_shows_no_key_though_it_was_on_debug(moto: Moto, caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger(name) for name in ("", "botocore", "botocore.endpoint", "botocore.parsers")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
        run(moto.config(), lambda store: store.create("k", b"a very secret value"))
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
    assert "a very secret value" not in caplog.text
    assert SECRET_KEY not in caplog.text

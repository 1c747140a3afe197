"""What the AWS store promises beyond the contract: the Go server's entries, races, deletions, its logs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kes_aws.config import SecretsManagerConfig
from kes_aws.store import SecretsManagerKeyStore, connect
from kes_core import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
    PluginContext,
)
from kes_core.keys.stored import KeyVersion
from tests.helpers.aws import DENIED, EXPIRED, SECRET_KEY, THROTTLED, TOKEN, AWSProxy, Moto, Reply
from tests.helpers.vectors import vectors

T = TypeVar("T")

PAGES_OF_3 = {"token": "", "count": 3, "pending": False}

BEING_DELETED = Reply(
    "InvalidRequestException",
    "You can't create this secret because a secret with this name is already scheduled for deletion.",
)
MARKED = Reply(
    "InvalidRequestException",
    "You can't perform this operation on the secret because it was marked for deletion.",
)
MISSING = Reply("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
TAKEN = Reply("ResourceExistsException", "The operation failed because the secret k already exists.")


def run(config: SecretsManagerConfig, use: Callable[[SecretsManagerKeyStore], Awaitable[T]]) -> T:
    """Connect, use the store, and close it."""

    async def main() -> T:
        store = await connect(config, PluginContext())
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(main())


def failure(config: SecretsManagerConfig, use: Callable[[SecretsManagerKeyStore], Awaitable[object]]) -> KeyStoreError:
    with pytest.raises(KeyStoreError) as caught:
        run(config, use)
    return caught.value


def test_entries_as_the_go_server_writes_them_are_keys(moto: Moto) -> None:
    """It creates a secret of the key's name, with the text and nothing else."""
    config = moto.config()
    entries = {f"k{number}": case["raw"] for number, case in enumerate(vectors("key_encoding")["cases"]) if case["raw"]}
    assert len(entries) > 10
    aws = moto.client(config)
    for name, text in entries.items():
        aws.create_secret(Name=name, SecretString=text)

    async def use(store: SecretsManagerKeyStore) -> None:
        assert {name: (await store.get(name)).decode() for name in entries} == entries

    run(config, use)


def test_key_is_a_secret_as_the_go_server_expects_it(moto: Moto) -> None:
    config = moto.config(kmskey="alias/kes")
    value = KeyVersion.generate("me").encode()
    run(config, lambda store: store.create("my-key", value))
    aws = moto.client(config)
    assert aws.get_secret_value(SecretId="my-key")["SecretString"] == value.decode()
    facts = aws.describe_secret(SecretId="my-key")
    assert facts["KmsKeyId"] == "alias/kes"
    assert not facts.get("Tags")
    assert "Description" not in facts


def test_secret_that_was_imported_as_bytes_is_a_key(moto: Moto) -> None:
    config = moto.config()
    moto.client(config).create_secret(Name="k", SecretBinary=b"text in bytes")
    assert run(config, lambda store: store.get("k")) == b"text in bytes"


def test_secret_without_a_value_is_no_missing_key(moto: Moto) -> None:
    config = moto.config()
    moto.client(config).create_secret(Name="k")
    error = failure(config, lambda store: store.get("k"))
    assert str(error) == "AWS can't read the secret 'k': the secret has no current value"
    assert not isinstance(error, EntryNotFoundError)
    assert isinstance(failure(config, lambda store: store.create("k", b"v")), EntryExistsError)


def test_secrets_of_others_are_not_listed(moto: Moto) -> None:
    config = moto.config()
    for name in ("prod/database", "with.dot", "a@b", "key-1"):
        moto.client(config).create_secret(Name=name, SecretString="v")
    assert run(config, lambda store: store.list()).names == ["key-1"]


@pytest.mark.parametrize("name", ["", "../a", "arn:aws:secretsmanager:us-east-2:123456789012:secret:k-abcdef"])
def test_invalid_name_does_not_reach_aws(moto: Moto, proxy: AWSProxy, name: str) -> None:
    config = moto.config(endpoint=proxy.url)
    for error in (
        failure(config, lambda store: store.create(name, b"v")),
        failure(config, lambda store: store.get(name)),
        failure(config, lambda store: store.delete(name)),
    ):
        assert str(error) == "not a valid name for a key"
    assert set(proxy.operations) == {"ListSecrets"}


# Creates


@pytest.mark.parametrize("lost", [["lose"], ["cut"]], ids=["after it succeeded", "before"])
def test_lost_answer_to_a_create_is_no_error(moto: Moto, proxy: AWSProxy, lost: list[str]) -> None:
    config = moto.config(endpoint=proxy.url)
    proxy.plan("CreateSecret", *lost)
    run(config, lambda store: store.create("k", b"v"))
    assert proxy.operations.count("CreateSecret") == 2
    assert run(config, lambda store: store.get("k")) == b"v"


def test_lost_create_that_aws_reports_as_taken_is_recognized(
    moto: Moto, proxy: AWSProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kes_aws.store._APPEARS", 60.0)
    config = moto.config(endpoint=proxy.url)
    proxy.plan("CreateSecret", "lose", TAKEN)
    proxy.plan("GetSecretValue", MISSING, "pass")
    run(config, lambda store: store.create("k", b"v"))


def test_lost_create_whose_repetition_is_throttled_is_recognized(moto: Moto, proxy: AWSProxy) -> None:
    """Otherwise the server would repeat it, and find its own key in the way."""
    proxy.plan("CreateSecret", "lose", THROTTLED)
    run(moto.config(endpoint=proxy.url), lambda store: store.create("k", b"v"))


def test_lost_create_of_a_name_that_another_took_is_refused(moto: Moto, proxy: AWSProxy) -> None:
    config = moto.config(endpoint=proxy.url)
    moto.client(config).create_secret(Name="k", SecretString="of another")
    proxy.plan("CreateSecret", "cut", "pass")
    assert isinstance(failure(config, lambda store: store.create("k", b"v")), EntryExistsError)
    assert run(config, lambda store: store.get("k")) == b"of another"


def test_of_eight_servers_that_create_one_key_one_wins(moto: Moto) -> None:
    config = moto.config()

    async def race() -> None:
        stores = [await connect(config, PluginContext()) for _ in range(8)]
        for turn in range(3):
            name = f"k{turn}"
            calls = [store.create(name, b"of %d" % number) for number, store in enumerate(stores)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            (winner,) = [number for number, result in enumerate(results) if result is None]
            assert all(isinstance(result, EntryExistsError) for result in results if result is not None)
            assert {await store.get(name) for store in stores} == {b"of %d" % winner}
        for store in stores:
            await store.close()

    asyncio.run(race())


def test_kms_key_that_does_not_exist_is_named(moto: Moto, proxy: AWSProxy) -> None:
    proxy.plan("CreateSecret", Reply("ResourceNotFoundException", "Alias alias/kes is not found."))
    error = failure(moto.config(endpoint=proxy.url, kmskey="alias/kes"), lambda store: store.create("k", b"v"))
    assert str(error) == "AWS can't create the secret 'k': the KMS key 'alias/kes' does not exist"
    assert not isinstance(error, EntryNotFoundError)


# Deletions


def test_deletion_is_for_good(moto: Moto) -> None:
    config = moto.config()

    async def use(store: SecretsManagerKeyStore) -> None:
        await store.create("k", b"v")
        await store.delete("k")

    run(config, use)
    assert moto.client(config).list_secrets(IncludePlannedDeletion=True)["SecretList"] == []


def test_delete_returns_when_aws_has_finished(moto: Moto, proxy: AWSProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS deletes a moment after it has answered."""
    monkeypatch.setattr("kes_aws.store._DISAPPEARS", 60.0)
    config = moto.config(endpoint=proxy.url)
    moto.client(config).create_secret(Name="k", SecretString="v")
    proxy.plan("GetSecretValue", MARKED, MARKED, "pass")
    run(config, lambda store: store.delete("k"))


def test_deletion_that_takes_long_ends_the_key_nevertheless(
    moto: Moto, proxy: AWSProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kes_aws.store._DISAPPEARS", 0.1)
    config = moto.config(endpoint=proxy.url)
    moto.client(config).create_secret(Name="k", SecretString="v")
    proxy.always("GetSecretValue", MARKED)
    proxy.always("CreateSecret", BEING_DELETED)

    async def use(store: SecretsManagerKeyStore) -> None:
        await store.delete("k")
        with pytest.raises(EntryNotFoundError):
            await store.get("k")
        with pytest.raises(KeyStoreError, match="AWS is still deleting the former secret 'k': try again"):
            await store.create("k", b"new")

    run(config, use)
    assert "AWS has accepted to delete the secret 'k', but has not finished yet" in caplog.text


def test_name_of_a_deleted_key_is_free_a_moment_later(
    moto: Moto, proxy: AWSProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kes_aws.store._DISAPPEARS", 60.0)
    config = moto.config(endpoint=proxy.url)
    proxy.plan("CreateSecret", BEING_DELETED, BEING_DELETED, "pass")
    run(config, lambda store: store.create("k", b"new"))
    assert run(config, lambda store: store.get("k")) == b"new"


def test_delete_does_not_wait_for_the_key_that_another_server_created_anew(moto: Moto, proxy: AWSProxy) -> None:
    config = moto.config(endpoint=proxy.url)
    moto.client(config).create_secret(Name="k", SecretString="old")
    new = {"ARN": "arn:aws:secretsmanager:test:123456789012:secret:k-another", "Name": "k", "SecretString": "new"}
    proxy.always("GetSecretValue", Reply("", status=200, body=json.dumps(new).encode()))
    run(config, lambda store: store.delete("k"))
    assert proxy.operations.count("GetSecretValue") == 1


def test_secret_in_its_recovery_window_is_no_missing_key(
    moto: Moto, proxy: AWSProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has deleted it without force. moto says that the name is taken, and AWS says why."""
    monkeypatch.setattr("kes_aws.store._DISAPPEARS", 0.1)
    config = moto.config(endpoint=proxy.url)
    aws = moto.client(config)
    aws.create_secret(Name="k", SecretString="v")
    aws.delete_secret(SecretId="k", RecoveryWindowInDays=7)
    proxy.always("CreateSecret", BEING_DELETED)
    told = (
        "the name 'k' is taken: its secret is scheduled for deletion; 'aws secretsmanager restore-secret "
        "--secret-id k' brings it back, and 'kes key rm k' deletes it for good"
    )
    for error in (
        failure(config, lambda store: store.get("k")),
        failure(config, lambda store: store.create("k", b"v")),
    ):
        assert str(error) == told
        assert not isinstance(error, EntryNotFoundError | EntryExistsError)
    aws.restore_secret(SecretId="k")
    assert run(config, lambda store: store.get("k")) == b"v"
    aws.delete_secret(SecretId="k", RecoveryWindowInDays=7)
    run(config, lambda store: store.delete("k"))
    assert aws.list_secrets(IncludePlannedDeletion=True)["SecretList"] == []


def test_secret_that_can_not_be_deleted_says_why(moto: Moto, proxy: AWSProxy) -> None:
    text = "You can't delete secret k that still has replica regions [eu-west-1]"
    proxy.plan("DeleteSecret", Reply("InvalidRequestException", text))
    error = failure(moto.config(endpoint=proxy.url), lambda store: store.delete("k"))
    assert str(error) == f"AWS can't delete the secret 'k' (InvalidRequestException): {text}"


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

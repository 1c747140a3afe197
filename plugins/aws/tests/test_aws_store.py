"""What the AWS store promises beyond the contract: the Go server's entries, races, deletions."""

from __future__ import annotations

import asyncio
import json

import pytest

from kes_aws.store import SecretsManagerKeyStore, connect
from kes_core import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    PluginContext,
)
from kes_core.keys.stored import KeyVersion
from tests.helpers.aws import THROTTLED, AWSProxy, Moto, Reply
from tests.helpers.aws_store import failure, run
from tests.helpers.vectors import vectors

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

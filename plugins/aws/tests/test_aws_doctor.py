"""What `kes doctor` finds in AWS, permission by permission."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kes_aws.config import AWSConfig, SecretsManagerConfig
from kes_aws.doctor import diagnose as diagnose_aws
from kes_aws.policy import access_policy
from kes_aws.store import SecretsManagerKeyStore, connect
from kes_core import Finding, PluginContext
from kes_core.plugins import load_plugins
from tests.helpers.aws import EXPIRED, SECRET_KEY, TOKEN, AWSProxy, Moto, Reply
from tests.helpers.doctor import finding_with, levels

ACTIONS = ["CreateSecret", "DeleteSecret", "GetSecretValue", "ListSecrets"]


def diagnose(config: SecretsManagerConfig) -> Sequence[Finding]:
    findings = asyncio.run(diagnose_aws(config, PluginContext()))
    for finding in findings:
        assert SECRET_KEY not in str(finding)
        assert TOKEN not in str(finding)
    return findings


def without_token(moto: Moto, **fields: Any) -> SecretsManagerConfig:
    return moto.config(credentials={"accesskey": "AKIA", "secretkey": SECRET_KEY}, **fields)


@pytest.fixture(scope="module")
def account() -> Iterator[Moto]:
    """A moto that has users with policies, too."""
    with Moto.running("") as server:
        yield server


async def lifecycle(store: SecretsManagerKeyStore) -> None:
    await store.create("another", b"v")
    assert await store.get("another") == b"v"
    assert (await store.list()).names
    await store.delete("another")
    await store.status()


def test_policy_is_the_least_that_works(account: Moto) -> None:
    """With it all works, and the doctor is content; without one of its actions, the doctor names that action."""
    with AWSProxy(account).running() as proxy:
        config = without_token(account, endpoint=proxy.url)
        account.client(config).create_secret(Name="k", SecretString="v")
        policy = access_policy(config)
        users = {action: account.user_with_policy(policy, without=action) for action in ["", *ACTIONS]}

        def of_user(action: str) -> SecretsManagerConfig:
            return account.config(endpoint=proxy.url, region=config.region, credentials=users[action])

        async def use() -> None:
            store = await connect(of_user(""), PluginContext())
            await lifecycle(store)
            await store.close()

        with account.checking_policies():
            asyncio.run(use())
            assert levels(diagnose(of_user(""))) == {"ok"}
            for action in ACTIONS:
                findings = diagnose(of_user(action))
                missing = finding_with(findings, f"{action} is not granted")
                assert missing.level == "warning"
                assert f"is not authorized to perform: secretsmanager:{action}" in missing.message
                assert "kes doctor store-policy" in missing.cure
                others = {finding.message for finding in findings if finding.level == "warning"}
                assert others == {missing.message}
            (refused,) = diagnose(wrong_secret(of_user("")))
            assert "AWS does not accept the credentials (InvalidSignatureException)" in refused.message
    assert account.client(config).list_secrets()["SecretList"][0]["Name"] == "k"


def wrong_secret(config: SecretsManagerConfig) -> SecretsManagerConfig:
    credentials = {"accesskey": config.credentials.accesskey.get(), "secretkey": "another"}
    return SecretsManagerConfig.model_validate(
        {"endpoint": config.endpoint, "region": config.region, "credentials": credentials}
    )


def test_doctor_changes_nothing(moto: Moto, proxy: AWSProxy) -> None:
    config = without_token(moto, endpoint=proxy.url)
    aws = moto.client(config)
    aws.create_secret(Name="k", SecretString="v")
    before = aws.describe_secret(SecretId="k")["VersionIdsToStages"]
    assert levels(diagnose(config)) == {"ok"}
    assert aws.describe_secret(SecretId="k")["VersionIdsToStages"] == before
    assert [secret["Name"] for secret in aws.list_secrets(IncludePlannedDeletion=True)["SecretList"]] == ["k"]
    assert "CreateSecret" in proxy.operations


def test_empty_store_leaves_creating_to_be_seen(moto: Moto, proxy: AWSProxy) -> None:
    config = without_token(moto, endpoint=proxy.url, kmskey="alias/kes")
    findings = diagnose(config)
    assert levels(findings) == {"ok", "note"}
    assert finding_with(findings, "CreateSecret was not examined: that needs a secret that exists")
    assert finding_with(findings, "kms:GenerateDataKey on alias/kes was not examined")
    assert "CreateSecret" not in proxy.operations


def test_secret_that_is_gone_when_the_doctor_tries_to_create_it(moto: Moto, proxy: AWSProxy) -> None:
    config = without_token(moto, endpoint=proxy.url)
    listed = {"SecretList": [{"Name": "gone"}]}
    proxy.plan("ListSecrets", Reply("", status=200, body=json.dumps(listed).encode()))
    assert levels(diagnose(config)) == {"ok"}
    assert moto.client(config).list_secrets(IncludePlannedDeletion=True)["SecretList"] == []


def test_secrets_that_are_no_safe_place(moto: Moto, proxy: AWSProxy) -> None:
    config = without_token(moto, endpoint=proxy.url)
    aws = moto.client(config)
    for name in ("safe", "pending", "like-an-abc123"):
        aws.create_secret(Name=name, SecretString="v")
    aws.delete_secret(SecretId="pending", RecoveryWindowInDays=7)
    findings = diagnose(config)
    pending = finding_with(findings, "the secret 'pending' is scheduled for deletion")
    assert pending.level == "warning"
    assert pending.cure == f"aws secretsmanager restore-secret --region {config.region} --secret-id pending"
    assert finding_with(findings, "the name 'like-an-abc123' ends like an ARN").level == "note"
    rotated = {"SecretList": [{"Name": "safe", "RotationEnabled": True}]}
    proxy.plan("ListSecrets", Reply("", status=200, body=json.dumps(rotated).encode()))
    rotation = finding_with(diagnose(config), "AWS rotates the secret 'safe'")
    assert rotation.level == "warning"
    assert "cancel-rotate-secret" in rotation.cure


def test_secret_that_can_not_be_decrypted(moto: Moto, proxy: AWSProxy) -> None:
    config = without_token(moto, endpoint=proxy.url)
    moto.client(config).create_secret(Name="k", SecretString="v")
    kms = Reply("AccessDeniedException", "Access to KMS is not allowed")
    proxy.plan("GetSecretValue", "pass", "pass", kms)
    finding = finding_with(diagnose(config), "Access to KMS is not allowed")
    assert finding.level == "error"
    proxy.plan("GetSecretValue", "pass", "pass", Reply("DecryptionFailure", "no"))
    assert finding_with(diagnose(config), "the KMS key of the secret is disabled").level == "error"


def test_credentials_that_will_not_last(moto: Moto) -> None:
    findings = diagnose(moto.config())
    assert finding_with(findings, "AWS accepts them; they come from the configuration")
    assert finding_with(findings, "credentials.token belongs to temporary credentials").level == "warning"


@pytest.mark.parametrize(
    ("what", "text", "cure"),
    [
        (EXPIRED, "the credentials for AWS have expired", "aws sts get-caller-identity"),
        ("cut", "can't be reached: the connection was closed", "see what is in the way: curl http"),
    ],
    ids=["expired", "cut"],
)
def test_failure_that_hides_the_rest(moto: Moto, proxy: AWSProxy, what: Reply | str, text: str, cure: str) -> None:
    proxy.always("*", what)
    (finding,) = diagnose(moto.config(endpoint=proxy.url))
    assert finding.level == "error"
    assert text in finding.message
    assert finding.cure.startswith(cure)


def test_clock_that_is_wrong(moto: Moto, proxy: AWSProxy) -> None:
    date = {"date": "Thu, 26 Nov 2020 04:43:37 GMT"}
    proxy.plan("GetSecretValue", Reply("ResourceNotFoundException", headers=date))
    finding = finding_with(diagnose(without_token(moto, endpoint=proxy.url)), "the clock of this machine is")
    assert "ahead of that of AWS" in finding.message


def test_endpoint_without_tls() -> None:
    section = {
        "endpoint": "http://aws.invalid",
        "region": "us-east-2",
        "credentials": {"accesskey": "a", "secretkey": "b"},
    }
    (finding,) = diagnose(SecretsManagerConfig.model_validate(section))
    assert "its host name can't be resolved" in finding.message


def test_plugin_brings_doctor_and_policy(moto: Moto) -> None:
    backend = load_plugins().backends["aws"]
    assert backend.diagnose is not None
    assert backend.access_policy is not None
    section = AWSConfig.model_validate({"secretsmanager": moto.section()})
    found = asyncio.run(backend.diagnose(section, PluginContext()))  # type: ignore[arg-type] # a coroutine
    assert {finding.subject for finding in found} == {"AWS", "AWS credentials", "AWS policy"}
    policy = json.loads(backend.access_policy(section))
    assert policy["Statement"][0]["Resource"] == f"arn:aws:secretsmanager:{section.secretsmanager.region}:*:secret:*"

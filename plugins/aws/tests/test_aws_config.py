"""The section `keystore.aws`: what the Go server reads is read, and each mistake has an error of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from kes_aws.config import AWSConfig, SecretsManagerConfig
from kes_aws.policy import access_policy
from kes_core.config import ConfigError, parse_config
from kes_core.plugins import load_plugins
from tests.helpers.vectors import vectors

HEAD = "admin: {identity: a}\ntls: {key: k, cert: c}\nkeystore:\n  aws:\n"
GOOD = "endpoint: secretsmanager.us-east-2.amazonaws.com\nregion: us-east-2"
HOST = "is not a host or URL; expected one like secretsmanager.us-east-2.amazonaws.com"
PARTS = "Without both, and without 'token', the server uses the credentials of its environment or its role"

BROKEN = {
    "region: us-east-2": "5: endpoint: required, but missing",
    "endpoint: a": "5: region: required, but missing",
    "endpoint: ''\nregion: us": "6: endpoint: '' is empty, but required",
    "endpoint: https://a/b\nregion: us": f"6: endpoint: 'https://a/b' {HOST}",
    "endpoint: ftp://a\nregion: us": f"6: endpoint: 'ftp://a' {HOST}",
    "endpoint: a:99999\nregion: us": f"6: endpoint: 'a:99999' {HOST}",
    "endpoint: https://me:pw@a\nregion: us": "6: endpoint: must not hold a user or a "
    f"password; {HOST.partition('; ')[2]}",
    "endpoint: a\nregion: US East": "7: region: 'US East' is not the name of an AWS region; "
    "expected one like us-east-2",
    f"{GOOD}\nkmskey: my key": "8: kmskey: 'my key' is not a KMS key; expected a key ID, an "
    "ARN, or an alias like alias/kes",
    f"{GOOD}\nkms_key: a": "8: kms_key: unknown field; did you mean 'kmskey'?",
    f"{GOOD}\ntimeout: 1ms": "8: timeout: '1ms' is too short; the shortest is 100ms",
    f"{GOOD}\ntls:\n  ca: none.pem": "9: tls.ca: 'none.pem' is not a file that can be read",
    f"{GOOD}\ncredentials:\n  accesskey: a": "8: credentials: an access key has two parts; "
    f"'secretkey' is missing. {PARTS}",
    f"{GOOD}\ncredentials:\n  secretkey: a": "8: credentials: an access key has two parts; "
    f"'accesskey' is missing. {PARTS}",
    f"{GOOD}\ncredentials:\n  token: a": "8: credentials: an access key has two parts; "
    f"'accesskey' is missing. {PARTS}",
}


@pytest.mark.parametrize("section", BROKEN, ids=range(len(BROKEN)))
def test_message(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"{HEAD}    secretsmanager:\n{textwrap.indent(section, '      ')}"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename="config.yml", plugins=load_plugins(), environ={})
    (problem,) = caught.value.problems
    line, _, message = BROKEN[section].partition(": ")
    assert str(problem).startswith(f"config.yml:{line}: keystore.aws.secretsmanager.{message}")


GO = [
    case
    for case in vectors("config")["cases"]
    if "aws" in case["name"] and not case["name"].startswith("more than one")
]


@pytest.mark.parametrize("case", GO, ids=lambda case: str(case["name"]))
def test_configurations_of_the_go_server(case: dict[str, Any]) -> None:
    def read() -> SecretsManagerConfig:
        config = parse_config(case["yaml"], filename="config.yml", plugins=load_plugins(), environ={})
        assert isinstance(config.keystore.config, AWSConfig)
        return config.keystore.config.secretsmanager

    if case.get("should_fail"):
        with pytest.raises(ConfigError):
            read()
        return
    expected = case["expected"]["keystore"]
    config = read()
    assert config.endpoint == f"https://{expected['endpoint']}"
    assert (config.region, config.kmskey) == (expected["region"], expected["kmskey"])
    found = config.credentials
    assert (found.accesskey.get(), found.secretkey.get(), found.token.get()) == (
        expected["accesskey"],
        expected["secretkey"],
        expected["token"],
    )
    assert expected["secretkey"] == "" or expected["secretkey"] not in repr(config)


def policy(**fields: str) -> str:
    section = {"endpoint": "a", "region": "us-east-2", **fields}
    return access_policy(SecretsManagerConfig.model_validate(section))


def test_policy_names_region_and_partition() -> None:
    assert '"arn:aws:secretsmanager:us-east-2:*:secret:*"' in policy()
    assert '"arn:aws-cn:secretsmanager:cn-north-1:*:secret:*"' in policy(region="cn-north-1")
    assert '"arn:aws-us-gov:secretsmanager:us-gov-west-1:*:secret:*"' in policy(region="us-gov-west-1")
    assert "kms" not in policy()


def test_policy_of_the_documentation() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    assert f"```json\n{policy()}```" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("1234abcd-12ab", ['"Resource": "arn:aws:kms:us-east-2:*:key/1234abcd-12ab"']),
        ("arn:aws:kms:us-east-2:1:key/a-b", ['"Resource": "arn:aws:kms:us-east-2:1:key/a-b"']),
        ("alias/kes", ['"Resource": "arn:aws:kms:us-east-2:*:key/*"', '"kms:ResourceAliases": "alias/kes"']),
        (
            "arn:aws:kms:us-east-2:1:alias/team/kes",
            ['"Resource": "arn:aws:kms:us-east-2:1:key/*"', '"kms:ResourceAliases": "alias/team/kes"'],
        ),
    ],
)
def test_policy_for_a_kms_key(key: str, lines: list[str]) -> None:
    text = policy(kmskey=key)
    for line in (*lines, '"kms:Decrypt"', '"kms:GenerateDataKey"', '"secretsmanager.us-east-2.amazonaws.com"'):
        assert line in text

"""The least policy that the server needs in AWS, as `kes doctor store-policy` prints it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kes_aws.config import SecretsManagerConfig

__all__ = ["ACTIONS", "access_policy"]

ACTIONS: Final = ("CreateSecret", "DeleteSecret", "GetSecretValue")
"""What the server does with secrets. Listing them is another permission: it can't be limited to some of them."""
_PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b"}


def access_policy(config: SecretsManagerConfig) -> str:
    """Return the policy as JSON, for `aws iam put-role-policy`.

    Actions and resources: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecretsmanager.html
    and, for a KMS key, https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html.
    """
    region = config.region
    partition = next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")
    statements: list[dict[str, Any]] = [
        {
            "Sid": "KesKeys",
            "Effect": "Allow",
            "Action": [f"secretsmanager:{action}" for action in ACTIONS],
            "Resource": f"arn:{partition}:secretsmanager:{region}:*:secret:*",
        },
        {"Sid": "KesListing", "Effect": "Allow", "Action": "secretsmanager:ListSecrets", "Resource": "*"},
    ]
    if config.kmskey:
        statements.append(_of_kms(config.kmskey, region, partition))
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2) + "\n"


def _of_kms(key: str, region: str, partition: str) -> dict[str, Any]:
    domain = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    condition = {"StringEquals": {"kms:ViaService": f"secretsmanager.{region}.{domain}"}}
    name = key.rpartition(":")[2]
    if name.startswith("alias/"):  # a permission belongs to a key; an alias limits it only as a condition
        account = key.split(":")[4] if key.startswith("arn:") else "*"
        resource = f"arn:{partition}:kms:{region}:{account}:key/*"
        condition["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": name}
    else:
        resource = key if key.startswith("arn:") else f"arn:{partition}:kms:{region}:*:key/{key}"
    return {
        "Sid": "KesEncryption",
        "Effect": "Allow",
        "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Resource": resource,
        "Condition": condition,
    }

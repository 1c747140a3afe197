"""What `kes doctor` finds in AWS Secrets Manager: from the connection to each permission. It changes nothing.

AWS has no way to ask for a permission, so the doctor makes calls that can't succeed, and looks whether AWS says that
they are not permitted or that they make no sense: it reads and deletes a secret that does not exist, and creates one
that does.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kes_aws.errors import CredentialsRefusedError, OperationRefusedError, SecretPendingDeletionError
from kes_aws.store import PAGE, Secrets, SecretsManagerKeyStore
from kes_core import EntryExistsError, EntryNotFoundError, Finding, KeyStoreError, KeyStoreReason, PluginContext
from kes_core.names import is_valid_entry

if TYPE_CHECKING:
    from kes_aws.config import SecretsManagerConfig

__all__ = ["diagnose"]

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CLOCK_TOLERANCE: Final = 60.0
"""Seconds. AWS tolerates 5 minutes."""
_MANY_PAGES: Final = 10
_SUFFIX: Final = 7
"""The length of what AWS puts behind names in an ARN: a hyphen and six characters."""
_POLICY: Final = (
    "kes doctor store-policy > kes.json; aws iam put-role-policy --role-name <role> --policy-name kes "
    "--policy-document file://kes.json"
)
_MATTERS: Final = {
    "GetSecretValue": "no key can be used",
    "CreateSecret": "no key can be created",
    "DeleteSecret": "no key can be deleted",
}
_CERTAIN: Final = ", unless the policy grants it for certain names"
_RENEWED: Final = "the SDK renews them"


async def diagnose(config: SecretsManagerConfig, context: PluginContext) -> Sequence[Finding]:
    """Examine everything that the server needs of AWS, up to the first failure that hides the rest."""
    store = SecretsManagerKeyStore(config, context)
    findings: list[Finding] = []
    try:
        async for finding in _examine(config, store):
            findings.append(finding)  # noqa: PERF401 # those before an error are kept
    except KeyStoreError as error:
        findings.append(Finding.error("AWS", str(error), _cure(config, error)))
    finally:
        await store.close()
    return findings


async def _examine(config: SecretsManagerConfig, store: SecretsManagerKeyStore) -> AsyncIterator[Finding]:
    probe = f"kes-doctor-{uuid.uuid4().hex}"
    try:
        there, here = await store.aws.call("ask for its time", lambda client: _times(client, probe))
    except CredentialsRefusedError as error:
        yield Finding.error("AWS credentials", str(error), _cure(config, error))
        return
    tls = "its certificate is trusted" if config.endpoint.startswith("https:") else "without TLS"
    yield Finding.ok("AWS", f"{config.endpoint} answers, {tls}")
    for finding in (*_encryption(config), *_clock(there, here), *await _credentials(store)):
        yield finding
    secrets: Secrets | None = None
    try:
        secrets, is_complete = await _listed(store)
    except OperationRefusedError as error:
        yield Finding.warning("AWS policy", f"ListSecrets is not granted: keys can't be listed ({error})", _POLICY)
    else:
        yield Finding.ok("AWS policy", "ListSecrets")
    for action, problem in {
        "GetSecretValue": await _problem_of_reading(store, probe),
        "DeleteSecret": await _problem_of_deleting(store, probe),
        "CreateSecret": await _problem_of_creating(store, secrets or ()),
    }.items():
        yield _of_action(action, problem)
    if config.kmskey:
        yield Finding.note(
            "AWS policy",
            f"kms:GenerateDataKey on {config.kmskey} was not examined: only creating a key shows it",
            "kes key create <name>",
        )
    if secrets is not None:
        for finding in (*_entries(config, secrets), *await _value(store, secrets)):
            yield finding
        if not is_complete:
            yield Finding.note("AWS secrets", f"only the first {_MANY_PAGES * PAGE} secrets were looked at")


def _cure(config: SecretsManagerConfig, error: KeyStoreError) -> str:
    if error.reason is KeyStoreReason.UNREACHABLE:
        return f"see what is in the way: curl {config.endpoint}"
    if isinstance(error, CredentialsRefusedError):
        return "aws sts get-caller-identity  # with the same credentials: does AWS know them?"
    return ""


# The connection


def _times(client: Any, probe: str) -> tuple[str, datetime]:
    """Return the time of AWS, as its answer has it, and ours."""
    try:
        answer = client.get_secret_value(SecretId=probe)
    except client.exceptions.ClientError as error:
        answer = error.response
        if answer["Error"].get("Code") not in {"ResourceNotFoundException", "AccessDeniedException"}:
            raise
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")), datetime.now().astimezone()


def _encryption(config: SecretsManagerConfig) -> Iterator[Finding]:
    parts = urlsplit(config.endpoint)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        yield Finding.warning(
            "AWS", f"keys travel to {config.endpoint} unencrypted", "set endpoint to the host alone, or to https://..."
        )


def _clock(there: str, here: datetime) -> Iterator[Finding]:
    """Compare the clocks: AWS accepts a signature only within some minutes."""
    try:
        difference = (here - parsedate_to_datetime(there)).total_seconds()
    except (ValueError, TypeError):
        return
    if abs(difference) > _CLOCK_TOLERANCE:
        word = "ahead of" if difference > 0 else "behind"
        yield Finding.warning(
            "clock",
            f"the clock of this machine is {abs(difference):.0f} s {word} that of AWS, which refuses requests at 300 s",
            "set it by NTP: timedatectl",
        )


async def _credentials(store: SecretsManagerKeyStore) -> Sequence[Finding]:
    origin, are_renewed = await store.aws.origin_of_credentials()
    text = "they come from the configuration" if origin == "explicit" else f"the SDK found them: {origin}"
    findings = [Finding.ok("AWS credentials", f"AWS accepts them; {text}" + (f"; {_RENEWED}" if are_renewed else ""))]
    if store.aws.has_fixed_token:
        findings.append(
            Finding.warning(
                "AWS credentials",
                "credentials.token belongs to temporary credentials, which expire soon: the server can't renew them",
                "give the server a role and remove the section credentials, or use the access key of a user",
            )
        )
    return findings


# What it may do


async def _listed(store: SecretsManagerKeyStore) -> tuple[Secrets, bool]:
    """Return facts about the first secrets, also about those that are scheduled for deletion; and whether it is all."""
    secrets: list[dict[str, Any]] = []
    token = ""
    for _page in range(_MANY_PAGES):
        page, token = await store.page_of_secrets(token=token, pending=True)
        secrets += [secret for secret in page if is_valid_entry(secret["Name"])]
        if not token:
            return secrets, True
    return secrets, False


async def _problem_of_reading(store: SecretsManagerKeyStore, probe: str) -> str:
    try:
        await store.aws.call("read a secret", lambda client: client.get_secret_value(SecretId=probe))
    except EntryNotFoundError:
        pass
    except OperationRefusedError as error:
        return str(error)
    return ""


async def _problem_of_deleting(store: SecretsManagerKeyStore, probe: str) -> str:
    try:  # without force, AWS says that there is no such secret
        await store.aws.call("delete a secret", lambda client: client.delete_secret(SecretId=probe))
    except (EntryNotFoundError, SecretPendingDeletionError):
        pass
    except OperationRefusedError as error:
        return str(error)
    return ""


async def _problem_of_creating(store: SecretsManagerKeyStore, secrets: Secrets) -> str | None:
    """Return what is wrong with the permission to create secrets; None if there is no secret to try it with."""
    taken = next((secret["Name"] for secret in secrets if not secret.get("DeletedDate")), None)
    if taken is None:
        return None

    def create(client: Any) -> None:
        created = client.create_secret(Name=taken, SecretString="kes doctor")["ARN"]
        # Somebody has deleted the secret since it was listed.
        client.delete_secret(SecretId=created, ForceDeleteWithoutRecovery=True)

    try:
        await store.aws.call("create a secret", create)
    except (EntryExistsError, SecretPendingDeletionError):
        pass
    except OperationRefusedError as error:
        return str(error)
    return ""


def _of_action(action: str, problem: str | None) -> Finding:
    if problem is None:
        return Finding.note(
            "AWS policy", f"{action} was not examined: that needs a secret that exists", "kes key create <name>"
        )
    if not problem:
        return Finding.ok("AWS policy", action)
    return Finding.warning("AWS policy", f"{action} is not granted: {_MATTERS[action]}{_CERTAIN} ({problem})", _POLICY)


# What is stored


def _entries(config: SecretsManagerConfig, secrets: Secrets) -> Iterator[Finding]:
    """Find secrets that are no safe place for a key."""
    for secret in secrets:
        name = secret["Name"]
        if secret.get("DeletedDate"):
            yield Finding.warning(
                "AWS secrets",
                f"the secret {name!r} is scheduled for deletion: it can't be used, and its name is taken",
                f"aws secretsmanager restore-secret --region {config.region} --secret-id {name}",
            )
        if secret.get("RotationEnabled"):
            yield Finding.warning(
                "AWS secrets",
                f"AWS rotates the secret {name!r}: if it is a key, all that is encrypted under it will be lost",
                f"aws secretsmanager cancel-rotate-secret --region {config.region} --secret-id {name}",
            )
        if name[-_SUFFIX : -_SUFFIX + 1] == "-" and name[-_SUFFIX + 1 :].isalnum():
            yield Finding.note(
                "AWS secrets",
                f"the name {name!r} ends like an ARN, in a hyphen and six characters: other tools may confuse it",
            )


async def _value(store: SecretsManagerKeyStore, secrets: Secrets) -> Sequence[Finding]:
    """Read one secret, which needs the permission for its KMS key too."""
    name = next((secret["Name"] for secret in secrets if not secret.get("DeletedDate")), None)
    if name is None:
        return []
    try:
        await store.get(name)
    except EntryNotFoundError:
        return []  # deleted meanwhile
    except OperationRefusedError as error:
        if "KMS" not in str(error):
            return []  # which is found already, or the policy grants it for certain names
        return [Finding.error("AWS secrets", str(error), _POLICY)]
    except KeyStoreError as error:
        return [Finding.error("AWS secrets", str(error))]
    return [Finding.ok("AWS secrets", f"the secret {name!r} can be read and decrypted")]

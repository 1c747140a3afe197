"""Keys in AWS Secrets Manager: each is a secret of the same name, as the Go server stores it.

https://docs.aws.amazon.com/secretsmanager/latest/apireference/ describes the operations.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_random_exponential

from kes_aws.client import SecretsManager, unanswered
from kes_aws.errors import (
    MisconfiguredError,
    NotAWSError,
    OperationRefusedError,
    SecretPendingDeletionError,
)
from kes_core import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
    Page,
    PluginContext,
    StoreCapabilities,
)
from kes_core.keystore import PAGE_SIZE
from kes_core.names import is_valid_entry

if TYPE_CHECKING:
    from kes_aws.config import SecretsManagerConfig

__all__ = ["SecretsManagerKeyStore", "connect"]

PAGE: Final = 100
"""The most secrets in one answer of `ListSecrets`."""
_LATE: Final = 300.0
"""Seconds that a listing may be late: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html.
Reads are hardly late, but AWS promises nothing."""
_APPEARS: Final = 2.0
"""Seconds to wait for a secret that AWS says exists."""
_DISAPPEARS: Final = 5.0
"""Seconds to wait for the end of a deletion. AWS says that it takes a moment, and not how long."""
_DELETING: Final = 60.0
"""Seconds for which a secret that was deleted for good, and that AWS calls scheduled for deletion, counts as gone."""
_ASKABLE: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
"""The beginnings of names of keys. AWS has a meaning, or an error, for other characters."""
Secrets = Sequence[dict[str, Any]]
"""What AWS lists: facts about secrets, without their values."""
_EMPTY: Final = "empty:"
"""Stands for an empty value, which AWS does not store. A value of this text is stored in binary form."""


async def connect(config: SecretsManagerConfig, context: PluginContext) -> SecretsManagerKeyStore:
    """Find the credentials and ask AWS whether it accepts them. Count the requests in the metrics of `context`.

    Raises:
        KeyStoreError: The store can't work. The message says what to do.
    """
    store = SecretsManagerKeyStore(config, context)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.start_timeout
    reason = ""
    try:
        while True:
            try:
                await store.status()
            except (KeyStoreUnreachableError, KeyStoreThrottledError) as error:
                pause = min(1.0, deadline - loop.time())
                if pause <= 0:
                    raise
                if str(error) != reason:
                    reason = str(error)
                    context.logger.warning("waiting for AWS: %s", reason)
                await asyncio.sleep(pause)
            else:
                return store
    except BaseException:
        await store.close()
        raise


class SecretsManagerKeyStore(KeyStore):
    """Keeps each key in a secret of its own."""

    check_interval = 60.0  # AWS charges for each read
    capabilities = StoreCapabilities(ordered=False, eventually_consistent=_LATE)

    def __init__(self, config: SecretsManagerConfig, context: PluginContext) -> None:
        self._config = config
        self._logger = context.logger
        self.aws = SecretsManager(config, context)
        self._deleted = _Recent()
        """The names of secrets that this store has deleted for good, and that AWS may still be deleting."""

    def __repr__(self) -> str:
        return f"<SecretsManagerKeyStore at {self._config.endpoint}>"

    async def close(self) -> None:
        self.aws.close()

    async def status(self) -> None:
        try:
            await self.page_of_secrets(count=1)
        except OperationRefusedError:
            pass  # AWS accepts the credentials, and listing is a permission of its own

    async def create(self, name: str, value: bytes) -> None:
        _check(name)
        request = {"Name": name, "ClientRequestToken": str(uuid.uuid4()), **_form_of(value)}
        if self._config.kmskey:
            request["KmsKeyId"] = self._config.kmskey
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(SecretPendingDeletionError),
            stop=stop_after_delay(_DISAPPEARS),
            wait=wait_random_exponential(0.2, 1.0),
            reraise=True,
        )
        try:
            await attempts(self._create, name, request)
        except SecretPendingDeletionError:
            raise _taken(name) if name not in self._deleted else _deleting(name) from None
        self._deleted.discard(name)

    async def _create(self, name: str, request: dict[str, Any]) -> None:
        """Create a secret. If there is no answer, ask again: AWS recognizes the request by its token."""
        what, token = f"create the secret {name!r}", request["ClientRequestToken"]

        def create(client: Any) -> None:
            if _field(client.create_secret(**request), "VersionId") != token:
                raise NotAWSError

        number = 0
        try:
            async for attempt in unanswered():
                with attempt:
                    number = attempt.retry_state.attempt_number
                    await self.aws.call_once(what, create)
        except (EntryExistsError, KeyStoreThrottledError) as error:
            if number > 1 and await self._is_ours(name, token):
                return
            if isinstance(error, KeyStoreThrottledError):
                raise
            raise EntryExistsError(f"key {name!r} already exists") from None
        except EntryNotFoundError:
            raise MisconfiguredError(f"AWS can't {what}: the KMS key {self._config.kmskey!r} does not exist") from None

    async def _is_ours(self, name: str, token: str) -> bool:
        """Tell whether a secret is that of a request whose answer was lost: it has the token of the request."""
        attempts = AsyncRetrying(
            retry=retry_if_result(lambda answer: answer is None),
            stop=stop_after_delay(_APPEARS),
            wait=wait_random_exponential(0.1, 1.0),
            retry_error_callback=lambda _state: None,
        )
        answer: dict[str, Any] | None = await attempts(self._read, name)
        return answer is not None and answer.get("VersionId") == token

    async def get(self, name: str) -> bytes:
        try:
            answer = await self._read(name)
        except SecretPendingDeletionError:
            if name not in self._deleted:
                raise _taken(name) from None
            answer = None
        if answer is None or answer.get("Name") != name:  # AWS takes parts of an ARN for a name too
            raise EntryNotFoundError(f"key {name!r} does not exist")
        return _value_of(answer)

    async def _read(self, name: str) -> dict[str, Any] | None:
        """Return what AWS says of a secret, with its value; None if there is none."""
        _check(name)

        def read(client: Any) -> dict[str, Any]:
            answer: dict[str, Any] = client.get_secret_value(SecretId=name)
            if not isinstance(_field(answer, "Name"), str):
                raise NotAWSError
            return answer

        try:
            return await self.aws.call(f"read the secret {name!r}", read)
        except EntryNotFoundError:
            return None

    async def delete(self, name: str) -> None:
        """Delete a key for good. AWS does not tell whether there was one."""
        _check(name)

        def delete(client: Any) -> str:
            return str(_field(client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True), "ARN"))

        try:
            deleted = await self.aws.call(f"delete the secret {name!r}", delete)
        except EntryNotFoundError:
            raise EntryNotFoundError(f"key {name!r} does not exist") from None
        except SecretPendingDeletionError:
            deleted = ""  # another delete of it runs
        self._deleted.add(name)
        attempts = AsyncRetrying(
            retry=retry_if_result(lambda is_there: is_there),
            stop=stop_after_delay(_DISAPPEARS),
            wait=wait_random_exponential(0.1, 1.0),
            retry_error_callback=lambda _state: True,
        )
        is_there: bool = await attempts(self._is_still_there, name, deleted)
        if is_there:
            self._logger.warning("AWS has accepted to delete the secret %r, but has not finished yet", name)

    async def _is_still_there(self, name: str, deleted: str) -> bool:
        """Tell whether a deleted secret still exists. Another server may have created a new one meanwhile."""
        try:
            answer = await self._read(name)
        except SecretPendingDeletionError:
            return True
        except OperationRefusedError:
            return False  # that can't be known
        return answer is not None and answer.get("ARN") == deleted

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        if not _ASKABLE.fullmatch(prefix):
            return Page([], "")
        names: set[str] = set()
        token = ""
        while True:
            secrets, following = await self.page_of_secrets(prefix, token=token)
            found = {str(secret["Name"]) for secret in secrets}
            names |= {name for name in found if name.startswith(prefix) and is_valid_entry(name)}
            if not following:
                return Page([*names], "")
            if following == token:
                raise KeyStoreError("AWS's listing of secrets does not end")
            token = following

    async def page_of_secrets(
        self, prefix: str = "", *, token: str = "", count: int = PAGE, pending: bool = False
    ) -> tuple[Secrets, str]:
        """Return what AWS lists, and the token of the next page: an empty text at the end.

        AWS has no order of names, so a listing needs all of its pages.
        """
        request: dict[str, Any] = {"MaxResults": count, "IncludePlannedDeletion": pending}
        if prefix:
            request["Filters"] = [{"Key": "name", "Values": [prefix]}]
        if token:
            request["NextToken"] = token

        def read(client: Any) -> tuple[Secrets, str]:
            answer = client.list_secrets(**request)
            secrets = _field(answer, "SecretList")
            if not all(isinstance(secret.get("Name"), str) for secret in secrets):
                raise NotAWSError
            return secrets, str(answer.get("NextToken") or "")

        return await self.aws.call("list the secrets", read)


class _Recent:
    """Names of secrets that were deleted a moment ago."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, name: str) -> None:
        now = time.monotonic()
        self._until = {other: until for other, until in self._until.items() if until > now}
        self._until[name] = now + _DELETING

    def discard(self, name: str) -> None:
        self._until.pop(name, None)

    def __contains__(self, name: str) -> bool:
        return self._until.get(name, 0.0) > time.monotonic()


def _check(name: str) -> None:
    """Refuse what is not a key's name. The server does that too, but AWS would take an ARN for a secret of anybody."""
    if not is_valid_entry(name):
        raise KeyStoreError("not a valid name for a key")


def _deleting(name: str) -> KeyStoreError:
    return KeyStoreError(f"AWS is still deleting the former secret {name!r}: try again")


def _taken(name: str) -> KeyStoreError:
    return KeyStoreError(
        f"the name {name!r} is taken: its secret is scheduled for deletion; 'aws secretsmanager restore-secret "
        f"--secret-id {name}' brings it back, and 'kes key rm {name}' deletes it for good"
    )


def _field(answer: Any, name: str) -> Any:
    """Return a field of an answer of AWS.

    Raises:
        NotAWSError: There is none: AWS did not answer.
    """
    found = answer.get(name) if isinstance(answer, dict) else None
    if found is None:
        raise NotAWSError
    return found


def _form_of(value: bytes) -> dict[str, Any]:
    """Return a value as AWS stores it: text as text, as the Go server does, and anything else in binary form."""
    try:
        text = value.decode("utf-8") or _EMPTY
    except UnicodeDecodeError:
        return {"SecretBinary": value}
    return {"SecretBinary": value} if text == _EMPTY and value else {"SecretString": text}


def _value_of(answer: dict[str, Any]) -> bytes:
    text, binary = answer.get("SecretString"), answer.get("SecretBinary")
    if isinstance(text, str):
        return b"" if text == _EMPTY else text.encode("utf-8")
    if isinstance(binary, bytes):
        return binary
    raise KeyStoreError(f"the secret {answer['Name']!r} has neither text nor bytes")

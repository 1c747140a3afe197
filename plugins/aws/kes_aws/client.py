"""Calls of AWS's SDK, which blocks, on worker threads.

The SDK keeps connections, signs requests, and finds and renews credentials. It would also repeat requests that fail,
but on its thread, for long, and without a word on whether AWS may have done what was asked. So each call makes one
request, and is repeated here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3.session
from botocore.config import Config as ClientConfig
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from kes_aws.errors import is_about_credentials, translate
from kes_core import BlockingCalls, KeyStoreError, KeyStoreUnreachableError, PluginContext

if TYPE_CHECKING:
    from kes_aws.config import SecretsManagerConfig

__all__ = ["SecretsManager", "unanswered"]

T = TypeVar("T")

THREADS: Final = 16
_ATTEMPTS: Final = 2
"""The most requests of a call that gets no answer."""
_LONGEST_PAUSE: Final = 0.5
"""Seconds between them."""
_CONNECT_TIMEOUT: Final = 3.0
_LOOK_AGAIN: Final = 5.0
"""Seconds between two searches for new credentials."""
_LOUD_LOGGERS: Final = ("boto3", "botocore")


class SecretsManager:
    """A client of AWS Secrets Manager."""

    def __init__(self, config: SecretsManagerConfig, context: PluginContext) -> None:
        self.endpoint = config.endpoint
        self._logger = context.logger
        self._count = context.metrics.counter("requests", "Requests to AWS Secrets Manager, for which AWS charges.")
        self._config = config
        self._calls = BlockingCalls("aws", threads=THREADS)
        self._lock = threading.Lock()
        self._client: Any = None
        self._credentials: Any = None
        self._looked_at = -_LOOK_AGAIN
        self.has_fixed_token = bool(config.credentials.token.get())
        """Whether the configuration has temporary credentials, which the server can't renew."""
        silence_the_sdk()

    def __repr__(self) -> str:
        return f"<SecretsManager at {self.endpoint}>"

    def close(self) -> None:
        """Accept no more calls, and close the connections. Calls that run end by themselves."""
        self._calls.close()
        if self._client is not None:
            self._client.close()

    async def call(self, what: str, function: Callable[[Any], T]) -> T:
        """Make a call that may be repeated, and repeat it once if it gets no answer. See `call_once`."""
        return await unanswered()(self.call_once, what, function)

    async def call_once(self, what: str, function: Callable[[Any], T]) -> T:
        """Make a call.

        Args:
            what: What is tried, for errors: "read the secret 'my-key'".
            function: Makes the call with boto3's client, on a worker thread.

        Raises:
            EntryNotFoundError: There is no such secret.
            EntryExistsError: There is a secret of that name.
            SecretPendingDeletionError: The secret is scheduled for deletion.
            OperationRefusedError: The credentials do not permit the operation.
            KeyStoreThrottledError: AWS has too many requests, and has done nothing.
            KeyStoreUnreachableError: AWS has not answered. It may have done what was asked.
            KeyStoreError: It fails otherwise.
        """
        self._count()
        try:
            return await self._calls.run(self._call, function)
        except KeyStoreError:
            raise
        except Exception as error:  # the SDK has exceptions of its own for each service, and the answer may be anyone's
            failure = translate(error, what, self.endpoint)
        raise failure  # outside the handler: an exception of the SDK holds the answer, and this one must not hold it

    def _call(self, function: Callable[[Any], T]) -> T:
        client = self._current()
        try:
            return function(client)
        except Exception as error:
            if not is_about_credentials(error) or not self._found_other_credentials(client):
                raise
        return function(self._client)

    def _current(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client, self._credentials = self._connect()
            return self._client

    def _found_other_credentials(self, refused: Any) -> bool:
        """Look again for credentials, which others may have replaced in a file; return whether there are others.

        The SDK itself renews only the credentials of a role.
        """
        if self._config.credentials.accesskey.get():
            return False  # a reload reads the configuration again
        with self._lock:
            if self._client is not refused:
                return True
            now = time.monotonic()
            if now < self._looked_at + _LOOK_AGAIN:
                return False
            self._looked_at = now
            client, credentials = self._connect()
            if _same(credentials, self._credentials):
                return False
            self._client, self._credentials = client, credentials
        self._logger.warning("AWS refused the credentials; the server uses the new ones that it found")
        return True

    def _connect(self) -> tuple[Any, Any]:
        """Return a new client, and its credentials: None if there are none."""
        config, given = self._config, self._config.credentials
        session = boto3.session.Session(
            aws_access_key_id=given.accesskey.get() or None,
            aws_secret_access_key=given.secretkey.get() or None,
            aws_session_token=given.token.get() or None,
            region_name=config.region,
        )
        client = session.client(
            "secretsmanager",
            endpoint_url=config.endpoint,
            verify=config.tls.ca or None,
            config=ClientConfig(
                connect_timeout=min(_CONNECT_TIMEOUT, config.timeout),
                read_timeout=config.timeout,
                max_pool_connections=THREADS,
                retries={"mode": "standard", "total_max_attempts": 1},
                tcp_keepalive=True,
                user_agent_extra="kes-core",
            ),
        )
        return client, session.get_credentials()

    async def origin_of_credentials(self) -> tuple[str, bool]:
        """Return where the credentials come from, and whether the SDK renews them.

        The name is the SDK's: `explicit`, `env`, `shared-credentials-file`, `iam-role`.
        """

        def look() -> tuple[str, bool]:
            self._current()
            found = self._credentials
            return str(getattr(found, "method", "")), hasattr(found, "refresh_needed")

        return await self._calls.run(look)


def unanswered() -> AsyncRetrying:
    """Return what repeats a call that got no answer."""
    return AsyncRetrying(
        retry=retry_if_exception_type(KeyStoreUnreachableError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random(0, _LONGEST_PAUSE),
        reraise=True,
    )


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    first, second = one.get_frozen_credentials(), other.get_frozen_credentials()
    return (first.access_key, first.secret_key, first.token) == (second.access_key, second.secret_key, second.token)


def silence_the_sdk() -> None:
    """Keep the SDK from logging what it sends and gets: on the level `debug` that is whole requests, with keys."""
    for name in _LOUD_LOGGERS:
        for each in (logging.getLogger(name), *_loggers_below(name, logging.root.manager.loggerDict)):
            if each.level < logging.INFO and (each.name == name or each.level != logging.NOTSET):
                each.setLevel(logging.INFO)


def _loggers_below(name: str, known: Mapping[str, Any]) -> Iterator[logging.Logger]:
    for other, each in list(known.items()):
        if other.startswith(f"{name}.") and isinstance(each, logging.Logger):
            yield each

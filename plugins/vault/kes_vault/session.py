"""A session with Vault: one token, kept alive, and calls that are made with it.

One task looks after the token: it renews it when four fifths of its time are gone, logs in again when it can't be
renewed, waits with growing pauses when Vault does not answer, and does nothing while Vault is sealed. A call that is
refused has the token checked at once and is made again with a new one. There is never more than one login at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import hvac
import requests
from hvac.adapters import RawAdapter
from hvac.exceptions import Forbidden, InvalidPath, VaultError
from requests.adapters import HTTPAdapter

from kes_core import BlockingCalls, KeyStoreError, KeyStoreUnreachableError
from kes_vault.auth import Token, login_of, retry_of
from kes_vault.errors import TokenRefusedError, reason_of, translate

if TYPE_CHECKING:
    from kes_vault.config import VaultConfig

__all__ = ["Session"]

logger = logging.getLogger("kes.vault")

T = TypeVar("T")

RENEW_AT: Final = 0.8
"""The part of a token's time after which it is renewed."""
MAX_RETRY: Final = 60.0
"""Seconds between two logins at the most, however many have failed."""
THREADS: Final = 16
_CONNECT_TIMEOUT: Final = 3.0
_ACTIVE, _STANDBY = 200, frozenset({429, 473})
_NOT_INITIALIZED, _SEALED = 501, 503


class Session:
    """Calls Vault with a valid token, on worker threads."""

    def __init__(self, config: VaultConfig) -> None:
        self._config = config
        self._http = requests.Session()
        self._http.mount("https://", HTTPAdapter(pool_maxsize=THREADS))
        self._http.mount("http://", HTTPAdapter(pool_maxsize=THREADS))
        self._http.verify = config.tls.ca or True
        if config.tls.cert:
            self._http.cert = (config.tls.cert, config.tls.key)
        self._http.trust_env = False  # neither proxies nor CAs of the environment: the configuration says it all
        self.client = self._new_client(config.namespace)
        self._login_client = self._new_client(self._login_namespace())
        self._health_client = self._new_client("", adapter=RawAdapter)
        self._login = login_of(config)
        self._calls = BlockingCalls("vault", threads=THREADS)
        self._token: Token | None = None
        self._lock = asyncio.Lock()
        self._logins = 0
        self._problem: KeyStoreError | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Session with {self._config.endpoint}>"

    def _new_client(self, namespace: str, **options: Any) -> hvac.Client:
        timeout: Any = (min(_CONNECT_TIMEOUT, self._config.timeout), self._config.timeout)  # as requests takes it
        client = hvac.Client(
            url=self._config.endpoint, session=self._http, namespace=namespace or None, timeout=timeout, **options
        )
        client.token = ""  # hvac takes one from the environment or the home directory if it finds one
        return client

    def _login_namespace(self) -> str:
        config = self._config
        method = config.approle or config.kubernetes or config.jwt or config.certificate
        namespace = config.namespace if method is None or method.namespace in {None, ""} else method.namespace
        return "" if namespace == "/" else namespace or ""

    async def start(self) -> None:
        """Log in, waiting for Vault as long as the configuration says, and keep the token alive from then on.

        Raises:
            KeyStoreError: There is no Vault, or no login.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.start_timeout
        while True:
            try:
                await self.health()
                await self._log_in(self._logins)
                break
            except KeyStoreUnreachableError as error:
                pause = min(1.0, deadline - loop.time())
                if pause <= 0:
                    raise
                logger.warning("waiting for Vault: %s", error)
                await asyncio.sleep(pause)
        self._task = loop.create_task(self._keep_alive())

    async def close(self) -> None:
        """Stop looking after the token, and close the connections."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._calls.close()
        self._http.close()

    async def call(self, what: str, function: Callable[[hvac.Client], T]) -> T:
        """Make a call, with a new token if the one at hand is no longer accepted.

        Args:
            what: What is tried, for errors: "read kv/my-key".
            function: Makes the call, on a worker thread.

        Raises:
            TokenRefusedError: It is not allowed.
            InvalidPath: There is nothing at the path. (hvac's; the caller knows what that means.)
            KeyStoreError: It fails otherwise.
        """
        logins = self._logins
        try:
            return await self._call(what, function)
        except TokenRefusedError:
            # Somebody may have logged in meanwhile; then it was the old token that was refused.
            if self._logins == logins and self._problem is None and await self._is_valid() and self._logins == logins:
                raise  # the token is good: it is the policy
        await self._log_in(logins)
        return await self._call(what, function)

    async def _call(self, what: str, function: Callable[[hvac.Client], T]) -> T:
        try:
            return await self._calls.run(function, self.client)
        except InvalidPath:
            raise
        except (VaultError, requests.exceptions.RequestException) as error:
            raise translate(error, what, self._config.endpoint) from None

    async def _is_valid(self) -> bool:
        try:
            await self._call("look up the token", lambda client: client.auth.token.lookup_self())
        except TokenRefusedError:
            return False
        return True

    async def health(self) -> None:
        """Ask Vault whether it can serve.

        Raises:
            KeyStoreUnreachableError: It does not answer, is sealed or not initialized.
            KeyStoreError: It can't log in.
        """
        await self._ask_for_health()
        if self._problem is not None:
            raise self._problem

    async def _ask_for_health(self) -> None:
        endpoint = self._config.endpoint
        try:
            answer = await self._calls.run(self._health_client.adapter.get, "/v1/sys/health", raise_exception=False)
        except requests.exceptions.RequestException as error:
            raise translate(error, "ask for its health", endpoint) from None
        code = answer.status_code
        if code == _SEALED:
            raise KeyStoreUnreachableError(f"Vault at {endpoint} is sealed: unseal it")
        if code == _NOT_INITIALIZED:
            raise KeyStoreUnreachableError(f"Vault at {endpoint} is not initialized: run 'vault operator init'")
        if code in _STANDBY and self._token is not None:
            try:  # a standby passes requests on to the active node, if there is one
                await self._is_valid()
            except KeyStoreError:
                raise KeyStoreUnreachableError(f"Vault at {endpoint} is a standby without an active node") from None
        elif code not in _STANDBY and code != _ACTIVE:
            raise KeyStoreError(f"Vault at {endpoint} answers the question for its health with status {code}")

    # The token

    async def _log_in(self, seen: int) -> None:
        """Log in, unless somebody has since `seen` logins."""
        async with self._lock:
            if self._logins != seen:
                return
            try:
                token = await self._calls.run(self._login, self._login_client)
            except VaultError as error:
                problem = self._login_problem(error)
                if not isinstance(problem, KeyStoreUnreachableError):
                    self._problem = problem
                raise problem from None
            except requests.exceptions.RequestException as error:
                raise translate(error, "log in", self._config.endpoint) from None
            self.client.token = token.value
            self._token = token
            self._logins += 1
            self._problem = None
            self._wake.set()

    def _login_problem(self, error: VaultError) -> KeyStoreError:
        translated = translate(error, "log in", self._config.endpoint)
        if isinstance(translated, KeyStoreUnreachableError):
            return translated
        if isinstance(error, InvalidPath | Forbidden) and "no handler" in reason_of(error):
            return KeyStoreError("login to Vault failed: the authentication method is not enabled at its engine path")
        return KeyStoreError(f"login to Vault failed: {reason_of(error)}; check role, credentials and namespace")

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        renew_at = self._renewal_time(loop.time())
        while True:
            self._wake.clear()
            pause = min(self._config.status.ping, max(0.0, renew_at - loop.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            if self._wake.is_set():  # somebody has logged in
                renew_at = self._renewal_time(loop.time())
                continue
            if loop.time() < renew_at:
                continue
            try:
                await self._renew()
                failures = 0
                renew_at = self._renewal_time(loop.time())
            except KeyStoreError as error:
                if failures == 0:
                    logger.warning("the token for Vault can't be renewed yet: %s", error)
                failures += 1
                pause = min(MAX_RETRY, retry_of(self._config) * 2 ** min(failures - 1, 6))
                renew_at = loop.time() + pause * random.uniform(0.5, 1.0)  # noqa: S311 # spreads servers, keeps no secret

    def _renewal_time(self, now: float) -> float:
        if self._token is None or self._token.seconds <= 0:
            return now + 10**9  # it never expires
        return now + RENEW_AT * self._token.seconds

    async def _renew(self) -> None:
        """Renew the token, or log in again if it can't be renewed."""
        await self._ask_for_health()  # not while Vault is sealed
        logins, token = self._logins, self._token
        if token is not None and token.renewable:
            try:
                answer = await self._call("renew the token", lambda client: client.auth.token.renew_self())
            except TokenRefusedError:
                pass
            else:
                auth = answer["auth"]
                if self._logins == logins and float(auth["lease_duration"]) > token.seconds * (1 - RENEW_AT):
                    self._token = Token(token.value, float(auth["lease_duration"]), bool(auth["renewable"]))
                    return
        await self._log_in(logins)

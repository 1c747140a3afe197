"""A session with Vault: it keeps one token alive, and makes calls with it.

A task renews the token after four fifths of its lifetime, and logs in again if that fails. It waits longer and longer
while Vault does not answer, and does nothing while Vault is sealed. When Vault refuses a call, the session checks the
token at once; if it is not valid, the session logs in and repeats the call. Only one login runs at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import hvac
import requests
from hvac.adapters import RawAdapter
from hvac.exceptions import InvalidPath

from kes_core import (
    BlockingCalls,
    Credential,
    KeyStoreError,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
    PluginMetrics,
)
from kes_vault.auth import SecretLife, Token, login_of, namespace_of, retry_of, token_of
from kes_vault.errors import PASSING, TokenRefusedError, login_problem, not_initialized, sealed, standby, translate
from kes_vault.transport import HEALTH, VaultHTTP

if TYPE_CHECKING:
    from kes_vault.config import VaultConfig

__all__ = ["Session"]

logger = logging.getLogger("kes.vault")

T = TypeVar("T")

RENEW_AT: Final = 0.8
"""The part of a token's lifetime after which the session renews it."""
THREADS: Final = 16
MOUNTS: Final = "sys/internal/ui/mounts"
"""Below this path Vault describes an engine to each token that may do something there."""
_CALLS_OF_THE_ENGINE: Final = frozenset({"read", "create", "delete", "list"})
"""How the names of the calls begin that Vault accepts only from a token that may look at the engine."""
_MAX_DOUBLINGS: Final = 6
_CONNECT_TIMEOUT: Final = 3.0
_ACTIVE, _STANDBY = 200, frozenset({429, 473})
_SERVER_ERROR: Final = 500
_NOT_INITIALIZED, _SEALED = 501, 503


class Session:
    """Calls Vault with a valid token, on worker threads."""

    def __init__(self, config: VaultConfig, metrics: PluginMetrics | None = None) -> None:
        self._config = config
        metrics = metrics if metrics is not None else PluginMetrics()
        self._count_login = metrics.counter("logins", "Logins to Vault.")
        self._http = VaultHTTP(config, connections=THREADS)
        self.client = self._new_client(config.namespace)
        self._login_client = self._new_client(namespace_of(config))
        self._health_client = self._new_client("", adapter=RawAdapter)
        self._login = login_of(config)
        self._calls = BlockingCalls("vault", threads=THREADS)
        self._token: Token | None = None
        self._token_since = 0.0
        """When the token was given or renewed, in seconds since 1970."""
        self._secret: SecretLife | None = None
        self._lock = asyncio.Lock()
        self._logins = 0
        self._failures = 0
        """How many logins in a row failed."""
        self._problem: KeyStoreError | None = None
        """Why Vault refused the last login, if it did. The current token may still be valid for a while."""
        self._try_again_at = 0.0
        """The time of the event loop of the next login, after a refused one."""
        self._may_look_itself_up = True
        """Whether tokens may look themselves up, as far as is known. It saves a request for each refusal."""
        self._is_blind = False
        """Whether Vault refuses a new token everything. Then it is unknown whether a refused token is still valid."""
        self._is_denied = False
        """Whether Vault refused the token everything right after its login. Then another login would not help."""
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

    async def start(self) -> None:
        """Log in, wait for Vault if need be, and keep the token alive from then on.

        Raises:
            KeyStoreError: Vault does not answer within `start_timeout`, or refuses the login.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.start_timeout
        reason = ""
        while True:
            try:
                await self.health()
                await self._log_in_first()
                break
            except PASSING as error:
                pause = min(1.0, deadline - loop.time())
                if pause <= 0:
                    raise
                if str(error) != reason:
                    reason = str(error)
                    logger.warning("waiting for Vault: %s", reason)
                await asyncio.sleep(pause)
        self._task = loop.create_task(self._keep_alive())

    async def log_in(self) -> Token:
        """Log in once, for a short while: the session does not renew the token.

        Raises:
            KeyStoreError: Vault refuses, or does not answer.
        """
        await self._log_in_first()
        assert self._token is not None
        return self._token

    async def _log_in_first(self) -> None:
        await self._log_in(self._logins)
        self._is_blind = not await self._is_valid()

    async def close(self) -> None:
        """Stop renewing the token, and close the connections."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._calls.close()
        self._http.close()

    async def call(self, what: str, function: Callable[[hvac.Client], T]) -> T:
        """Make a call, with a new token if Vault no longer accepts the current one.

        Args:
            what: What is tried, for errors: "read kv/my-key".
            function: Makes the call, on a worker thread.

        Raises:
            TokenRefusedError: Vault refuses it.
            InvalidPath: There is nothing at the path. (hvac's; the caller knows what that means.)
            KeyStoreError: It fails otherwise.
        """
        logins = self._logins
        refusal: TokenRefusedError | None = None
        if self._token is not None:
            try:
                return await self._call_and_note(what, function)
            except TokenRefusedError as error:
                # Another call may have logged in meanwhile: then Vault refused the old token.
                if self._logins == logins and await self._is_valid() and self._logins == logins:
                    raise  # the token is good, so it is the policy
                if self._logins == logins and self._is_denied and not error.is_token_invalid:
                    raise  # a login for each refusal could use up the secret ID
                if self._is_blind and not error.is_token_invalid:
                    refusal = error
                elif self._logins == logins:
                    self._token = None
        await self._log_in_after(refusal, logins)
        logins = self._logins
        try:
            return await self._call_and_note(what, function)
        except TokenRefusedError:
            if not await self._is_valid() and self._logins == logins:
                self._is_denied = True
            raise

    async def _log_in_after(self, refusal: TokenRefusedError | None, logins: int) -> None:
        """Log in because Vault refused a call, or because the session has no valid token.

        Raises:
            TokenRefusedError: Vault refuses the login too, but the token may be good: keep it.
            KeyStoreError: The login fails, and the token is not valid.
        """
        try:
            await self._log_in(logins)
        except PASSING:
            raise
        except KeyStoreError:
            if refusal is None or self._token is None:
                raise
            self._is_denied = True
            raise refusal from None

    async def _call_and_note(self, what: str, function: Callable[[hvac.Client], T]) -> T:
        """Make a call, and note if it shows that the token is valid and may use the engine."""
        is_allowed = what.partition(" ")[0] in _CALLS_OF_THE_ENGINE
        try:
            return await self._call(what, function)
        except InvalidPath:  # Vault answers this only to a token that may read the path
            raise
        except KeyStoreError:
            is_allowed = False
            raise
        finally:
            self._is_denied = self._is_denied and not is_allowed

    async def _call(self, what: str, function: Callable[[hvac.Client], T]) -> T:
        try:
            return await self._calls.run(function, self.client)
        except KeyStoreError:
            raise
        except Exception as error:  # the server may not be Vault, and hvac does not check its answers
            if isinstance(error, InvalidPath) and error.errors is not None:
                raise
            raise translate(error, what, self._config.endpoint) from None

    async def _is_valid(self) -> bool:
        """Tell whether the token is surely valid.

        A token may have no policy that lets it look itself up. But it may look at the engine, whatever else its policy
        grants there: otherwise the server would not have started.
        """
        if self._may_look_itself_up and await self._is_answered(lambda client: client.auth.token.lookup_self()):
            return True
        engine = self._config.engine
        is_valid = await self._is_answered(lambda client: client.adapter.get(f"/v1/{MOUNTS}/{engine}"))
        self._may_look_itself_up = self._may_look_itself_up and not is_valid
        return is_valid

    async def _is_answered(self, look: Callable[[hvac.Client], Any]) -> bool:
        try:
            await self._call("look up the token", look)
        except (TokenRefusedError, InvalidPath):
            return False
        return True

    async def health(self) -> None:
        """Ask Vault whether it can serve.

        Raises:
            KeyStoreUnreachableError: It does not answer, is sealed or not initialized.
            KeyStoreError: It can't log in.
        """
        await self.check_health()
        if self._token is None:
            self._raise_problem()

    async def look(self) -> requests.Response:
        """Return the answer to a health check, whatever it is.

        Raises:
            KeyStoreError: It does not answer.
        """
        await self._calls.run(self._http.read_cas_again)
        try:
            return await self._calls.run(self._health_client.adapter.get, HEALTH, raise_exception=False)
        except requests.exceptions.RequestException as error:
            raise translate(error, "ask for its health", self._config.endpoint) from None

    async def check_health(self) -> None:
        """Check that Vault can serve, with or without a token. Raises what `health` raises."""
        endpoint = self._config.endpoint
        answer = await self.look()
        code = answer.status_code
        if code == _SEALED and b"sealed" in answer.content:
            raise sealed(endpoint)
        if code == _NOT_INITIALIZED:
            raise not_initialized(endpoint)
        if code in _STANDBY and self._token is not None:
            try:  # a standby passes requests on to the active node, if there is one
                await self._is_valid()
            except KeyStoreThrottledError:
                raise  # the active node answers
            except KeyStoreError:
                raise standby(endpoint) from None
        elif code >= _SERVER_ERROR:
            raise KeyStoreUnreachableError(f"Vault at {endpoint} is not available at the moment (status {code})")
        elif code not in _STANDBY and code != _ACTIVE:
            raise KeyStoreError(f"Vault at {endpoint} answers the health check with status {code}")

    # The token

    async def _log_in(self, seen: int) -> None:
        """Log in, unless another call did after `seen` logins.

        After a refusal, no request tries again for a while: first for the time `retry` of the configuration, then for
        twice as long each time, up to the time between two health checks.
        """
        async with self._lock:
            if self._logins != seen:
                return
            now = asyncio.get_running_loop().time()
            if now < self._try_again_at:
                self._raise_problem()
            try:
                token = await self._calls.run(self._login, self._login_client)
            except Exception as error:  # as in `_call`
                problem = login_problem(error, self._config)
                if not isinstance(problem, PASSING):
                    self._note_problem(problem, now)
                raise problem from None
            if self._problem is not None:
                logger.warning("logged in to Vault again")
            self.client.token = token.value
            self._set_token(token)
            self._secret = token.secret
            self._count_login()
            self._logins += 1
            self._failures = 0
            self._problem = None
            self._is_denied = False
            self._wake.set()

    def _set_token(self, token: Token) -> None:
        self._token = token
        self._token_since = time.time()

    def credentials(self) -> list[Credential]:
        """Return when the token and the secret ID run out, as far as that is known."""
        found = []
        if self._token is not None and self._token.seconds > 0:
            seconds = self._token.seconds
            found.append(Credential("token", self._token_since + seconds, seconds))
        if self._secret is not None:
            found.append(Credential("secret_id", *self._secret))
        return found

    def _raise_problem(self) -> None:
        if self._problem is not None:  # a new exception: each raise would add a traceback to the same one
            raise KeyStoreError(str(self._problem), reason=self._problem.reason)

    def _note_problem(self, problem: KeyStoreError, now: float) -> None:
        if self._problem is None or str(self._problem) != str(problem):
            logger.error("%s", problem)
        self._problem = problem
        self._failures += 1
        self._try_again_at = now + self._pause()
        self._wake.set()

    def _pause(self) -> float:
        """Return the seconds until the next attempt: more each time, and different in each server."""
        retry = retry_of(self._config)
        longest = max(retry, self._config.status.ping)
        pause = min(longest, retry * 2.0 ** min(self._failures - 1, _MAX_DOUBLINGS))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 # spreads servers, keeps no secret

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        renew_at = self._renewal_time(loop.time())
        while True:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(renew_at):
                    await self._wake.wait()
            if self._wake.is_set():  # another call logged in, or Vault refused its login
                refused = self._problem is not None
                renew_at = self._try_again_at if refused else self._renewal_time(loop.time())
                continue
            try:
                await self._renew()
                self._failures = 0
                renew_at = self._renewal_time(loop.time())
            except KeyStoreError as error:
                if self._problem is None:
                    if self._failures == 0:
                        logger.warning("the token for Vault can't be renewed yet: %s", error)
                    self._failures += 1
                    self._try_again_at = loop.time() + self._pause()
                renew_at = self._try_again_at

    def _renewal_time(self, now: float) -> float:
        if self._token is None or self._token.seconds <= 0:
            return now + 10**9  # it never expires
        return now + RENEW_AT * self._token.seconds

    async def _renew(self) -> None:
        """Renew the token, or log in again if it can't be renewed."""
        await self.check_health()  # not while Vault is sealed
        logins, token = self._logins, self._token
        if token is not None and token.renewable and self._problem is None:
            try:
                renewed = await self._call(
                    "renew the token", lambda client: token_of(client.auth.token.renew_self(), token.value)
                )
            except TokenRefusedError:
                pass
            else:
                if self._logins == logins and renewed.seconds > token.seconds * (1 - RENEW_AT):
                    self._set_token(renewed)
                    return
        await self._log_in(logins)

"""The interface of a front end, which plugins implement, and the door through which it uses keys.

A front end offers the server's keys over another protocol, on a listener of its own: Kubernetes' KMS, Vault's transit.
It never gets a key. It asks through `FrontendKeys`, where each call names an identity. The server treats such a call as
an HTTP request of that identity: the same policies allow or deny it, and it gets the same audit record, the same time
limit and the same metrics.

    KeyUseError                   a call failed; its message may go to the client
    ├── InvalidKeyUseError        an argument is not valid
    ├── KeyUseDeniedError         the identity may not do this
    ├── UnknownKeyError           no key has that name
    ├── UnusableKeyError          the state of the key does not allow this use: disabled, scheduled for deletion, ...
    ├── NotAuthenticError         the ciphertext was changed, or belongs to another key or other associated data
    ├── KeyUseTimeoutError        there was no answer within the time limit
    └── KeysUnavailableError      the key store or the server fails; trying again later may help
        └── KeysThrottledError    the key store has too many requests
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kes_core.errors import BackendError
from kes_core.hookspecs import PluginContext
from kes_core.keystore import KeyStoreReason

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.findings import Finding

__all__ = [
    "Encrypted",
    "Frontend",
    "FrontendBackend",
    "FrontendContext",
    "FrontendError",
    "FrontendKeys",
    "GeneratedDataKey",
    "InvalidKeyUseError",
    "KeyDescription",
    "KeyUseDeniedError",
    "KeyUseError",
    "KeyUseTimeoutError",
    "KeysThrottledError",
    "KeysUnavailableError",
    "NotAuthenticError",
    "UnknownKeyError",
    "UnusableKeyError",
    "VersionDescription",
]


class FrontendError(BackendError):
    """A front end can't be used. Its message tells the operator why, and must not contain a secret."""


class KeyUseError(Exception):
    """A call of `FrontendKeys` failed. The message may go to the client: it shows nothing of the server's inside.

    Front ends do not raise these errors; they catch them and answer their client.
    """

    status: ClassVar[int] = 500
    """The status with which the HTTP API answers."""


class InvalidKeyUseError(KeyUseError):
    """An argument is not valid: the name, the identity, the size or kind of a value."""

    status = 400


class KeyUseDeniedError(KeyUseError):
    """The identity may not do this. The reason is in the server's log and in the audit record."""

    status = 403


class UnknownKeyError(KeyUseError):
    """No key has that name."""

    status = 404


class UnusableKeyError(KeyUseError):
    """The state of the key does not allow this use: it is disabled, or its deletion is scheduled, ..."""

    status = 409


class NotAuthenticError(KeyUseError):
    """The ciphertext was changed, or belongs to another key or other associated data."""

    status = 400


class KeyUseTimeoutError(KeyUseError):
    """There was no answer within the time limit of the route (`api.<path>.timeout`, 15 seconds by default)."""

    status = 504


class KeysUnavailableError(KeyUseError):
    """The key store fails, or the server is stopping. Trying again later may help."""

    status = 502

    def __init__(self, message: str = "", *, reason: KeyStoreReason | None = None) -> None:
        """Take the `message` and, if one of them applies, the `reason`, both for clients."""
        super().__init__(message)
        self.reason = reason


class KeysThrottledError(KeysUnavailableError):
    """The key store has too many requests. That is not an outage."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A ciphertext, and what made it."""

    ciphertext: bytes
    version: int
    """The version of the key that encrypted: 1 if the key was never rotated."""
    created_at: datetime
    """When the key was made, in UTC, to the microsecond: it tells a key from a later one of the same name."""


@dataclass(frozen=True, slots=True)
class GeneratedDataKey:
    """A random data encryption key of 32 bytes."""

    plaintext: bytes = field(repr=False)
    ciphertext: bytes
    version: int
    """As in `Encrypted`, and so is the next one."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """Facts about a key."""

    name: str
    algorithm: str
    created_at: datetime
    """When version 1 was made, in UTC, to the microsecond."""
    created_by: str
    """An identity; empty if it is not known."""
    version: int = 1
    """The newest version, which encrypts. It grows with each rotation."""
    state: str = "enabled"
    """"enabled", "decrypt-only", "disabled", "scheduled-for-deletion" or "deleting"."""
    delete_at: datetime | None = None
    """When the key is deleted, if its deletion is scheduled."""
    min_decryption_version: int = 1
    """The oldest version that decrypts."""

    @property
    def encrypts(self) -> bool:
        """Whether the state of the key allows to encrypt and to generate."""
        return self.state == "enabled"

    @property
    def decrypts(self) -> bool:
        """Whether the state of the key allows to decrypt."""
        return self.state in {"enabled", "decrypt-only"}


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """Facts about a version of a key."""

    version: int
    algorithm: str
    created_at: datetime
    """In UTC, to the microsecond."""
    created_by: str
    """An identity; empty if it is not known."""


class FrontendKeys(ABC):
    """The door: the keys of the server, as an identity may use them.

    Each method is one request of `identity`, as if it came over HTTP to the path that its description names. A front
    end has to know which identity its client may use: the server does not ask for a proof. All methods may be called
    concurrently. A call that began before a reload finishes with the state that it began with; all later ones see the
    new policies and the new key store. After a cancelled call, the audit record has the code 499.

    All methods take these arguments:

    - `identity`: The identity that asks, 64 hex digits in lower case.
    - `name`: The name of the key.
    - `associated_data`: Bytes that belong to a ciphertext: `decrypt` needs the same ones. They are not secret.
    - `address`: The IP address of the client, for policies and the audit record; empty if it has none, as on a unix
      socket. Policy engines then get 0.0.0.0.
    - `request_id`: What the client calls its request, for the audit record. Up to 100 printable characters are kept.

    Raises:
        KeyUseError: The request is refused, or fails. Each method may raise each subclass.
    """

    @abstractmethod
    async def generate(
        self, identity: str, name: str, *, associated_data: bytes = b"", address: str = "", request_id: str = ""
    ) -> GeneratedDataKey:
        """Make a random data encryption key, and encrypt it (`/v1/key/generate/NAME`)."""

    @abstractmethod
    async def encrypt(
        self,
        identity: str,
        name: str,
        plaintext: bytes,
        *,
        associated_data: bytes = b"",
        address: str = "",
        request_id: str = "",
    ) -> Encrypted:
        """Encrypt `plaintext` with the newest version of the key (`/v1/key/encrypt/NAME`)."""

    @abstractmethod
    async def decrypt(
        self,
        identity: str,
        name: str,
        ciphertext: bytes,
        *,
        associated_data: bytes = b"",
        address: str = "",
        request_id: str = "",
    ) -> bytes:
        """Return the plaintext of `ciphertext`, whichever version made it (`/v1/key/decrypt/NAME`)."""

    @abstractmethod
    async def describe(self, identity: str, name: str, *, address: str = "", request_id: str = "") -> KeyDescription:
        """Return facts about the key, whatever its state is (`/v1/key/describe/NAME`)."""

    @abstractmethod
    async def versions(
        self, identity: str, name: str, *, address: str = "", request_id: str = ""
    ) -> Sequence[VersionDescription]:
        """Return the versions of the key, oldest first (`/v1/key/versions/NAME`)."""


_TASKS: Final[set[asyncio.Task[None]]] = set()


def _spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` in a task, which stays alive until it ends."""
    task = asyncio.get_running_loop().create_task(work)
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)
    return task


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendContext(PluginContext):
    """Where a front end runs, and its keys. Its `connect` gets it."""

    keys: FrontendKeys = field(repr=False)
    """The keys of the server."""
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = field(default=_spawn, repr=False)
    """Runs a coroutine in a task of the front end, as an accept loop needs. If the task raises, the server logs that
    once, with the plugin's name, and the front end counts as failed. The server cancels the task after `stop`."""


class Frontend(ABC):
    """Offers keys over a protocol of its own.

    The server calls `start` once, `ready` now and then, and `stop` once, also after a `start` that failed. It runs a
    front end in one process, even if it has several workers: see `FrontendBackend.per_worker`.
    """

    @abstractmethod
    async def start(self) -> None:
        """Open the listener, and accept clients from now on. `connect` and `start` have 60 seconds together.

        An earlier server may have left things behind, such as the file of a unix socket: replace it, unless another
        process listens on it.

        Raises:
            FrontendError: It can't listen. The message tells the operator what to do.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Accept no more clients, finish the calls under way, and release everything, within 5 seconds.

        The keys answer until this returns. The server calls it once, even if `start` failed or was never called.
        """

    async def ready(self) -> None:
        """Return if the front end can serve its clients. It has 5 seconds, and may ask for keys.

        The server asks every 10 seconds while the front end runs. `/v1/ready`, `kes status` and the metrics show it.

        Raises:
            FrontendError: It can't serve them; the message says why.
        """
        return


@dataclass(frozen=True, slots=True)
class FrontendBackend:
    """A kind of front end that the configuration file can select."""

    name: str
    """The section under `frontends:` that selects it."""
    config: type[BaseModel]
    """The pydantic model of that section, as for key stores."""
    connect: Callable[[Any, FrontendContext], Awaitable[Frontend]]
    """An `async def` function. The server calls it with an instance of `config` and a context, when the key store and
    the policy engines are connected. It returns a front end that does not listen yet, or raises `FrontendError` with a
    message that tells the operator what to do."""
    diagnose: Callable[..., Awaitable[Sequence[Finding]]] | None = None
    """As for key stores, with a `PluginContext`: the doctor has no keys. Without it, the doctor only checks the
    section."""
    per_worker: bool = False
    """Whether each worker runs it. Then several processes call `start` with the same section, and their listeners have
    to share the address, as with `SO_REUSEPORT`. Otherwise only the first worker runs it."""
    takes_over: bool = False
    """Whether it can start while an older one with the same address still serves. If its section changes, the server
    then starts the new one before it stops the old one. Otherwise it stops the old one first."""
    origin: str = field(default="", kw_only=True, compare=False)
    """The plugin that it comes from, for messages. Set when the plugin is loaded."""

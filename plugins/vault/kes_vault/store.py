"""Keys in Vault's K/V engine, versions 1 and 2 (protocol section 6)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvac.exceptions import InvalidPath, InvalidRequest
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from kes_core import (
    Credential,
    EntryExistsError,
    EntryNotFoundError,
    KeyStore,
    KeyStoreError,
    Page,
    PluginMetrics,
    page_of,
)
from kes_core.keystore import PAGE_SIZE
from kes_vault.engine import Engine
from kes_vault.errors import PASSING, CapabilityLackingError, TokenRefusedError
from kes_vault.session import Session
from kes_vault.transit import MARK, Transit, is_rotated

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import VaultConfig

__all__ = ["VaultKeyStore", "connect"]

logger = logging.getLogger("kes.vault")

_STANDBY_DELAY: Final = 1.0
"""The seconds by which a standby, which may answer reads itself, can lag behind the active node."""
_FENCE: Final = (0.5, 5.0)
"""The shortest and the longest wait, in seconds, between a write over K/V v1 and the read that checks it."""
_FENCE_FACTOR: Final = 3.0
"""The wait is this multiple of the time of the slowest recent write."""
_RECENT_WRITES: Final = 100
_BINARY: Final = "binary:base64,"
"""Marks a value that is not text. Keys are text, but a key store must accept any value."""


_FIRST: Final = 1
"""The version of an entry that contains its key. The server never writes another version."""
_REMOVE: Final = "remove the entry with 'vault kv metadata delete'"


class _KVEntry(NamedTuple):
    """A version of an entry."""

    data: dict[str, Any] | None
    """The fields of the entry; None if the version is deleted."""
    number: int
    deleted_at: str
    """When Vault deleted or will delete it; empty if never."""

    def __repr__(self) -> str:
        return f"<entry, version {self.number}>"  # the data hold a key


async def connect(config: VaultConfig, metrics: PluginMetrics | None = None) -> VaultKeyStore:
    """Log in to Vault and check the engine; count in `metrics`.

    Raises:
        KeyStoreError: The store can't work. The message says what to do.
    """
    session = Session(config, metrics)
    store = VaultKeyStore(config, session)
    try:
        await session.start()
        await Engine(config, session).check()
    except BaseException:
        await store.close()
        raise
    return store


class VaultKeyStore(KeyStore):
    """Keeps each key in an entry of its own, in a field named like the key."""

    def __init__(self, config: VaultConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._is_v2 = config.version == "v2"
        self._engine = Engine(config, session)
        self._transit = Transit(config.transit, session)
        self._write_times: deque[float] = deque(maxlen=_RECENT_WRITES)
        """How long the recent writes over K/V v1 took, in seconds."""
        self.health_interval = config.status.ping

    def credentials(self) -> list[Credential]:
        return self._session.credentials()

    def __repr__(self) -> str:
        return f"<VaultKeyStore {self._config.engine!r} at {self._config.endpoint}>"

    async def close(self) -> None:
        await self._session.close()

    async def status(self) -> None:
        await self._session.health()

    async def create(self, name: str, value: bytes) -> None:
        if not self._is_v2 and await self._exists(name):
            raise EntryExistsError(f"key {name!r} already exists")
        text = await self._transit.encrypt(_text_of(value))
        try:
            await self._write(name, text)
        except TokenRefusedError:
            raise await self._refused_create(name) from None
        if not self._is_v2:
            await self._settle(name, text)

    async def _refused_create(self, name: str) -> KeyStoreError:
        """Return the error for a create that Vault refused with status 403.

        Without the capability *update*, which no policy needs to grant, Vault refuses in this way to write an entry
        that exists. But the entry may hold no key, and policies may have rules for parameters.
        """
        path = self._engine.shown(name)
        exists = EntryExistsError(f"key {name!r} already exists")
        other = ", or metadata without a version, which has to be removed" if self._is_v2 else ""
        try:
            if await self._exists(name):
                return exists
            error = await self._engine.refused("create", path, other)
            return exists if not isinstance(error, CapabilityLackingError) and await self._appears(name) else error
        except TokenRefusedError:  # the token may not read either, so it is unknown whether the key exists
            return await self._engine.refused("create", path, other)

    async def _settle(self, name: str, text: str) -> None:
        """Wait until all writes that overlapped ours should have ended, then check whose key is stored.

        K/V v1 has no check-and-set, and Vault checks *create* against *update* before it writes, not while it writes:
        of two concurrent writes, the later one stays. So a creator that finds another server's key has lost. For the
        winner, the cache checks that the store has the key.
        """
        shortest, longest = _FENCE
        await asyncio.sleep(min(max(_FENCE_FACTOR * max(self._write_times), shortest), longest))
        stored = await self._read(name)
        if stored is None:
            raise KeyStoreError(f"Vault has taken the key {name!r} but does not give it back")
        if stored != text:
            logger.warning("key %r was created by two servers at once: the key of the other server is kept", name)
            raise EntryExistsError(f"key {name!r} already exists")

    async def _write(self, name: str, text: str) -> None:
        config, path = self._config, self._engine.path(name)

        def write_v1(client: hvac.Client) -> Any:
            return client.secrets.kv.v1.create_or_update_secret(
                path, {name: text}, method="POST", mount_point=config.engine
            )

        def write_v2(client: hvac.Client) -> Any:
            try:
                answer = client.secrets.kv.v2.create_or_update_secret(
                    path, {name: text}, cas=0, mount_point=config.engine
                )
                return str(answer["data"]["deletion_time"])
            except InvalidRequest as error:
                if "check-and-set" in str(error):
                    raise EntryExistsError(f"key {name!r} already exists") from None
                raise

        write = write_v2 if self._is_v2 else write_v1
        started = time.monotonic()
        try:
            deleted_at = await self._session.call(f"create {self._engine.shown(name)}", write)
        except InvalidPath:
            raise KeyStoreError(self._engine.not_mounted()) from None
        except EntryExistsError:
            if not await self._appears(name):
                raise KeyStoreError(
                    f"the entry {self._engine.shown(name)!r} has other versions than 1: {_REMOVE}"
                ) from None
            raise
        finally:
            self._write_times.append(time.monotonic() - started)
        if self._is_v2 and deleted_at:
            with contextlib.suppress(KeyStoreError):  # the policy may not allow it
                await self.delete(name)  # no client has used the key yet, and its name becomes free again
            raise KeyStoreError(
                f"Vault would delete the key {name!r} at {deleted_at}: set delete_version_after=0s for the engine "
                f"{config.engine!r}"
            )

    async def get(self, name: str) -> bytes:
        text = await self._read(name)
        if text is None:
            raise EntryNotFoundError(f"key {name!r} does not exist")
        return _value_of(await self._transit.decrypt(name, text))

    async def _exists(self, name: str) -> bool:
        return await self._read(name) is not None

    async def _appears(self, name: str) -> bool:
        """Tell whether an entry exists. Wait a moment for a standby that lags behind."""
        attempts = AsyncRetrying(
            retry=retry_if_result(lambda found: not found),
            stop=stop_after_delay(_STANDBY_DELAY),
            wait=wait_fixed(_STANDBY_DELAY / 10),
            retry_error_callback=lambda _state: False,
        )
        return await attempts(self._exists, name)

    async def _read(self, name: str) -> str | None:
        """Return the stored text of a key, encrypted or not; None if the entry does not exist.

        Raises:
            KeyStoreError: The entry exists, but does not hold a key, or no longer does.
        """
        entry = await self._entry(name)
        return None if entry is None else self._text(name, entry)

    def _text(self, name: str, entry: _KVEntry) -> str:
        text = (entry.data or {}).get(name)
        if not isinstance(text, str):
            raise KeyStoreError(f"the entry {self._engine.shown(name)!r} has no text in a field named {name!r}")
        return text

    async def _entry(self, name: str) -> _KVEntry | None:
        """Read the entry of a key; over K/V v2 its first version.

        Read the newest version first: otherwise an entry that lost its first version would look like a missing one.
        """
        entry = await self._version(name)
        if not self._is_v2 or entry is None or entry.number == _FIRST:
            found = entry
        else:
            found = await self._version(name, _FIRST) or _KVEntry(None, _FIRST, "")
        if found is not None and found.data is None:
            raise KeyStoreError(
                f"the entry {self._engine.shown(name)!r} has no version 1 any more, but its metadata remains: "
                f"undelete the version if it was deleted; if the key is not needed, {_REMOVE}"
            )
        return found

    async def _version(self, name: str, number: int | None = None) -> _KVEntry | None:
        """Read one version of an entry, the newest without a `number`. A deleted one has no data."""
        engine, path = self._config.engine, self._engine.path(name)

        def read(client: hvac.Client) -> _KVEntry | None:
            if not self._is_v2:
                return _KVEntry(dict(client.secrets.kv.v1.read_secret(path, mount_point=engine)["data"]), _FIRST, "")
            answer: Any
            try:
                answer = client.secrets.kv.v2.read_secret_version(
                    path, version=number, mount_point=engine, raise_on_deleted_version=True
                )
            except InvalidPath as error:
                answer = error.json
                if error.errors is not None:
                    raise  # nothing is there, not even metadata
            version = answer["data"]
            data, metadata = version["data"], version["metadata"]
            return _KVEntry(data and dict(data), int(metadata["version"]), str(metadata["deletion_time"]))

        try:
            return await self._session.call(f"read {self._engine.shown(name)}", read)
        except InvalidPath as error:
            self._engine.expect_absence(error)
            return None
        except TokenRefusedError:
            raise await self._engine.refused("read", self._engine.shown(name)) from None

    async def examine(self, name: str) -> tuple[str, bool]:
        """Examine the entry of a name that Vault lists.

        Returns:
            What is wrong with it, or an empty text; and whether a later version of the transit key than 1 encrypted it.
            An entry that the policy does not let the server read is another program's: nothing is wrong with it.

        Raises:
            KeyStoreUnreachableError: Vault does not answer.
            KeyStoreThrottledError: Vault has too many requests.
        """
        shown = self._engine.shown(name)
        try:
            entry = await self._entry(name)
            if entry is None:
                problem = f"the entry {shown!r} has metadata, but no version: if it is not needed, {_REMOVE}"
                return problem if self._is_v2 else "", False
            text = self._text(name, entry)
        except PASSING:
            raise
        except TokenRefusedError:
            return "", False
        except KeyStoreError as error:
            return str(error), False
        if entry.deleted_at:
            problem = f"Vault deletes the key {name!r} at {entry.deleted_at}: copy it, and set delete_version_after=0s"
            return problem, is_rotated(text)
        return "", is_rotated(text)

    async def delete(self, name: str) -> None:
        engine, path = self._config.engine, self._engine.path(name)

        def delete(client: hvac.Client) -> Any:
            if self._is_v2:
                return client.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=engine)
            return client.secrets.kv.v1.delete_secret(path, mount_point=engine)

        shown = self._engine.shown(name, "metadata")
        try:
            await self._session.call(f"delete {shown}", delete)
        except InvalidPath as error:
            self._engine.expect_absence(error)
            return
        except TokenRefusedError:
            raise await self._engine.refused("delete", shown) from None

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        engine, path = self._config.engine, self._engine.path()

        def read(client: hvac.Client) -> Any:
            version = client.secrets.kv.v2 if self._is_v2 else client.secrets.kv.v1
            names = version.list_secrets(path, mount_point=engine)["data"]["keys"]
            # A name that ends in a slash is a folder, perhaps of another tenant.
            return [name for name in names if not name.endswith("/")]

        shown = self._engine.shown(kind="metadata")
        try:
            names = await self._session.call(f"list {shown}", read)
        except InvalidPath as error:
            self._engine.expect_absence(error)
            return Page([], "")
        except TokenRefusedError:
            raise await self._engine.refused("list", f"{shown}/") from None
        return page_of(names, prefix, start=start, limit=limit)


def _text_of(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return _BINARY + base64.b64encode(value).decode("ascii")
    # A text that looks like a marked form is marked too.
    if text.startswith((_BINARY, MARK)):
        return _BINARY + base64.b64encode(value).decode("ascii")
    return text


def _value_of(text: str) -> bytes:
    if text.startswith(_BINARY):
        return base64.b64decode(text.removeprefix(_BINARY))
    return text.encode("utf-8")

"""Keys in Vault's K/V engine, versions 1 and 2 (protocol section 6)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from hvac.exceptions import InvalidPath, InvalidRequest
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from kes_core import (
    KeyExistsError,
    KeyNotFoundError,
    KeyStore,
    KeyStoreError,
    KeyStoreReason,
    Page,
    page_of,
)
from kes_core.keystore import PAGE_SIZE
from kes_vault.errors import TokenRefusedError
from kes_vault.session import Session

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import VaultConfig

__all__ = ["VaultKeyStore", "connect"]

logger = logging.getLogger("kes.vault")

_STANDBY_DELAY: Final = 1.0
"""Seconds by which a standby that answers reads itself may be behind the active node."""
_FENCE: Final = (0.5, 5.0)
"""The shortest and the longest wait, in seconds, between a write over K/V v1 and the look at what became of it."""
_FENCE_FACTOR: Final = 3.0
"""How many times as long as the slowest of the recent writes that wait is."""
_RECENT_WRITES: Final = 100
_TRANSIT: Final = "vault:v"
_BINARY: Final = "binary:base64,"
"""Marks a value that is no text. Keys are text; only other stored values could be something else."""


async def connect(config: VaultConfig) -> VaultKeyStore:
    """Log in to Vault and see to it that the store can work.

    Raises:
        KeyStoreError: It can't, with a line that says what to do.
    """
    session = Session(config)
    store = VaultKeyStore(config, session)
    try:
        await session.start()
        await store.check()
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
        self._prefix = config.prefix
        self._write_times: deque[float] = deque(maxlen=_RECENT_WRITES)
        """How long the recent writes over K/V v1 took, in seconds."""
        self.health_interval = config.status.ping

    def __repr__(self) -> str:
        return f"<VaultKeyStore {self._config.engine!r} at {self._config.endpoint}>"

    def _path(self, name: str = "") -> str:
        return "/".join(part for part in (self._prefix, name) if part)

    def shown(self, name: str = "", kind: str = "data") -> str:
        """Return the path of an entry as Vault's policies write it."""
        parts = (self._config.engine, kind if self._is_v2 else "", self._path(name))
        return "/".join(part for part in parts if part)

    async def close(self) -> None:
        await self._session.close()

    async def status(self) -> None:
        await self._session.health()

    async def create(self, name: str, value: bytes) -> None:
        if not self._is_v2 and await self._exists(name):
            raise KeyExistsError(f"key {name!r} already exists")
        text = await self._seal(_text_of(value))
        try:
            await self._write(name, text)
        except TokenRefusedError:
            # Without the capability *update*, which no policy need grant, an entry that is there can't be written. And
            # who may create one, and is refused, is refused because of one that a standby may not know of yet.
            path = self.shown(name)
            if await self._exists(name) or (await self.capabilities(path))[path] & {"create", "root"}:
                raise KeyExistsError(f"key {name!r} already exists") from None
            raise self._lacking("create", self.shown(name)) from None
        if not self._is_v2:
            await self._settle(name, text)

    async def _settle(self, name: str, text: str) -> None:
        """See whose key is stored, once every write that began before ours ended should have ended too.

        K/V v1 has no check-and-set, and Vault checks *create* against *update* before it writes, not while it does: of
        two writes at once the later one stays. So whoever finds another's key has lost. What others than the creator
        need, that the store holds what it was given, is for the cache to see.
        """
        shortest, longest = _FENCE
        await asyncio.sleep(min(max(_FENCE_FACTOR * max(self._write_times), shortest), longest))
        stored = await self._read(name)
        if stored is None:
            raise KeyStoreError(f"Vault has taken the key {name!r} but does not give it back")
        if stored != text:
            logger.warning("key %r was created by two servers at once; the other one's is kept", name)
            raise KeyExistsError(f"key {name!r} already exists")

    async def _write(self, name: str, text: str) -> None:
        config, path = self._config, self._path(name)

        def write_v1(client: hvac.Client) -> Any:
            return client.secrets.kv.v1.create_or_update_secret(
                path, {name: text}, method="POST", mount_point=config.engine
            )

        def write_v2(client: hvac.Client) -> Any:
            try:
                return client.secrets.kv.v2.create_or_update_secret(
                    path, {name: text}, cas=0, mount_point=config.engine
                )
            except InvalidRequest as error:
                if "check-and-set" in str(error):
                    raise KeyExistsError(f"key {name!r} already exists") from None
                raise

        write = write_v2 if self._is_v2 else write_v1
        started = time.monotonic()
        try:
            await self._session.call(f"create {self.shown(name)}", write)
        except InvalidPath:
            raise KeyStoreError(self._not_mounted()) from None
        except KeyExistsError:
            if not await self._appears(name):
                raise KeyStoreError(
                    f"the entry {self.shown(name)!r} is deleted, but its metadata is still there: delete it too"
                ) from None
            raise
        finally:
            self._write_times.append(time.monotonic() - started)

    async def get(self, name: str) -> bytes:
        text = await self._read(name)
        if text is None:
            raise KeyNotFoundError(f"key {name!r} does not exist")
        return _value_of(await self._unseal(name, text))

    async def _exists(self, name: str) -> bool:
        return await self._read(name) is not None

    async def _appears(self, name: str) -> bool:
        """Tell whether there is an entry that Vault speaks of: a standby may be behind, and show it a moment later."""
        attempts = AsyncRetrying(
            retry=retry_if_result(lambda found: not found),
            stop=stop_after_delay(_STANDBY_DELAY),
            wait=wait_fixed(_STANDBY_DELAY / 10),
            retry_error_callback=lambda _state: False,
        )
        return await attempts(self._exists, name)

    async def _read(self, name: str) -> str | None:
        """Return what is stored, as it is stored; nothing if there is no entry."""
        engine, path = self._config.engine, self._path(name)

        def read(client: hvac.Client) -> Any:
            if self._is_v2:
                # The first version: nothing is ever written over it, but by somebody else.
                return client.secrets.kv.v2.read_secret_version(
                    path, version=1, mount_point=engine, raise_on_deleted_version=True
                )["data"]["data"]
            return client.secrets.kv.v1.read_secret(path, mount_point=engine)["data"]

        try:
            data = await self._session.call(f"read {self.shown(name)}", read)
        except InvalidPath as error:
            self._expect_absence(error)
            return None
        except TokenRefusedError:
            raise self._lacking("read", self.shown(name)) from None
        text = data.get(name) if isinstance(data, dict) else None
        if not isinstance(text, str):
            raise KeyStoreError(f"the entry {self.shown(name)!r} has no text in a field named {name!r}")
        return text

    def _expect_absence(self, error: InvalidPath) -> None:
        """See that Vault says of a path that there is nothing, without a reason: it has one if there is no engine.

        Raises:
            KeyStoreError: There is no engine.
        """
        if error.errors:
            raise KeyStoreError(self._not_mounted()) from None

    async def delete(self, name: str) -> None:
        engine, path = self._config.engine, self._path(name)

        def delete(client: hvac.Client) -> Any:
            if self._is_v2:
                return client.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=engine)
            return client.secrets.kv.v1.delete_secret(path, mount_point=engine)

        shown = self.shown(name, "metadata")
        try:
            await self._session.call(f"delete {shown}", delete)
        except InvalidPath as error:
            self._expect_absence(error)
            return
        except TokenRefusedError:
            raise self._lacking("delete", shown) from None

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        engine, path = self._config.engine, self._path()

        def read(client: hvac.Client) -> Any:
            version = client.secrets.kv.v2 if self._is_v2 else client.secrets.kv.v1
            return version.list_secrets(path, mount_point=engine)["data"]["keys"]

        shown = self.shown(kind="metadata")
        try:
            names = await self._session.call(f"list {shown}", read)
        except InvalidPath as error:
            self._expect_absence(error)
            return Page([], "")
        except TokenRefusedError:
            raise self._lacking("list", f"{shown}/") from None
        # What ends in a slash is a folder, of another tenant perhaps.
        return page_of((name for name in names if not str(name).endswith("/")), prefix, start=start, limit=limit)

    # Transit

    async def _seal(self, text: str) -> str:
        transit = self._config.transit
        if transit is None:
            return text
        plaintext = base64.b64encode(text.encode("utf-8")).decode("ascii")
        what = f"encrypt with the key {transit.key!r} of {transit.engine!r}"
        try:
            return await self._session.call(
                what,
                lambda client: str(
                    client.secrets.transit.encrypt_data(transit.key, plaintext=plaintext, mount_point=transit.engine)[
                        "data"
                    ]["ciphertext"]
                ),
            )
        except InvalidPath:
            raise KeyStoreError(f"Vault can't {what}: there is no transit engine or key of that name") from None

    async def _unseal(self, name: str, text: str) -> str:
        if not text.startswith(_TRANSIT):
            return text
        transit = self._config.transit
        if transit is None:
            raise KeyStoreError(f"key {name!r} is encrypted by Vault's transit engine: set keystore.vault.transit")
        what = f"decrypt with the key {transit.key!r} of {transit.engine!r}"
        try:
            plaintext = await self._session.call(
                what,
                lambda client: str(
                    client.secrets.transit.decrypt_data(transit.key, ciphertext=text, mount_point=transit.engine)[
                        "data"
                    ]["plaintext"]
                ),
            )
            return base64.b64decode(plaintext, validate=True).decode("utf-8")
        except InvalidPath:
            raise KeyStoreError(f"Vault can't {what}: there is no transit engine or key of that name") from None
        except (binascii.Error, UnicodeDecodeError):
            raise KeyStoreError(f"key {name!r} is not text once decrypted") from None

    # At the start

    async def check(self) -> None:
        """See to it that the engine is there, is of the configured version, and may be used.

        Raises:
            KeyStoreError: It can't be used.
        """
        await self.check_mount()
        await self._check_capabilities()

    async def check_mount(self) -> None:
        """See to it that the engine is there, and of the configured version.

        Raises:
            KeyStoreError: It is not.
        """
        engine = self._config.engine
        try:
            data = await self._session.call(
                f"look at the engine {engine!r}",
                lambda client: dict(client.adapter.get(f"/v1/sys/internal/ui/mounts/{engine}")["data"]),
            )
        except (TokenRefusedError, InvalidPath):
            raise KeyStoreError(self._not_mounted()) from None
        found = f"v{(data.get('options') or {}).get('version', '1')}"
        if data.get("type") not in {"kv", "generic"}:
            raise KeyStoreError(f"the engine at {engine!r} is {data.get('type')!r} and no K/V engine: set engine")
        if found != self._config.version:
            raise KeyStoreError(
                f"the K/V engine at {engine!r} is {found}, but version: {self._config.version} is configured: "
                f"set version: {found}"
            )

    async def _check_capabilities(self) -> None:
        """Look at what the token's policy allows: nothing works without *read*, and what else is missing is told."""
        needed = self.needed_capabilities()
        data = needed["read"]
        granted = await self.capabilities(*needed.values())

        def lacks(capability: str, path: str) -> bool:
            return not granted[path] & {capability, "root"}

        if lacks("read", data):
            raise self._lacking("read", self.shown("*"))
        for capability in [capability for capability, path in needed.items() if lacks(capability, path)]:
            kind = "data" if capability == "create" else "metadata"
            shown = self.shown("*" if capability != "list" else "", kind)
            logger.warning("%s; without it keys can't be %sd", self._lacking(capability, shown), _VERBS[capability])
        if not self._is_v2 and not lacks("update", data):
            logger.warning(
                "the policy of the token grants 'update' on %s: take it away; over K/V v1 that makes it less likely "
                "that servers which create one key at the same moment overwrite it; only K/V v2 rules it out",
                self.shown("*"),
            )

    def needed_capabilities(self) -> dict[str, str]:
        """Return what the token's policy should grant, each with a path at which Vault can be asked for it."""
        probe = "kes-capability-probe"
        data, metadata = self.shown(probe), self.shown(probe, "metadata")
        return {"read": data, "create": data, "delete": metadata, "list": self.shown(kind="metadata") + "/"}

    async def capabilities(self, *paths: str) -> dict[str, set[str]]:
        """Return what the token may do at each of the paths."""

        def ask(client: hvac.Client) -> dict[str, set[str]]:
            answer = client.adapter.post("/v1/sys/capabilities-self", json={"paths": paths})
            return {path: set(answer.get(path, ())) for path in paths}

        return await self._session.call("look at its capabilities", ask)

    def _lacking(self, capability: str, path: str) -> KeyStoreError:
        return KeyStoreError(
            f"the policy of Vault's token lacks the capability '{capability}' on {path!r}: grant it",
            reason=KeyStoreReason.FORBIDDEN,
        )

    def _not_mounted(self) -> str:
        return (
            f"no K/V engine is mounted at {self._config.engine!r}, or the token's policy grants nothing below it: run "
            f"'vault secrets enable -version={self._config.version[1:]} -path={self._config.engine} kv', or grant it"
        )


_VERBS: Final = {"create": "create", "delete": "delete", "list": "liste"}


def _text_of(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return _BINARY + base64.b64encode(value).decode("ascii")
    # What looks like one of the marked forms is marked itself.
    if text.startswith((_BINARY, _TRANSIT)):
        return _BINARY + base64.b64encode(value).decode("ascii")
    return text


def _value_of(text: str) -> bytes:
    if text.startswith(_BINARY):
        return base64.b64decode(text.removeprefix(_BINARY))
    return text.encode("utf-8")

"""The K/V engine that holds the keys: its paths, and what the token may do there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hvac.exceptions import InvalidPath

from kes_core import KeyStoreError, KeyStoreReason
from kes_vault.errors import TokenRefusedError

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import VaultConfig
    from kes_vault.session import Session

__all__ = ["Engine"]

logger = logging.getLogger("kes.vault")

_VERBS: Final = {"create": "create", "delete": "delete", "list": "liste"}


class Engine:
    """An engine, by the name that the configuration has for it."""

    def __init__(self, config: VaultConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._is_v2 = config.version == "v2"

    def path(self, name: str = "") -> str:
        return "/".join(part for part in (self._config.prefix, name) if part)

    def shown(self, name: str = "", kind: str = "data") -> str:
        """Return the path of an entry as Vault's policies write it."""
        parts = (self._config.engine, kind if self._is_v2 else "", self.path(name))
        return "/".join(part for part in parts if part)

    def expect_absence(self, error: InvalidPath) -> None:
        """See that Vault says of a path that there is nothing, without a reason: it has one if there is no engine.

        Raises:
            KeyStoreError: There is no engine.
        """
        if error.errors:
            raise KeyStoreError(self.not_mounted()) from None

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
            raise KeyStoreError(self.not_mounted()) from None
        found = f"v{(data.get('options') or {}).get('version', '1')}"
        if data.get("type") not in {"kv", "generic"}:
            raise KeyStoreError(f"the engine at {engine!r} is {data.get('type')!r} and no K/V engine: set engine")
        if found != self._config.version:
            raise KeyStoreError(
                f"the K/V engine at {engine!r} is {found}, but version: {self._config.version} is configured: "
                f"set version: {found}"
            )
        mount = str(data.get("path") or engine).strip("/")
        if self._is_v2 and mount != engine:  # entries of v2 lie below "data", which a folder in between would shift
            prefix = f"{engine}/{self._config.prefix}".removeprefix(f"{mount}/").strip("/")
            raise KeyStoreError(f"the K/V engine is mounted at {mount!r}: set engine: {mount}, prefix: {prefix}")

    async def _check_capabilities(self) -> None:
        """Look at what the token's policy allows: nothing works without *read*, and what else is missing is told."""
        needed = self.needed_capabilities()
        data = needed["read"]
        granted = await self.capabilities(*needed.values())

        def lacks(capability: str, path: str) -> bool:
            return not granted[path] & {capability, "root"}

        if lacks("read", data):
            raise self.lacking("read", self.shown("*"))
        for capability in [capability for capability, path in needed.items() if lacks(capability, path)]:
            kind = "data" if capability == "create" else "metadata"
            shown = self.shown("*" if capability != "list" else "", kind)
            logger.warning("%s; without it keys can't be %sd", self.lacking(capability, shown), _VERBS[capability])
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

    def lacking(self, capability: str, path: str) -> KeyStoreError:
        return KeyStoreError(
            f"the policy of Vault's token lacks the capability '{capability}' on {path!r}: grant it",
            reason=KeyStoreReason.FORBIDDEN,
        )

    def not_mounted(self) -> str:
        return (
            f"no K/V engine is mounted at {self._config.engine!r}, or the token's policy grants nothing below it: run "
            f"'vault secrets enable -version={self._config.version[1:]} -path={self._config.engine} kv', or grant it"
        )

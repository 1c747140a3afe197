"""The K/V engine with the keys: its paths, and what the token may do there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hvac.exceptions import InvalidPath

from kes_core import KeyStoreError
from kes_vault.auth import path_prefix_of
from kes_vault.errors import CapabilitiesUnknownError, CapabilityLackingError, TokenRefusedError
from kes_vault.session import MOUNTS

if TYPE_CHECKING:
    import hvac

    from kes_vault.config import VaultConfig
    from kes_vault.session import Session

__all__ = ["Engine"]

logger = logging.getLogger("kes.vault")

_MATTERS: Final = {
    "read": "keys can't be used, unless the policy grants it for their names",
    "create": "keys can't be created, unless the policy grants it for their names",
    "delete": "keys can't be deleted, unless the policy grants it for their names",
    "list": "keys can't be listed",
}
_CAPABILITIES: Final = "sys/capabilities-self"


class Engine:
    """The engine that the configuration names."""

    def __init__(self, config: VaultConfig, session: Session) -> None:
        self._config = config
        self._session = session
        self._is_v2 = config.version == "v2"

    def path(self, name: str = "") -> str:
        return "/".join(part for part in (self._config.prefix, name) if part)

    def shown(self, name: str = "", kind: str = "data") -> str:
        """Return the path of an entry in the form of Vault's policies."""
        parts = (self._config.engine, kind if self._is_v2 else "", self.path(name))
        return "/".join(part for part in parts if part)

    def expect_absence(self, error: InvalidPath) -> None:
        """Check that a 404 means that the entry does not exist. If the engine does not exist, Vault gives a reason.

        Raises:
            KeyStoreError: The engine does not exist.
        """
        if error.errors:
            raise KeyStoreError(self.not_mounted()) from None

    async def check(self) -> None:
        """Check that the engine is mounted with the configured version, and log what the token may not do there.

        Raises:
            KeyStoreError: The engine is not mounted, or has another version.
        """
        await self.check_mount()
        try:
            await self._check_capabilities()
        except CapabilitiesUnknownError as error:
            logger.warning("%s", error)

    async def check_mount(self) -> None:
        """Check that the engine is mounted with the configured version.

        Raises:
            KeyStoreError: It is not.
        """
        engine = self._config.engine
        try:
            data = await self._session.call(
                f"look at the engine {engine!r}",
                lambda client: dict(client.adapter.get(f"/v1/{MOUNTS}/{engine}")["data"]),
            )
        except (TokenRefusedError, InvalidPath):
            raise KeyStoreError(self.not_mounted()) from None
        found = f"v{(data.get('options') or {}).get('version', '1')}"
        if data.get("type") not in {"kv", "generic"}:
            raise KeyStoreError(f"the engine at {engine!r} is {data.get('type')!r}, not a K/V engine: set engine")
        if found != self._config.version:
            raise KeyStoreError(
                f"the K/V engine at {engine!r} is {found}, but version: {self._config.version} is configured: "
                f"set version: {found}"
            )
        mount = str(data.get("path") or engine).strip("/")
        if self._is_v2 and mount != engine:  # entries of v2 are below "data", directly after the mount
            prefix = f"{engine}/{self._config.prefix}".removeprefix(f"{mount}/").strip("/")
            raise KeyStoreError(f"the K/V engine is mounted at {mount!r}: set engine: {mount}, prefix: {prefix}")

    async def _check_capabilities(self) -> None:
        """Log the missing capabilities of the token. The policy may still grant them for the names in use."""
        needed = self.needed_capabilities()
        granted = await self.capabilities(*needed.values())

        def lacks(capability: str, path: str) -> bool:
            return not granted[path] & {capability, "root"}

        for capability in [capability for capability, path in needed.items() if lacks(capability, path)]:
            kind = "data" if capability in {"read", "create"} else "metadata"
            shown = self.shown("*" if capability != "list" else "", kind)
            logger.warning("%s; without it %s", self.lacking(capability, shown), _MATTERS[capability])
        if not self._is_v2 and not lacks("update", needed["read"]):
            logger.warning(
                "the policy of the token grants 'update' on %s: remove it; over K/V v1 that makes it less likely "
                "that servers which create one key at the same moment overwrite it; only K/V v2 rules it out",
                self.shown("*"),
            )

    def needed_capabilities(self) -> dict[str, str]:
        """Return the capabilities that the policy should grant, each with a path at which to look it up."""
        probe = "kes-capability-probe"
        data, metadata = self.shown(probe), self.shown(probe, "metadata")
        return {"read": data, "create": data, "delete": metadata, "list": self.shown(kind="metadata") + "/"}

    async def capabilities(self, *paths: str) -> dict[str, set[str]]:
        """Return what the token may do at each of the paths.

        Raises:
            CapabilitiesUnknownError: The token may not ask.
            KeyStoreError: Vault does not answer.
        """

        def ask(client: hvac.Client) -> dict[str, set[str]]:
            answer = client.adapter.post(f"/v1/{_CAPABILITIES}", json={"paths": paths})
            return {path: set(answer.get(path, ())) for path in paths}

        try:
            return await self._session.call("look at its capabilities", ask)
        except TokenRefusedError:
            path = path_prefix_of(self._config) + _CAPABILITIES
            raise CapabilitiesUnknownError(
                "the token for Vault may not look up its own capabilities, so the server can't check its policy: "
                f"grant 'update' on {path!r}"
            ) from None

    def lacking(self, capability: str, path: str) -> CapabilityLackingError:
        """Return the error for a capability that the policy of the token does not grant."""
        path = path_prefix_of(self._config) + path
        return CapabilityLackingError(
            f"the policy of Vault's token lacks the capability '{capability}' on {path!r}: grant it"
        )

    async def refused(self, capability: str, path: str, other: str = "") -> TokenRefusedError:
        """Return the error for a call that Vault refused with status 403.

        Args:
            capability: What the call needs: "read", "create", "list" or "delete".
            path: Where, as `shown` returns it, with a slash at its end for "list".
            other: Another possible reason, as the end of a sentence.
        """
        try:
            granted = (await self.capabilities(path))[path]
        except CapabilitiesUnknownError:
            cause = f"the policy lacks '{capability}' there, or has a rule for parameters or wrapping"
        else:
            if not granted & {capability, "root"}:
                return self.lacking(capability, path)
            cause = f"the policy grants '{capability}', so the reason may be its rules for parameters or wrapping"
        path = path_prefix_of(self._config) + path
        return TokenRefusedError(f"Vault refuses to {capability} {path!r}: {cause}{other}")

    def not_mounted(self) -> str:
        return (
            f"no K/V engine is mounted at {self._config.engine!r}, or the token's policy grants nothing below it: run "
            f"'vault secrets enable -version={self._config.version[1:]} -path={self._config.engine} kv', or grant it"
        )

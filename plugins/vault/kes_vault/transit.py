"""Vault's transit engine, which encrypts stored values if it is configured."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from hvac.exceptions import InvalidPath

from kes_core import KeyStoreError

if TYPE_CHECKING:
    from kes_vault.config import TransitConfig
    from kes_vault.session import Session

__all__ = ["MARK", "Transit", "is_rotated"]

MARK: Final = "vault:v"
"""The beginning of an encrypted value. The version of the transit key follows."""


def is_rotated(text: str) -> bool:
    """Tell whether a later version of the transit key than 1 encrypted a value. The Go server can't read it."""
    return text.startswith(MARK) and not text.startswith(f"{MARK}1:")


class Transit:
    """Encrypts and decrypts values with the configured key; leaves them unchanged without one."""

    def __init__(self, config: TransitConfig | None, session: Session) -> None:
        self._config = config
        self._session = session

    async def encrypt(self, text: str) -> str:
        """Return `text` in the form to store.

        Raises:
            KeyStoreError: Vault can't encrypt it.
        """
        transit = self._config
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

    async def decrypt(self, name: str, text: str) -> str:
        """Return the text that `encrypt` got; if `text` is not encrypted, return it unchanged.

        Raises:
            KeyStoreError: Vault can't decrypt the value of the key `name`.
        """
        if not text.startswith(MARK):
            return text
        transit = self._config
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

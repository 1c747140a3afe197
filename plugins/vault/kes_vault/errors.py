"""From the errors of hvac and its HTTP library to the core's, with a line that says what to do."""

from __future__ import annotations

import hvac.exceptions as vault
import requests

from kes_core import KeyStoreError, KeyStoreUnreachableError

__all__ = ["TokenRefusedError", "reason_of", "translate"]

_MAX_REASON = 200


class TokenRefusedError(KeyStoreError):
    """Vault has refused a request: the token is not valid, or its policy does not allow the request."""


def reason_of(error: vault.VaultError) -> str:
    """Return what Vault itself says, in one short line. It never repeats a token or a value."""
    text = "; ".join(str(line) for line in (error.errors or [])) or type(error).__name__
    return " ".join(text.split())[:_MAX_REASON]


def translate(error: Exception, what: str, endpoint: str) -> KeyStoreError:
    """Return the error of the core for one of a request.

    Args:
        error: What hvac or requests raised. None of it is passed on as it is: it may hold the request.
        what: What was tried, as in "read kv/data/my-key".
        endpoint: The URL of Vault.
    """
    if isinstance(error, requests.exceptions.RequestException):
        return _of_connection(error, what, endpoint)
    if isinstance(error, vault.VaultDown):
        return KeyStoreUnreachableError(f"Vault at {endpoint} is sealed or in maintenance: unseal it")
    if isinstance(error, vault.VaultNotInitialized):
        return KeyStoreUnreachableError(f"Vault at {endpoint} is not initialized: run 'vault operator init'")
    if isinstance(error, vault.Forbidden | vault.Unauthorized):
        return TokenRefusedError(f"Vault refuses to {what}: the policy of the token does not allow it")
    reason = reason_of(error) if isinstance(error, vault.VaultError) else type(error).__name__
    if "node not active" in reason:
        return KeyStoreUnreachableError(f"Vault at {endpoint} has no active node at the moment")
    return KeyStoreError(f"Vault fails to {what}: {reason}")


def _of_connection(error: requests.exceptions.RequestException, what: str, endpoint: str) -> KeyStoreError:
    if isinstance(error, requests.exceptions.SSLError):
        return KeyStoreError(f"the certificate of Vault at {endpoint} is not trusted: set tls.ca to its CA")
    if isinstance(error, requests.exceptions.Timeout):
        return KeyStoreUnreachableError(f"Vault at {endpoint} does not answer in time (tried to {what})")
    return KeyStoreUnreachableError(f"Vault at {endpoint} can't be reached (tried to {what})")

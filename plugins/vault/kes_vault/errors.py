"""Translate errors of hvac and its HTTP library to the core's, with a line that says what to do."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import hvac.exceptions as vault
import requests

from kes_core import KeyStoreError, KeyStoreReason, KeyStoreThrottledError, KeyStoreUnreachableError
from kes_core.errors import causes_of, connection_problem
from kes_vault.transport import ForeignAnswerError, GatewayError, RedirectError

if TYPE_CHECKING:
    from kes_vault.config import VaultConfig

__all__ = [
    "PASSING",
    "CapabilitiesUnknownError",
    "CapabilityLackingError",
    "SealedError",
    "StandbyError",
    "TokenRefusedError",
    "UninitializedError",
    "login_problem",
    "not_initialized",
    "reason_of",
    "sealed",
    "standby",
    "translate",
]

PASSING: Final = (KeyStoreUnreachableError, KeyStoreThrottledError)
"""Errors that pass by themselves: a later attempt may succeed."""
_MAX_REASON: Final = 200
_EXPIRED: Final = 10
_MISMATCHES: Final = frozenset({62, 64})  # of the host name, of the IP address: openssl/x509_vfy.h
_NEEDS_TLS: Final = b"Client sent an HTTP request to an HTTPS server"
"""The answer of a Go server to plain HTTP on its TLS port (net/http), with status 400."""


class TokenRefusedError(KeyStoreError):
    """Vault refused a request: the token is not valid, or its policy does not allow the request."""

    default_reason = KeyStoreReason.FORBIDDEN
    is_token_invalid = False
    """Whether Vault says that the token is not valid. Older versions of Vault do not say which it is."""


class CapabilityLackingError(TokenRefusedError):
    """The policy of the token certainly does not grant what a request needs."""


class CapabilitiesUnknownError(TokenRefusedError):
    """The token may not ask Vault what its policy grants."""


class SealedError(KeyStoreUnreachableError):
    """Vault is sealed."""

    default_reason = KeyStoreReason.LOCKED


class UninitializedError(KeyStoreUnreachableError):
    """Vault was never set up."""

    default_reason = KeyStoreReason.LOCKED


class StandbyError(KeyStoreUnreachableError):
    """A standby answers, and knows no active node to forward requests to."""


def sealed(endpoint: str) -> SealedError:
    """Return the error for a Vault that is sealed."""
    return SealedError(f"Vault at {endpoint} is sealed: unseal it")


def not_initialized(endpoint: str) -> UninitializedError:
    """Return the error for a Vault that was never set up."""
    return UninitializedError(f"Vault at {endpoint} is not initialized: run 'vault operator init'")


def standby(endpoint: str) -> StandbyError:
    """Return the error for a standby that knows no active node."""
    return StandbyError(f"Vault at {endpoint} is a standby without an active node")


def reason_of(error: vault.VaultError) -> str:
    """Return Vault's own reason, in one short line. Vault never repeats a token or a value there."""
    text = "; ".join(str(line) for line in (error.errors or [])) or type(error).__name__
    return " ".join(text.split())[:_MAX_REASON]


def translate(error: Exception, what: str, endpoint: str) -> KeyStoreError:
    """Return the core's error for a failed request.

    Args:
        error: What hvac or requests raised. Its text is not passed on, because it may hold the request.
        what: What was tried, as in "read kv/data/my-key".
        endpoint: The URL of Vault.
    """
    if isinstance(error, requests.exceptions.RequestException):
        return _of_connection(error, what, endpoint)
    if not isinstance(error, vault.VaultError) or (isinstance(error, vault.InvalidPath) and error.errors is None):
        return _misconfigured(
            f"the server at {endpoint} does not answer like Vault (tried to {what}): set endpoint to Vault's address"
        )
    if isinstance(error, vault.Forbidden | vault.Unauthorized):
        refusal = TokenRefusedError(f"Vault refuses to {what}: the policy of the token does not allow it")
        refusal.is_token_invalid = "invalid token" in reason_of(error)
        return refusal
    reason = reason_of(error)
    if (outage := _outage(error, reason, endpoint)) is not None:
        return outage
    if isinstance(error, vault.RateLimitExceeded):
        return KeyStoreThrottledError(f"Vault at {endpoint} has had too many requests: raise its rate limit quota")
    return KeyStoreError(f"Vault fails to {what}: {reason}")


def _outage(error: Exception, reason: str, endpoint: str) -> KeyStoreUnreachableError | None:
    """Return the error if an answer means that Vault can't serve at the moment."""
    if isinstance(error, vault.VaultNotInitialized):
        return not_initialized(endpoint)
    if isinstance(error, vault.VaultDown) and "sealed" in reason:
        return sealed(endpoint)
    if "node not active" in reason:
        return standby(endpoint)
    if isinstance(error, vault.VaultDown):
        problem = "is not available at the moment (status 503)"
    elif "unavailable for a brief period" in reason:
        problem = "is still upgrading the K/V engine to version 2"
    else:
        return None
    return KeyStoreUnreachableError(f"Vault at {endpoint} {problem}")


def _of_connection(error: requests.exceptions.RequestException, what: str, endpoint: str) -> KeyStoreError:
    causes = list(causes_of(error))
    problem = connection_problem(causes)
    untrusted = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return _misconfigured(f"the certificate of Vault at {endpoint} {_what_is_wrong_with(untrusted)}")
    if isinstance(error, RedirectError | requests.exceptions.TooManyRedirects):
        return _misconfigured(f"Vault at {endpoint} redirects requests: set endpoint to the address of Vault itself")
    if isinstance(error, GatewayError | ForeignAnswerError):
        return _of_foreign_answer(error, what, endpoint)
    if isinstance(error, requests.exceptions.Timeout):
        return KeyStoreUnreachableError(f"Vault at {endpoint} does not answer in time (tried to {what})")
    return KeyStoreUnreachableError(f"Vault at {endpoint} can't be reached: {problem} (tried to {what})")


def _of_foreign_answer(error: requests.exceptions.RequestException, what: str, endpoint: str) -> KeyStoreError:
    if isinstance(error, GatewayError):
        return KeyStoreUnreachableError(f"the proxy in front of Vault at {endpoint} gets no answer (tried to {what})")
    assert error.response is not None
    if _NEEDS_TLS in error.response.content:
        return _misconfigured(f"Vault at {endpoint} expects TLS: let endpoint begin with https://")
    return KeyStoreUnreachableError(
        f"the server at {endpoint} does not answer like Vault (status {error.response.status_code}, tried to {what}): "
        "look at the proxy in front of Vault, or set endpoint to Vault's address"
    )


def _misconfigured(message: str) -> KeyStoreError:
    return KeyStoreError(message, reason=KeyStoreReason.MISCONFIGURED)


def _what_is_wrong_with(certificate: ssl.SSLCertVerificationError) -> str:
    if certificate.verify_code == _EXPIRED:
        return "has expired: renew it, or its CA in tls.ca"
    if certificate.verify_code in _MISMATCHES:
        return "is for another host: set endpoint to a name that is in the certificate, or put the host's into it"
    return "is not trusted: set tls.ca to its CA"


def login_problem(error: Exception, config: VaultConfig) -> KeyStoreError:
    """Return the error of a failed login: what it can be, and how to see which."""
    if isinstance(error, KeyStoreError):
        return error
    translated = translate(error, "log in", config.endpoint)
    if isinstance(translated, PASSING) or not isinstance(error, vault.VaultError):
        return translated
    if isinstance(error, vault.InvalidPath | vault.Forbidden) and "no handler" in reason_of(error):
        text = "login to Vault failed: the authentication method is not enabled at its engine path"
    elif config.approle is not None and "invalid role or secret ID" in reason_of(error):
        path = f"auth/{config.approle.engine}/role/ROLE/secret-id/lookup"
        text = (
            "login to Vault failed: invalid role or secret ID: the secret ID has expired, is used up, or belongs "
            f"to another role or namespace; see 'vault write {path} secret_id=...'"
        )
    else:
        text = f"login to Vault failed: {reason_of(error)}; check role, credentials and namespace"
    return KeyStoreError(text, reason=KeyStoreReason.FORBIDDEN)

"""From the errors of hvac and its HTTP library to the core's, with a line that says what to do."""

from __future__ import annotations

import ssl

import hvac.exceptions as vault
import requests

from kes_core import KeyStoreError, KeyStoreReason, KeyStoreUnreachableError
from kes_vault.transport import ForeignAnswerError, GatewayError, RedirectError

__all__ = ["TokenRefusedError", "not_initialized", "reason_of", "sealed", "standby", "translate"]

_MAX_REASON = 200
_MAX_CHAIN = 50
_EXPIRED = 10
_MISMATCHES = frozenset({62, 64})  # of the host name, of the IP address: openssl/x509_vfy.h


class TokenRefusedError(KeyStoreError):
    """Vault has refused a request: the token is not valid, or its policy does not allow the request."""

    default_reason = KeyStoreReason.FORBIDDEN
    is_token_invalid = False
    """Whether Vault says that it is the token. Older ones say the same of both."""


def sealed(endpoint: str) -> KeyStoreUnreachableError:
    """Return the error for a Vault that is sealed."""
    return KeyStoreUnreachableError(f"Vault at {endpoint} is sealed: unseal it", reason=KeyStoreReason.SEALED)


def not_initialized(endpoint: str) -> KeyStoreUnreachableError:
    """Return the error for a Vault that has never been set up."""
    return KeyStoreUnreachableError(
        f"Vault at {endpoint} is not initialized: run 'vault operator init'", reason=KeyStoreReason.UNINITIALIZED
    )


def standby(endpoint: str) -> KeyStoreUnreachableError:
    """Return the error for a node that knows of no active one to pass requests on to."""
    return KeyStoreUnreachableError(
        f"Vault at {endpoint} is a standby without an active node", reason=KeyStoreReason.STANDBY
    )


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
    if not isinstance(error, vault.VaultError) or (isinstance(error, vault.InvalidPath) and error.errors is None):
        return KeyStoreError(f"what answers at {endpoint} is no Vault (tried to {what}): set endpoint to its address")
    if isinstance(error, vault.Forbidden | vault.Unauthorized):
        refusal = TokenRefusedError(f"Vault refuses to {what}: the policy of the token does not allow it")
        refusal.is_token_invalid = "invalid token" in reason_of(error)
        return refusal
    reason = reason_of(error)
    return _outage(error, reason, endpoint) or KeyStoreError(f"Vault fails to {what}: {reason}")


def _outage(error: Exception, reason: str, endpoint: str) -> KeyStoreUnreachableError | None:
    """Return the error for an answer that says that Vault can't serve at the moment."""
    if isinstance(error, vault.VaultNotInitialized):
        return not_initialized(endpoint)
    if isinstance(error, vault.VaultDown) and "sealed" in reason:
        return sealed(endpoint)
    if "node not active" in reason:
        return standby(endpoint)
    if isinstance(error, vault.VaultDown):
        problem = "is not available at the moment (status 503)"
    elif isinstance(error, vault.RateLimitExceeded):
        problem = "has had too many requests: raise its rate limit quota"
    elif "unavailable for a brief period" in reason:
        problem = "is still upgrading the K/V engine to version 2"
    else:
        return None
    return KeyStoreUnreachableError(f"Vault at {endpoint} {problem}")


def _of_connection(error: requests.exceptions.RequestException, what: str, endpoint: str) -> KeyStoreError:
    untrusted = _verification_error(error)
    if untrusted is not None:
        return KeyStoreError(f"the certificate of Vault at {endpoint} {_what_is_wrong_with(untrusted)}")
    if isinstance(error, RedirectError | requests.exceptions.TooManyRedirects):
        return KeyStoreError(
            f"Vault at {endpoint} sends requests elsewhere: set endpoint to the address of Vault itself"
        )
    if isinstance(error, GatewayError):
        return KeyStoreUnreachableError(f"what is in front of Vault at {endpoint} gets no answer (tried to {what})")
    if isinstance(error, ForeignAnswerError) and error.response is not None:
        return KeyStoreUnreachableError(
            f"what answers at {endpoint} is no Vault (status {error.response.status_code}, tried to {what}): look at "
            "what is in front of Vault, or set endpoint to its address"
        )
    if isinstance(error, requests.exceptions.Timeout):
        return KeyStoreUnreachableError(f"Vault at {endpoint} does not answer in time (tried to {what})")
    return KeyStoreUnreachableError(f"Vault at {endpoint} can't be reached (tried to {what})")


def _what_is_wrong_with(certificate: ssl.SSLCertVerificationError) -> str:
    if certificate.verify_code == _EXPIRED:
        return "has expired: renew it, or its CA in tls.ca"
    if certificate.verify_code in _MISMATCHES:
        return "is for another host: set endpoint to a name that is in the certificate, or put the host's into it"
    return "is not trusted: set tls.ca to its CA"


def _verification_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return what TLS says of Vault's certificate. Other failures of a handshake are those of the network."""
    seen = 0
    pending = [error]
    while pending and seen < _MAX_CHAIN:
        current = pending.pop()
        seen += 1
        if isinstance(current, ssl.SSLCertVerificationError):
            return current
        if current is not None:
            wrapped = [*current.args, getattr(current, "reason", None), current.__cause__, current.__context__]
            pending += [item for item in wrapped if isinstance(item, BaseException)]
    return None
